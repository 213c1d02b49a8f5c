// The baselines of a GPU, each beside what it is measured against:
//
//   npm run bench -- gpu [gemm|int8|attention|branches|crossover|optimizers|checkpointing|steps ...] [--device cuda:0]
//                        [--quick] [--no-compile] [--check]
//
// The ceilings come first: copy bandwidth and the best product of each format on this GPU; the rest is also given as a share
// of them. Writes bench/results/gpu.json. LEANFORMER_PYTHON names a Python with PyTorch for the whole steps; without it they
// stand alone. --check fails where int8 at 4096 x 4096 x 4096 has less than 1.4 of the rate of bf16, or where layers that run again
// in the backward pass take less than 1.25 or more than 1.40 of the time.
import { spawnSync } from 'node:child_process'
import { mkdirSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { parseArgs } from 'node:util'
import { DrawnDirections } from '../../lib/attention/favor'
import { softmaxKernel, windowKernel, type AttentionKernel } from '../../lib/attention/kernels'
import { multiKernel, wholeHead } from '../../lib/attention/multi_kernel'
import { bigbird, causal, localCausal, longformer } from '../../lib/attention/patterns'
import { backward } from '../../lib/autograd/backward'
import { GPT, type GPTConfig } from '../../lib/models/gpt'
import type { DType } from '../../lib/native/dtype'
import { attention } from '../../lib/ops/attention'
import { blockLayout, blockSparseAttention, type Pattern } from '../../lib/ops/block_sparse_attention'
import { clipGradNorm } from '../../lib/ops/clip'
import { csrAttention, csrLayout } from '../../lib/ops/csr_attention'
import { copy } from '../../lib/ops/copy'
import { int8Matmul, quantizeRows } from '../../lib/ops/int8_matmul'
import { matmul } from '../../lib/ops/matmul'
import { full } from '../../lib/ops/creation'
import { randn } from '../../lib/ops/random'
import { adamw } from '../../lib/optim/adamw'
import { noGrad } from '../../lib/autograd/tape'
import { ascend } from '../../lib/techniques/sam'
import { branches } from '../../lib/tensor/branches'
import { getDevice } from '../../lib/tensor/device'
import { keep, scope } from '../../lib/tensor/scope'
import { setRequiresGrad, type Tensor } from '../../lib/tensor/tensor'
import { attentionGrid, crossoverTable, measureAttention, timesTable } from '../attention/compare'
import { gptSteps, type StepOptions } from './gpt_steps'
import { deviceSeconds, stepMilliseconds } from './timing'
import { composedAdamw, composedSam } from './unfused'

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    device: { type: 'string', default: 'cuda:0' },
    quick: { type: 'boolean', default: false },
    'no-compile': { type: 'boolean', default: false },
    check: { type: 'boolean', default: false },
    // Started by this program itself, where a format is a setting of the whole process.
    child: { type: 'string' },
  },
})
const device = getDevice(values.device)
const on = { device, dtype: 'f32' as DType }
const wants = (section: string) => positionals.length === 0 || positionals.includes(section)
type Row = Record<string, string | number | null>
const results: Record<string, Row[]> = {}

function table(section: string, rows: Row[]): void {
  results[section] = rows
  console.log(`\n${section}`)
  for (const row of rows) {
    const cells = Object.entries(row).map(([name, value]) => `${name} ${typeof value === 'number' ? Number(value.toPrecision(4)) : value}`)
    console.log(`  ${cells.join('  ')}`)
  }
}

const random = (shape: number[], dtype: DType) => keep(randn(shape, { device, dtype }))
const dispose = (...tensors: Tensor[]) => tensors.forEach((each) => each.dispose())

/** TFLOP/s of an [m, k] by [k, n] product in the layout of a linear layer. */
async function gemmTflops(m: number, n: number, k: number, dtype: DType): Promise<number> {
  const [a, b] = [random([m, k], dtype), random([n, k], dtype)]
  const seconds = await deviceSeconds(device, () => noGrad(() => matmul(a, b, { transposeB: true })), { only: ['matmul'] })
  dispose(a, b)
  return (2 * m * n * k) / seconds / 1e12
}

const big = values.quick ? 2048 : 8192
const formats = ['f32', 'tf32', 'f16', 'bf16'] as const
type Format = (typeof formats)[number]

/** TF32 is chosen for a whole process, so its products are measured in one of their own. */
function tf32Tflops(m: number, n: number, k: number): number {
  const child = spawnSync(process.execPath, [process.argv[1], 'gpu', '--device', values.device, '--child', `${m},${n},${k}`], {
    env: { ...process.env, LEANFORMER_TF32: '1' },
    encoding: 'utf8',
  })
  if (child.status !== 0) throw new Error(`the TF32 process failed: ${child.stderr}`)
  return Number(child.stdout.trim().split('\n').at(-1))
}
const tflops = (format: Format, m: number, n: number, k: number) =>
  format === 'tf32' ? Promise.resolve(tf32Tflops(m, n, k)) : gemmTflops(m, n, k, format)

if (values.child) {
  const [m, n, k] = values.child.split(',').map(Number)
  console.log(await gemmTflops(m, n, k, 'f32'))
  process.exit(0)
}

const { description } = device.facts()
console.log(`${device.name}: ${description}`)

// Ceilings.
const source = random([values.quick ? 1 << 24 : 1 << 28], 'f32')
const copySeconds = await deviceSeconds(device, () => void copy(source), { only: ['copy'] })
const bandwidth = (2 * 4 * source.size) / copySeconds / 1e9
dispose(source)
const peak = {} as Record<Format, number>
for (const format of formats) peak[format] = await tflops(format, big, big, big)
table('ceilings', [{ copy_gbs: bandwidth, ...Object.fromEntries(formats.map((format) => [`${format}_tflops`, peak[format]])) }])

if (wants('gemm')) {
  const shapes = values.quick ? [[512, 512, 512]] : [[1024, 1024, 1024], [4096, 4096, 4096], [8192, 2304, 768], [8192, 3072, 768], [8192, 768, 3072]]
  const rows: Row[] = []
  for (const [m, n, k] of shapes) {
    const row: Row = { shape: `${m}x${n}x${k}` }
    for (const format of formats) {
      row[`${format}_tflops`] = await tflops(format, m, n, k)
      row[`${format}_share`] = (row[`${format}_tflops`] as number) / peak[format]
    }
    rows.push(row)
  }
  table('gemm', rows)
}

// Codes that are there already, to bf16: the product and its factors.
if (wants('int8')) {
  const rows: Row[] = []
  for (const n of values.quick ? [256] : [1024, 2048, 4096, 8192]) {
    const [x, w] = [0, 1].map(() => random([n, n], 'bf16'))
    const [a, b] = scope(() => [x, w].map((each) => quantizeRows(each)).map(({ codes, scales }) => ({ codes: keep(codes), scales: keep(scales) })))
    const seconds = async (body: () => Tensor, op: string) => await deviceSeconds(device, () => noGrad(body), { only: [op], repeats: 25 })
    const bf16 = await seconds(() => matmul(x, w, { transposeB: true }), 'matmul')
    const int8 = await seconds(() => int8Matmul(a, b, { outDType: 'bf16' }), 'int8_matmul')
    const rate = (time: number) => (2 * n ** 3) / time / 1e12
    rows.push({ shape: `${n}x${n}x${n}`, bf16_us: bf16 * 1e6, int8_us: int8 * 1e6, bf16_tflops: rate(bf16), int8_tops: rate(int8), int8_by_bf16: bf16 / int8 })
    dispose(x, w, ...[a, b].flatMap(({ codes, scales }) => [codes, scales]))
  }
  table('int8', rows)
  const square = rows.find(({ shape }) => shape === '4096x4096x4096')
  if (values.check && square && Number(square.int8_by_bf16) < 1.4) throw new Error(`int8 at 4096 has ${square.int8_by_bf16} of the rate of bf16, needs 1.4`)
}

if (wants('attention')) {
  const [heads, width] = [12, 64]
  const rows: Row[] = []
  for (const length of values.quick ? [256] : [1024, 4096, 16384]) {
    const batch = Math.max(1, 16384 / length)
    const shape = [batch, length, heads, width]
    const [q, k, v] = [0, 1, 2].map(() => random(shape, 'bf16'))
    for (const each of [q, k, v]) each.requiresGrad = true
    const timed = async (name: string, pairs: number, run: () => Tensor, forward: string) => {
      const fresh = () => [q, k, v].forEach((each) => { each.grad?.dispose(); each.grad = null })
      const ahead = await deviceSeconds(device, () => void noGrad(run), { only: [forward] })
      const back = await deviceSeconds(device, () => { fresh(); backward(run(), q.detach()) }, { only: [`${forward}_backward`] })
      fresh()
      const flops = 4 * batch * heads * width * pairs
      rows.push({
        length, kernel: name, density: pairs / length ** 2, forward_us: ahead * 1e6, backward_us: back * 1e6,
        forward_tflops: flops / ahead / 1e12, backward_tflops: (2.5 * flops) / back / 1e12, forward_share: flops / ahead / 1e12 / peak.bf16,
      })
    }
    await timed('dense causal', (length * (length + 1)) / 2, () => attention(q, k, v, { heads, causal: true }), 'attention')
    const patterns: [string, Pattern][] = [
      ['local 512', localCausal(512)],
      ['longformer', causal(longformer(256, [1], [0]))],
      ['bigbird', causal(bigbird())],
    ]
    for (const [name, pattern] of length > 1024 || values.quick ? patterns : []) {
      const layout = blockLayout(pattern, { queries: length, keys: length, block: 64 })
      await timed(`block-sparse ${name}`, layout.density * length ** 2, () => blockSparseAttention(q, k, v, layout, { heads }), 'block_sparse_attention')
      layout.dispose()
      for (const format of ['CSR', 'BSR']) {
        const list = csrLayout(pattern, { queries: length, keys: length })
        list.byBlocks = format === 'BSR'
        if (list.blocks || format === 'CSR') {
          await timed(`cuSPARSE ${format} ${name}`, list.density * length ** 2, () => csrAttention(q, k, v, list, { heads }), 'csr_attention')
        }
        list.dispose()
      }
    }
    dispose(q, k, v)
  }
  table('attention', rows)
}

// Kernels that leave half of the GPU idle, beside each other and one after another; as graphs, so that launches cost little.
if (wants('branches')) {
  const rows: Row[] = []
  const width = 128
  const inOrder = <T>(parts: readonly (() => T)[]) => parts.map((part) => part())
  const compare = async (name: string, body: (together: boolean) => void) => {
    const ms: Record<string, number> = {}
    for (const together of [false, true]) {
      ms[String(together)] = await stepMilliseconds(async () => {
        device.repeating(() => scope(() => body(together)))
        await device.synchronize()
      }, values.quick ? 3 : 50)
    }
    rows.push({ work: name, in_order_ms: ms.false, branches_ms: ms.true, ratio: ms.true / ms.false })
  }
  const favor = new DrawnDirections(0).kernel(0, 128)
  // A head of 4096 queries is 64 blocks; several calls after one another in each part.
  const length = values.quick ? 256 : 4096
  const kernels: [string, AttentionKernel, AttentionKernel][] = [
    ['one head each, softmax and softmax', softmaxKernel, softmaxKernel],
    ['one head each, softmax and a window of 1024', softmaxKernel, windowKernel(1024)],
    ['one head each, softmax and FAVOR+ with 128 features', softmaxKernel, favor],
  ]
  const [q, k, v] = [0, 1, 2].map(() => random([1, length, 1, width], 'bf16'))
  for (const [name, ...two] of kernels) {
    const parts = two.map((kernel) => () => {
      let y = q
      for (let i = 0; i < 8; ++i) y = kernel(y, k, v, { heads: 1, causal: true })
      return y
    })
    await compare(name, (together) => noGrad(() => void (together ? branches(device, parts) : inOrder(parts))))
  }
  dispose(q, k, v)
  // Multi-kernel attention, both passes. In a part of its own it runs in order.
  const heads = 4
  const mixed = multiKernel(['softmax', 'softmax', 'window', 'favor'].map(wholeHead), { softmax: softmaxKernel, window: windowKernel(512), favor })
  const whole = [0, 1, 2].map(() => setRequiresGrad(random([1, length, heads, width], 'bf16')))
  await compare('4 heads by 3 kernels, forward and backward', (together) => {
    const attend = () => mixed(whole[0], whole[1], whole[2], { heads, causal: true })
    const y = together ? attend() : branches(device, [attend, () => null])[0]!
    backward(y, whole[0].detach())
    for (const each of whole) {
      each.grad!.dispose()
      each.grad = null
    }
  })
  dispose(...whole)
  table('branches', rows)
}

if (wants('crossover')) {
  const points = await measureAttention(device, attentionGrid(device, ['bf16'], values.quick), () => {})
  table('attention over density', timesTable(device, points))
  table('crossover', crossoverTable(device, points))
}

const gpt2: GPTConfig = values.quick
  ? { vocab: 256, context: 64, layers: 2, width: 64, heads: 2 }
  : { vocab: 50304, context: 1024, layers: 12, width: 768, heads: 12 }

if (wants('optimizers')) {
  const model = new GPT(gpt2, { device })
  const parameters = model.parameters().map((parameter) => parameter.tensor)
  const like = (value: number) => parameters.map((p) => keep(full(p.shape, value, on)))
  const [grads, m, v] = [like(1e-3), like(0), like(0)]
  const options = { lr: 1e-3, weightDecay: 0.1, beta1: 0.9, beta2: 0.99, eps: 1e-8, step: 3 }
  const count = parameters.reduce((n, p) => n + p.size, 0)
  const one = (i: number) => ({ parameters: [parameters[i]], grads: [grads[i]], m: [m[i]], v: [v[i]] })
  const moving = new Map(model.namedParameters())
  for (const [i, parameter] of [...moving.values()].entries()) parameter.tensor.grad = grads[i]
  const rho = 0.05
  const rows: Row[] = []
  for (const [name, body] of [
    ['one launch for all parameters', () => adamw({ parameters, grads, m, v }, options)],
    ['one launch a parameter', () => parameters.forEach((_, i) => adamw(one(i), options))],
    // Parameter by parameter, so that nothing but the update decides what fits.
    ['elementwise operators', () => parameters.forEach((_, i) => scope(() => void composedAdamw(one(i), options)))],
    ['global norm and clip', () => void clipGradNorm(grads, { maxNorm: 1 })],
    ['SAM, fused', () => ascend(moving, { rho })()],
    ['SAM, elementwise operators', () => void composedSam({ parameters, grads }, rho)],
  ] as [string, () => void][]) {
    const seconds = await deviceSeconds(device, () => noGrad(body))
    const bytes = name.startsWith('global') ? 4 * count : 28 * count
    rows.push({ update: name, ms: seconds * 1e3, compulsory_gbs: bytes / seconds / 1e9, share_of_copy: bytes / seconds / 1e9 / bandwidth })
  }
  table('optimizers', rows)
  for (const parameter of moving.values()) parameter.tensor.grad = null
  dispose(...grads, ...m, ...v)
  model.dispose()
}

/** Milliseconds and peak bytes of training steps; two are under way at a time, as in the trainer. */
async function trainSteps(config: GPTConfig, batch: number, options: StepOptions) {
  const { step, dispose } = gptSteps(device, config, batch, options)
  device.resetPeak()
  const before = (await device.synchronize()).graphReplays
  const pending: Promise<number>[] = []
  let last = NaN
  const ms = await stepMilliseconds(async () => {
    pending.push(step())
    if (pending.length > 1) last = await pending.shift()!
  }, values.quick ? 3 : 30)
  last = await pending.pop()!
  const { peakBytes, graphReplays } = await device.synchronize()
  const tokens = batch * config.context
  const flopsPerToken = 6 * (12 * config.layers * config.width ** 2 + config.vocab * config.width) + 6 * config.layers * config.width * config.context
  dispose()
  return { ms, peakBytes, graphReplays: graphReplays - before, loss: last, tokensPerSecond: (1000 * tokens) / ms, tflops: (flopsPerToken * tokens) / ms / 1e9 }
}

// Every layer runs again: one more forward pass, so a time of 4/3 where layers are all there is (Chen et al., arXiv 1604.06174).
if (wants('checkpointing')) {
  const rows: Row[] = []
  const deep: GPTConfig = { ...gpt2, vocab: 256, layers: values.quick ? 4 : 36 }
  for (const [model, config] of [[`${gpt2.layers} layers and a vocabulary of ${gpt2.vocab}`, gpt2], [`${deep.layers} layers`, deep]] as const) {
    const measure = (checkpointing: boolean) => trainSteps(config, values.quick ? 2 : 8, { precision: 'bf16', graphs: true, checkpointing })
    const [kept, again] = [await measure(false), await measure(true)]
    const gib = (bytes: number) => bytes / 2 ** 30
    rows.push({ model, ms: kept.ms, again_ms: again.ms, ratio: again.ms / kept.ms, peak_gib: gib(kept.peakBytes), again_peak_gib: gib(again.peakBytes) })
  }
  table('checkpointing', rows)
  const ratio = Number(rows[1].ratio)
  if (values.check && !(ratio >= 1.25 && ratio <= 1.4)) throw new Error(`layers that run again take ${ratio} of the time, needs 1.25 to 1.40`)
}

/** PyTorch's milliseconds for the same model, batch and precision on the same GPU; null without a Python. */
function torchMilliseconds(config: GPTConfig, batch: number, precision: string, compile: boolean): number | null {
  const python = process.env.LEANFORMER_PYTHON
  if (!python || !device.name.startsWith('cuda')) return null
  const options = JSON.stringify({ ...config, batch, precision, compile, steps: values.quick ? 3 : 30 })
  const child = spawnSync(python, [path.join('bench', 'gpu', 'torch_gpu.py'), options], { encoding: 'utf8' })
  if (child.status !== 0) throw new Error(`${python}: ${child.stderr}`)
  return (JSON.parse(child.stdout.trim().split('\n').at(-1)!) as { ms: number }).ms
}

if (wants('steps')) {
  const rows: Row[] = []
  const workloads: [string, GPTConfig, number][] = values.quick
    ? [['tiny', gpt2, 2]]
    : [
        ['GPT-2 124M, context 1024, batch 8', gpt2, 8],
        ['GPT 6x384, context 256, batch 8', { vocab: 256, context: 256, layers: 6, width: 384, heads: 6 }, 8],
        ['GPT 4x128, context 64, batch 12', { vocab: 65, context: 64, layers: 4, width: 128, heads: 4 }, 12],
      ]
  for (const [name, config, batch] of workloads) {
    for (const precision of ['bf16', 'f32'] as const) {
      const graphed = await trainSteps(config, batch, { precision, graphs: true, checkpointing: false })
      const plain = await trainSteps(config, batch, { precision, graphs: false, checkpointing: false })
      const eager = torchMilliseconds(config, batch, precision, false)
      const compiled = values['no-compile'] ? null : torchMilliseconds(config, batch, precision, true)
      rows.push({
        workload: name, precision, ms: graphed.ms, ms_without_graph: plain.ms, graph_replays: graphed.graphReplays,
        tokens_per_second: graphed.tokensPerSecond, model_tflops: graphed.tflops, share_of_gemm_peak: graphed.tflops / peak[precision],
        peak_gib: graphed.peakBytes / 2 ** 30, torch_eager_ms: eager, torch_compile_ms: compiled,
        speed_up_over_torch: eager && Math.min(eager, compiled ?? Infinity) / graphed.ms,
      })
      console.log(JSON.stringify(rows.at(-1)))
    }
  }
  table('steps', rows)
}

mkdirSync(path.join('bench', 'results'), { recursive: true })
writeFileSync(path.join('bench', 'results', 'gpu.json'), JSON.stringify({ device: device.facts().description, results }, null, 2))
