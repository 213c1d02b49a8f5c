// Sparse execution: the same numbers as the dense product of the pruned matrices, FLOPs of what is kept, the choice of layouts.
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { noGrad } from '../../lib/autograd/tape'
import { GPT } from '../../lib/models/gpt'
import { Linear } from '../../lib/nn/linear'
import { SparseWeight, toTwoOfFour } from '../../lib/nn/sparse_weight'
import { mul } from '../../lib/ops/elementwise'
import { matmul } from '../../lib/ops/matmul'
import { randn } from '../../lib/ops/random'
import { pruneMagnitude } from '../../lib/techniques/prune'
import { crossovers, packSparse } from '../../lib/techniques/sparse_execution'
import { groupMask } from '../../lib/techniques/sr_ste'
import { getDevice } from '../../lib/tensor/device'
import { Generator } from '../../lib/tensor/random'
import { scope } from '../../lib/tensor/scope'
import { tensor } from '../../lib/tensor/tensor'
import { loadCompressed, saveCompressed } from '../../lib/train/compressed'
import { relative } from '../support/goldens'
import { tinyConfig } from '../support/tiny_gpt'

const ids = () => tensor(Int32Array.from({ length: 32 }, (_, i) => (i * 7) % 31), [2, 16])
const logits = (model: GPT) => scope(() => noGrad(() => model.eval().call(ids()))).toFloat64()

async function flopsOf(run: () => unknown): Promise<number> {
  const device = getDevice()
  const before = (await device.synchronize()).flops
  scope(() => void run())
  return (await device.synchronize()).flops - before
}

test.each(['csr', 'rows2', 'rows4', '2:4'] as const)('%s: the numbers of the dense product, the FLOPs of what is kept; saved and opened', async (layout) => {
  const build = () => new GPT({ ...tinyConfig, bias: true }, { generator: new Generator(3) })
  for (const precision of ['f32', 'bf16'] as const) {
    const model = build().setComputeDType(precision)
    const layers = model.namedModules().flatMap(([name, module]) => (/blocks.*(qkv|out|up|down)$/.test(name) ? [module as unknown as Linear] : []))
    if (layout === '2:4') for (const { weight } of layers) scope(() => noGrad(() => weight.set(mul(weight.tensor, groupMask(weight.tensor)))))
    else pruneMagnitude(model, 0.9, 'layer')
    const dense = await logits(model)
    const { layers: packed, multiplications } = await packSparse(model, { layout })
    expect(Object.keys(packed)).toHaveLength(8)
    expect(layers.every((layer) => layer.packed instanceof SparseWeight)).toBe(true)
    const sparse = await logits(model)
    expect(relative(sparse, dense)).toBeLessThan(precision === 'f32' ? 1e-5 : 0.03)
    if (layout === 'csr') expect(multiplications.after / multiplications.before).toBeCloseTo(0.1, 3)
    if (layout === '2:4') expect(multiplications.after / multiplications.before).toBe(0.5)
    const [layer] = layers
    const x = randn([5, 32], { generator: new Generator(4) })
    expect(await flopsOf(() => noGrad(() => layer.product(x)))).toBe(2 * 5 * (layer.packed as SparseWeight).kept)
    const folder = await mkdtemp(path.join(tmpdir(), 'sparse-'))
    try {
      await saveCompressed(folder, model)
      const again = (await loadCompressed(folder, (config: never) => new GPT(config))).setComputeDType(precision)
      expect(await logits(again)).toEqual(sparse)
      again.dispose()
    } finally {
      await rm(folder, { recursive: true })
    }
    model.dispose()
  }
})

test('a layout is chosen where it is expected to be faster, and no other matrix is touched', async () => {
  for (const [sparsity, wanted] of [[0.5, undefined], [1 - crossovers.csr - 0.02, undefined], [1 - crossovers.csr + 0.05, 'csr']] as const) {
    const model = new GPT(tinyConfig)
    pruneMagnitude(model, sparsity, 'layer')
    const { layers } = await packSparse(model)
    expect(new Set(Object.values(layers).map(({ layout }) => layout))).toEqual(new Set(wanted ? [wanted] : []))
    model.dispose()
  }
  // Where rows go in fours, four are kept together.
  const model = new GPT(tinyConfig)
  for (const [name, parameter] of model.namedParameters()) {
    if (!/blocks.*(qkv|out|up|down)\.weight$/.test(name)) continue
    const [out, inner] = parameter.shape
    parameter.set(tensor(Float32Array.from({ length: out * inner }, (_, i) => ((Math.floor(i / inner / 4) * 5 + (i % inner)) % 4 === 0 ? 0.1 : 0)), [out, inner]))
  }
  const { layers } = await packSparse(model)
  expect(new Set(Object.values(layers).map(({ layout, kept }) => `${layout} ${kept}`))).toEqual(new Set(['rows4 0.25']))
  model.dispose()
})

test('a gradient of the input flows through the unfolded matrix; three of four are not 2:4', async () => {
  const { backward } = await import('../../lib/autograd/backward')
  const { sum } = await import('../../lib/ops/reductions')
  const { setRequiresGrad } = await import('../../lib/tensor/tensor')
  const layer = new Linear(8, 6)
  const w = await mul(layer.weight.tensor, groupMask(layer.weight.tensor)).toFloat32()
  layer.pack(new SparseWeight(toTwoOfFour(w, [6, 8])!, [6, 8], '2:4', getDevice()))
  const x = setRequiresGrad(randn([3, 8], { generator: new Generator(7) }))
  const delta = randn([3, 6], { generator: new Generator(8) })
  scope(() => backward(sum(mul(layer.call(x), delta))))
  expect(relative(await x.grad!.toFloat64(), await noGrad(() => matmul(delta, tensor(w, [6, 8]))).toFloat64())).toBeLessThan(1e-6)
  expect(toTwoOfFour(Float32Array.of(1, 2, 3, 0), [1, 4])).toBeNull()
  expect(toTwoOfFour(Float32Array.of(1, 2, 3), [1, 3])).toBeNull()
})
