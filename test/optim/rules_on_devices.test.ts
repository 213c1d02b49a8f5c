// The updates of api/optimizer_rules.h, lamb, lars, the 8-bit AdamW and SAM's move on every device against the CPU's: sizes
// beside whole packs and chunks, more tensors than go into one launch, 16-bit copies, clipped and skipped steps.
import type { OpName } from '../../lib/native/ops.gen'
import type { DType } from '../../lib/native/dtype'
import { getDevice, type Device } from '../../lib/tensor/device'
import { keep, scope } from '../../lib/tensor/scope'
import { run, run1, tensor, type Tensor } from '../../lib/tensor/tensor'
import { testDevices } from '../support/devices'

type Attrs = Record<string, number | boolean>
const sizes = [5000, 3, 0, 8192, 1, 4097, ...new Array<number>(490).fill(5)]
const wave = (seed: number, size: number, scale = 1) => Float64Array.from({ length: size }, (_, i) => scale * Math.sin(seed + 1.7 * i))

const cases: [OpName, number, Attrs][] = [
  ['adam', 2, { lr: 0.01, beta1: 0.9, beta2: 0.99, eps: 1e-8, l2: 0.01, weight_decay: 0.1 }],
  ['amsgrad', 3, { lr: 0.01, beta1: 0.9, beta2: 0.99, eps: 1e-8, l2: 0, weight_decay: 0.1 }],
  ['lion', 1, { lr: 0.01, beta1: 0.9, beta2: 0.99, weight_decay: 0.1 }],
  ['sophia', 2, { lr: 0.01, beta1: 0.9, scale: 4, weight_decay: 0.1 }],
  ['schedule_free_adamw', 2, { lr: 0.01, beta1: 0.9, beta2: 0.99, eps: 1e-8, weight_decay: 0.1, average: 0.3 }],
  ['nesterov', 1, { lr: 0.1, momentum: 0.9, l2: 0.01 }],
  ['scaled_add', 0, { decay: 0.9, factor: 0.5 }],
  ['lerp', 0, { rate: 0.3 }],
  ['lerp_square', 0, { rate: 0.3 }],
  ['lamb', 2, { lr: 0.01, beta1: 0.9, beta2: 0.99, eps: 1e-6, weight_decay: 0.1, max_trust: 10, adapt: true }],
  ['lars', 1, { lr: 0.1, momentum: 0.9, trust: 0.01, weight_decay: 0.1, clip_rate: false, adapt: true }],
]
const withStep = ['adam', 'amsgrad', 'schedule_free_adamw', 'lamb']

/** Parameters and states, then copies, after two updates, a skipped one, and one without a clip tensor. */
async function follow(device: Device, op: OpName, states: number, attrs: Attrs, dtype: DType): Promise<Float64Array[]> {
  const make = (values: Float64Array, format: DType = dtype) => keep(tensor(values, null, { dtype: format, device }))
  const parameters = sizes.map((size, i) => make(wave(i, size)))
  const state = new Array(states).fill(0).flatMap((_, k) => sizes.map((size) => make(wave(k, size, 0.01).map(Math.abs))))
  const copies = dtype === 'f32' ? sizes.map((size, i) => (i % 3 === 2 ? null : make(new Float64Array(size), i % 3 ? 'f16' : 'bf16'))) : []
  for (let step = 1; step <= 4; ++step) {
    scope(() => {
      const grads = sizes.map((size, i) => tensor(wave(i + 10 * step, size, 0.01), null, { dtype, device }))
      const clip = step === 4 ? null : tensor([0.5, step === 3 ? 1 : 0], null, { dtype, device })
      const all: (Tensor | null)[] = [clip, ...parameters, ...grads, ...state, ...copies]
      run(op, all as Tensor[], { count: sizes.length, ...attrs, ...(withStep.includes(op) ? { step } : {}) } as never)
    })
  }
  const values: Float64Array[] = []
  for (const one of [...parameters, ...state, ...copies]) if (one) values.push(await one.toFloat64())
  for (const one of [...parameters, ...state, ...copies]) one?.dispose()
  return values
}

function expectSame(got: Float64Array[], wanted: Float64Array[], allowed: (i: number) => number): void {
  expect(got).toHaveLength(wanted.length)
  got.forEach((values, i) => {
    const worst = values.reduce((most, x, k) => Math.max(most, Math.abs(x - wanted[i][k]) / Math.max(Math.abs(wanted[i][k]), 1e-2)), 0)
    expect([i, worst <= allowed(i) ? 'close' : worst]).toEqual([i, 'close'])
  })
}

/** Parameters after a move and after a skipped one, and their copies; parameters and copies brought back. */
async function followSam(device: Device, scaled: number[], dtype: DType): Promise<{ moved: Float64Array[]; restored: Float64Array[] }> {
  const make = (values: Float64Array, format: DType = dtype) => keep(tensor(values, null, { dtype: format, device }))
  const parameters = sizes.map((size, i) => make(wave(i, size)))
  const grads = sizes.map((size, i) => make(wave(i + 10, size, 0.01)))
  const copies = dtype === 'f32' ? sizes.map((size, i) => (i % 3 === 2 ? null : make(new Float64Array(size), i % 3 ? 'f16' : 'bf16'))) : []
  const kept = [...parameters, ...copies].filter((one) => one !== null)
  const read = async (tensors: Tensor[]) => {
    const values: Float64Array[] = []
    for (const one of tensors) values.push(await one.toFloat64())
    return values
  }
  const moved: Float64Array[] = []
  let restored: Float64Array[] = []
  for (const skip of [1, 0]) {
    const clip = make(Float64Array.of(0.5, skip))
    const attrs = { count: sizes.length, rho: 0.5, eta: 0.01, scaled }
    const saved = keep(run1('sam_ascend', [clip, ...parameters, ...grads, ...copies] as Tensor[], attrs))
    moved.push(...(await read(skip ? parameters : kept)))
    run('sam_restore', [saved, ...parameters, ...copies] as Tensor[], { count: sizes.length })
    restored = await read(kept)
    for (const one of [clip, saved]) one.dispose()
  }
  for (const one of [...kept, ...grads]) one.dispose()
  return { moved, restored }
}

const eightBits = { lr: 0.01, beta1: 0.9, beta2: 0.99, eps: 1e-8, weight_decay: 0.1, block: 100 }

async function follow8Bits(device: Device): Promise<{ codes: Float64Array[]; numbers: Float64Array[] }> {
  const lengths = [1000, 7, 100]
  const make = (values: Float64Array, dtype: DType) => keep(tensor(values, null, { dtype, device }))
  const parameters = lengths.map((size, i) => make(wave(i, size), 'f32'))
  const blocks = lengths.map((size) => Math.ceil(size / eightBits.block))
  const codes = [0, 1].map(() => lengths.map((size) => make(new Float64Array(size), 'u8')))
  const scales = [0, 1].map(() => blocks.map((count) => make(new Float64Array(count), 'f32')))
  const copies = lengths.map((size) => make(new Float64Array(size), 'bf16'))
  for (let step = 1; step <= 3; ++step) {
    scope(() => {
      const grads = lengths.map((size, i) => {
        const values = wave(i + 10 * step, size, 0.01)
        if (step === 2) values[3] = NaN
        return tensor(values, null, { dtype: 'f32', device })
      })
      const all = [null, ...parameters, ...grads, ...codes[0], ...scales[0], ...codes[1], ...scales[1], ...copies]
      run('adamw_8bit', all as Tensor[], { count: lengths.length, ...eightBits, step })
    })
  }
  const read = async (tensors: Tensor[]) => {
    const values: Float64Array[] = []
    for (const one of tensors) values.push(await one.toFloat64())
    tensors.forEach((one) => one.dispose())
    return values
  }
  return { codes: await read(codes.flat()), numbers: await read([...parameters, ...scales.flat(), ...copies]) }
}

describe.each(testDevices().map((device) => [device.name, device] as const))('%s', (_, device) => {
  test.each(cases)('%s as on the CPU', async (op, states, attrs) => {
    for (const dtype of ['f32', 'f64'] as const) {
      const wanted = await follow(getDevice('cpu'), op, states, attrs, dtype)
      // Copies may round the other way: one unit of bf16 where the masters differ in their last bit.
      const masters = sizes.length * (1 + states)
      expectSame(await follow(device, op, states, attrs, dtype), wanted, (i) => (dtype === 'f64' ? 1e-12 : i < masters ? 2e-6 : 8e-3))
    }
  })

  test.each([[[]], [[0, 3, 6]]])('sam_ascend as on the CPU and sam_restore to the bit, ASAM for %p', async (scaled) => {
    for (const dtype of ['f32', 'f64'] as const) {
      const wanted = await followSam(getDevice('cpu'), scaled, dtype)
      const got = await followSam(device, scaled, dtype)
      expectSame(got.moved, wanted.moved, (i) => (dtype === 'f64' ? 1e-12 : i < 2 * sizes.length ? 2e-6 : 8e-3))
      expect(got.restored).toEqual(wanted.restored)
    }
  })

  test('adamw_8bit as on the CPU, to one code', async () => {
    const got = await follow8Bits(device)
    const wanted = await follow8Bits(getDevice('cpu'))
    expectSame(got.numbers, wanted.numbers, (i) => (i < 9 ? 1e-3 : 8e-3))
    got.codes.forEach((codes, i) => codes.forEach((code, k) => expect(Math.abs(code - wanted.codes[i][k])).toBeLessThanOrEqual(1)))
  })

  test.each([true, false])('blocks are coded and decoded as on the CPU, with_sign %p', async (sign) => {
    const code = async (where: Device) => {
      const x = tensor(wave(1, 777).map((v) => (sign ? v : Math.abs(v))), null, { dtype: 'f32', device: where })
      const [codes, scales] = run('quantize_blocks', [x], { block: 64, with_sign: sign })
      const back = run1('dequantize_blocks', [codes, scales], { block: 64, with_sign: sign })
      const values = [await codes.toFloat64(), await scales.toFloat64(), await back.toFloat64()]
      for (const one of [x, codes, scales, back]) one.dispose()
      return values
    }
    expect(await code(device)).toEqual(await code(getDevice('cpu')))
  })
})
