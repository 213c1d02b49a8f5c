// One case per operator, in test/ops/STEM.test.ts, is all of its tests and its micro-benchmark:
//
//   opCase({
//     name: 'tanh',
//     ops: ['tanh', 'tanh_backward'],             // the native operators that this case must have run
//     run: ([x]) => tanh(x),                      // our function
//     reference: ([x], _, r) => host(x.shape, (i) => r(Math.tanh(x.data[i]))),
//     samples: [[[2, 33]], [[0, 4]], { inputs: [[7]], attrs: { ... } }],
//     bench: [{ inputs: [[4096, 1024]] }],
//   })
//
// Under jest this defines tests: forward on every device and dtype against the reference (tolerance.ts), the same bits
// again, on 1 and on 2 threads, guard bytes round every output, the shape on the meta device, gradients against finite
// differences (gradcheck.ts), the same in each dtype, gradients added to existing ones, and `errors`. Anywhere else (bench)
// it only joins the list that collectCases() returns. Tests beside the cases go into jestOnly(() => { ... }).
//
// LEANFORMER_TEST_SWEEP=n, for one order of execution after another on a simulated GPU: every sample once, forwards and
// backwards, in two of its dtypes that change with n; results against the reference, gradients against those of the CPU in
// f64; large shapes as ever. What does not depend on the order is left out: finite differences, other dtypes, meta, errors.
import type { OpName } from '../../lib/native/ops.gen'
import { isFloating, type DType } from '../../lib/native/dtype'
import { backward } from '../../lib/autograd/backward'
import { getDevice, type Device } from '../../lib/tensor/device'
import { scope } from '../../lib/tensor/scope'
import { decode, type Tensor } from '../../lib/tensor/tensor'
import { testDevices, withGuards, withThreads } from './devices'
import { finiteDifferences, positions } from './gradcheck'
import { count, prepare, seedWeights, toDevice, type HostTensor, type InputSpec, type Prepared } from './samples'
import { epsilonOf, exact, expectClose, expectNear, rounded, type ErrorScale, type Rounding } from './tolerance'

export { awayFromZero, host, integers, uniform, type Draw, type HostTensor, type InputSpec } from './samples'
export type { Rounding } from './tolerance'

export interface Sample<A> {
  inputs: readonly InputSpec[]
  attrs?: A
}

export interface BenchShape<A> extends Sample<A> {
  /** Shown in the table; otherwise the inputs' shapes. */
  label?: string
  dtypes?: readonly DType[]
}

export interface ErrorCase {
  what: string
  call: () => unknown
  code: string
  /** Parts of the message that must be there. */
  text: readonly string[]
}

export interface OpCase<A = undefined> {
  name: string
  ops: readonly OpName[]
  run: (inputs: Tensor[], attrs: A) => Tensor | Tensor[]
  /** Gets null for an absent input, too. */
  reference: (inputs: HostTensor[], attrs: A, r: Rounding) => HostTensor | HostTensor[]
  samples: readonly (readonly InputSpec[] | Sample<A>)[]
  /** Tested formats: the floating ones by default. */
  dtypes?: readonly DType[]
  /** Formats of the outputs: the tested one by default. */
  outDTypes?: DType | readonly DType[] | ((tested: DType) => DType | readonly DType[])
  /** Why there is no gradient, when there is none. */
  noGradient?: string
  /** What the error is measured against: each element, or the largest one where terms cancel. */
  errorScale?: ErrorScale
  /** Allowed error of gradients in each dtype, relative to the largest; by default 16 units of the dtype. */
  gradTolerance?: Partial<Record<DType, number>>
  errors?: readonly ErrorCase[]
  bench?: readonly BenchShape<A>[]
}

const floating: readonly DType[] = ['f32', 'f16', 'bf16', 'f64']
const registered: OpCase<unknown>[] = []
let collecting = false

export function opCase<A = undefined>(spec: OpCase<A>): void {
  registered.push(spec as unknown as OpCase<unknown>)
  if (!collecting && underJest()) defineTests(spec as unknown as OpCase<unknown>)
}

/** Tests that are not operator cases; skipped when the file is loaded by the benchmark. */
export function jestOnly(define: () => void): void {
  if (!collecting && underJest()) define()
}

/** The cases of the files that `load` imports, without defining tests. */
export async function collectCases(load: () => unknown): Promise<readonly OpCase<unknown>[]> {
  collecting = true
  const first = registered.length
  try {
    await load()
  } finally {
    collecting = false
  }
  return registered.slice(first)
}

const underJest = () => typeof (globalThis as { describe?: unknown }).describe === 'function'
const sweep = Number(process.env.LEANFORMER_TEST_SWEEP ?? 0)
/** Of a sweep: one of the wider half of the dtypes and one of the narrower half, which have kernels of their own. */
const swept = (dtypes: readonly DType[]): DType[] => {
  const wide = dtypes.filter((dtype) => dtype === 'f32' || dtype === 'f64' || !isFloating(dtype))
  const narrow = dtypes.filter((dtype) => !wide.includes(dtype))
  return [wide, narrow].filter((half) => half.length).map((half) => half[sweep % half.length])
}
const empty = new Uint8Array(0)
const list = <T>(value: T | readonly T[]): T[] => (Array.isArray(value) ? [...value] : [value as T])
const normalized = (sample: readonly InputSpec[] | Sample<unknown>): Sample<unknown> =>
  Array.isArray(sample) ? { inputs: sample } : (sample as Sample<unknown>)

interface Result {
  shape: readonly number[]
  dtype: DType
  bytes: Uint8Array
  values: Float64Array
}
interface Outcome {
  tensors: Result[]
  grads: (Result | null)[]
}

async function download(tensor: Tensor): Promise<Result> {
  const data = await tensor.data()
  const { shape, dtype } = tensor
  return {
    shape,
    dtype,
    bytes: new Uint8Array(data.buffer, data.byteOffset, data.byteLength),
    get values() {
      return Float64Array.from(decode(dtype, data))
    },
  }
}

/** One run of a case on a device; with `seeds`, also its gradients. */
async function execute(
  spec: OpCase<unknown>,
  device: Device,
  inputs: (Prepared | null)[],
  attrs: unknown,
  seeds?: (Prepared | null)[],
  repeats = 1,
  widen?: DType,
): Promise<Outcome> {
  const format = (input: Prepared) => (widen && isFloating(input.dtype) ? widen : input.dtype)
  const given = inputs.map((input) => input && toDevice(input, device, format(input), Boolean(seeds && input.grad)))
  let outputs: Tensor[] = []
  for (let pass = 0; pass < repeats; ++pass) {
    for (const output of outputs) if (!given.includes(output)) output.dispose()
    outputs = scope(() => {
      const out = list(spec.run(given as Tensor[], attrs))
      seeds?.forEach((seed, i) => {
        if (seed) backward(out[i], toDevice(seed, device, out[i].dtype))
      })
      return out
    })
  }
  const tensors = []
  for (const output of outputs) tensors.push(await download(output))
  const grads = []
  for (const tensor of given) {
    grads.push(tensor?.grad ? await download(tensor.grad) : null)
    tensor?.grad?.dispose()
  }
  for (const tensor of [...outputs, ...given]) tensor?.dispose()
  return { tensors, grads }
}

function expectSameBits(what: string, a: Outcome, b: Outcome): void {
  const same = (x: Result | null, y: Result | null) => Buffer.compare(x?.bytes ?? empty, y?.bytes ?? empty) === 0
  a.tensors.forEach((tensor, i) => {
    if (!same(tensor, b.tensors[i])) throw new Error(`${what}: output ${i} has other bits`)
  })
  a.grads.forEach((grad, i) => {
    if (!same(grad, b.grads[i])) throw new Error(`${what}: gradient ${i} has other bits`)
  })
}

function defineTests(spec: OpCase<unknown>): void {
  const samples = spec.samples.map(normalized)
  const tag = (i: number) => `${spec.name}/${i}`
  const dtypesOf = (tested: DType, n: number): DType[] => {
    const wanted = typeof spec.outDTypes === 'function' ? spec.outDTypes(tested) : (spec.outDTypes ?? tested)
    return typeof wanted === 'string' ? new Array<DType>(n).fill(wanted) : [...wanted]
  }
  const reference = (inputs: (Prepared | null)[], attrs: unknown, r: Rounding) =>
    list(spec.reference(inputs as HostTensor[], attrs, r))

  /** Starting gradients: one for `only`, or for every floating output. */
  const seedsOf = (i: number, tested: DType, outputs: HostTensor[], only?: number) => {
    const formats = dtypesOf(tested, outputs.length)
    return outputs.map((output, k) =>
      isFloating(formats[k]) && (only === undefined || only === k)
        ? seedWeights(`${tag(i)}/${k}`, output.shape, formats[k])
        : null,
    )
  }

  describe(spec.name, () => {
    for (const device of testDevices()) {
      const ran = new Set<string>()
      const noteRan = () => device.profile(true).forEach((entry) => ran.add(entry.op))

      const dtypes = spec.dtypes ?? floating
      test.each(sweep ? swept(dtypes) : [...dtypes])(`${device.name} %s`, async (dtype) => {
        noteRan()
        for (const [i, sample] of samples.entries()) {
          const where = `${spec.name} ${dtype} sample ${i}`
          const inputs = prepare(tag(i), sample.inputs, dtype)
          const wanted = reference(inputs, sample.attrs, exact(dtype))
          const plain = reference(inputs, sample.attrs, rounded(dtype))
          const formats = dtypesOf(dtype, wanted.length)
          const differentiable = !spec.noGradient && isFloating(dtype) && inputs.some((input) => input?.grad)
          // Every output of its own: backward() walks the tape once.
          const seeds = differentiable ? seedsOf(i, dtype, wanted, formats.findIndex(isFloating)) : undefined
          const execution = () => execute(spec, device, inputs, sample.attrs, seeds)
          const first = await withGuards(device, execution)
          first.tensors.forEach((tensor, k) => {
            expect([tensor.dtype, tensor.shape]).toEqual([formats[k], [...wanted[k].shape]])
            const scale = spec.errorScale ?? 'element'
            expectClose(`${where} output ${k}`, tensor.dtype, tensor.values, wanted[k].data, plain[k].data, scale)
          })
          expect(first.tensors).toHaveLength(wanted.length)
          if (!sweep) {
            expectSameBits(`${where} again`, first, await execution())
            expectSameBits(`${where} on 1 thread`, first, await withThreads(1, execution))
          }
          if (seeds && (sweep || dtype !== 'f64')) {
            const wide = await execute(spec, sweep ? getDevice('cpu') : device, inputs, sample.attrs, seeds, 1, 'f64')
            const allowed = spec.gradTolerance?.[dtype] ?? 16 * epsilonOf(dtype)
            wide.grads.forEach((grad, k) => {
              if (grad) expectNear(`${where} gradient ${k}`, first.grads[k]!.values, grad.values, allowed, 1e-3)
            })
          }
        }
        noteRan()
      })

      if (!spec.noGradient && !sweep) {
        test(`${device.name} gradients against finite differences`, async () => {
          for (const [i, sample] of samples.entries()) {
            const inputs = prepare(tag(i), sample.inputs, 'f64')
            const outputs = reference(inputs, sample.attrs, exact('f64'))
            for (const output of outputs.keys()) {
              const seeds = seedsOf(i, 'f64', outputs, output)
              const weights = seeds[output]
              if (!weights) continue
              const { grads } = await withGuards(device, () => execute(spec, device, inputs, sample.attrs, seeds))
              const twice = await execute(spec, device, inputs, sample.attrs, seeds, 2)
              inputs.forEach((input, k) => {
                if (!input?.grad) return
                const where = `${spec.name} sample ${i} output ${output} gradient ${k}`
                const grad = grads[k]?.values ?? new Float64Array(input.data.length)
                expect(grad).toHaveLength(input.data.length)
                const at = positions(input.data.length)
                const f = () => reference(inputs, sample.attrs, exact('f64'))[output]
                const numeric = finiteDifferences(f, input, weights, at)
                expectNear(where, Float64Array.from(at, (p) => grad[p]), numeric, 1e-6, 1e-2)
                if (grads[k]) expectNear(`${where}, added`, twice.grads[k]!.values, grad.map((x) => 2 * x), 1e-12, 1e-2)
              })
            }
          }
          noteRan()
        })
      }

      for (const [i, sample] of (spec.bench ?? []).entries()) {
        test(`${device.name} large shapes ${i} give the same bits on 1 and 2 threads`, async () => {
          const dtype = sample.dtypes?.[0] ?? spec.dtypes?.[0] ?? 'f32'
          const inputs = prepare(`${spec.name}/bench ${i}`, sample.inputs, dtype)
          const shapes = metaShapes(spec, inputs, sample.attrs)
          const differentiable = !spec.noGradient && isFloating(dtype) && inputs.some((input) => input?.grad)
          const seeds = differentiable ? seedsOf(i, dtype, shapes, 0) : undefined
          const execution = () => execute(spec, device, inputs, sample.attrs, seeds)
          const two = await withThreads(2, execution)
          expectSameBits(`${spec.name} bench shape ${i}`, two, await withThreads(1, execution))
        })
      }

      test(`${device.name} ran ${spec.ops.join(', ')}`, () => {
        expect(spec.ops.filter((op) => !ran.has(op))).toEqual([])
      })
    }

    if (sweep) return
    test('meta knows the shapes', () => {
      for (const [i, sample] of samples.entries()) {
        const dtype = spec.dtypes?.[0] ?? 'f32'
        const inputs = prepare(tag(i), sample.inputs, dtype)
        const wanted = reference(inputs, sample.attrs, exact(dtype))
        expect(metaShapes(spec, inputs, sample.attrs).map((out) => out.shape)).toEqual(wanted.map((out) => [...out.shape]))
      }
    })

    if (spec.errors?.length) {
      test.each(spec.errors.map((error) => [error.what, error] as const))('error: %s', (_, error) => {
        let thrown: { code?: string; message?: string } = {}
        try {
          scope(() => void error.call())
        } catch (caught) {
          thrown = caught as typeof thrown
        }
        expect(thrown).toMatchObject({ code: error.code })
        for (const part of error.text) expect(thrown.message).toContain(part)
      })
    }
  })
}

/** The output shapes, with zeros for numbers, by running the case on the meta device. */
function metaShapes(spec: OpCase<unknown>, inputs: (Prepared | null)[], attrs: unknown): HostTensor[] {
  const meta = getDevice('meta')
  return scope(() => {
    const given = inputs.map((input) => input && toDevice(input, meta))
    const outputs = list(spec.run(given as Tensor[], attrs))
    return outputs.map(({ shape }) => ({ shape: [...shape], data: new Float64Array(count(shape)) }))
  })
}
