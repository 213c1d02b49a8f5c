// Multi-kernel attention in every layer: some heads, and stretches of queries, attend by other kernels than softmax. Which ones is
// a share of the heads, or an assignment that was measured on a trained model: `leanformer kernels` measures and writes it. See
// lib/attention/multi_kernel.ts.
import { DrawnDirections } from '../attention/favor'
import { softmaxKernel, windowKernel, type AttentionKernel } from '../attention/kernels'
import { multiKernel, parseAssignment, wholeHead, type Choice, type LayerAssignment, type Stretch } from '../attention/multi_kernel'
import { noGrad } from '../autograd/tape'
import { LeanformerError } from '../native/errors'
import type { Module } from '../nn/module'
import { add, square, sub } from '../ops/elementwise'
import { sum } from '../ops/reductions'
import { keep, scope } from '../tensor/scope'
import type { Tensor } from '../tensor/tensor'
import { redrawn } from './favor'
import { int8Kernel } from './int8_attention'
import { attentionLayers } from './layers'
import { linearKernel } from './linear_attention'
import { defineTechnique } from './technique'

/** The kernels of a layer, by name. */
export type KernelsOfLayer = (layer: number) => Readonly<Record<string, AttentionKernel>>

/** Gives each layer its assignment, in order. @throws ERR_OPTION when there are not as many as layers */
export function assignKernels(model: Module<never, unknown>, layers: readonly LayerAssignment[], kernels: KernelsOfLayer): void {
  const found = attentionLayers(model, 'multi_kernel')
  if (found.length !== layers.length) {
    throw new LeanformerError('ERR_OPTION', `multi_kernel: an assignment for ${layers.length} layers, but there are ${found.length}`)
  }
  for (const [i, attention] of found.entries()) attention.kernel = multiKernel(layers[i], kernels(i))
}

/** What goes through one kernel: a stretch of queries of a key-value head, counted from 0. */
export interface Unit {
  layer: number
  head: number
  from: number
  to: number
}

/** The units of a model, layer by layer and head by head; `ends` are where stretches of queries end, the last at Infinity. */
export function unitsOf(model: Module<never, unknown>, ends: readonly number[] = [Infinity]): Unit[] {
  const stretches = ends.map((to, i) => ({ from: i ? ends[i - 1] : 0, to }))
  return attentionLayers(model, 'multi_kernel').flatMap(({ kvHeads }, layer) =>
    Array.from({ length: kvHeads }, (_, head) => stretches.map((stretch) => ({ layer, head, ...stretch }))).flat(),
  )
}

/** Assignments layer by layer from one kernel for each unit, as unitsOf() orders them. Neighbours with one kernel are one stretch. */
export function assignmentOf(units: readonly Unit[], kernels: readonly string[]): LayerAssignment[] {
  const layers: Stretch[][][] = []
  for (const [i, { layer, head, from, to }] of units.entries()) {
    const stretches = ((layers[layer] ??= [])[head] ??= [])
    const before = stretches.at(-1)
    if (before?.kernel === kernels[i]) before.to = to
    else stretches.push({ from, to, kernel: kernels[i] })
  }
  return layers
}

/** A choice of a unit with its output error: |O - O_base| / |O_base| over the unit's queries and heads, on the inputs that the base gives. */
export interface MeasuredChoice extends Choice {
  error: number
}

/** What is measured with: losses of the model as it is, and what a unit costs by a kernel. */
export interface UnitMeasures {
  loss(): Promise<number>
  cost(unit: Unit, kernel: AttentionKernel, name: string): Promise<number>
}

/** What each unit costs and does by each kernel, when it alone leaves `base`. The model is left with `base` everywhere. */
export async function measureUnits(
  model: Module<never, unknown>,
  units: readonly Unit[],
  kernels: KernelsOfLayer,
  base: string,
  measures: UnitMeasures,
): Promise<MeasuredChoice[][]> {
  const errors = await outputErrors(model, units, kernels, base, measures.loss)
  const all = units.map(() => base)
  const lossOf = (names: readonly string[]) => {
    assignKernels(model, assignmentOf(units, names), kernels)
    return measures.loss()
  }
  const whole = await lossOf(all)
  const measured: MeasuredChoice[][] = []
  for (const [u, unit] of units.entries()) {
    const choices: MeasuredChoice[] = []
    for (const [kernel, run] of Object.entries(kernels(unit.layer))) {
      const change = kernel === base ? 0 : (await lossOf(all.map((name, i) => (i === u ? kernel : name)))) - whole
      choices.push({ kernel, cost: await measures.cost(unit, run, kernel), change, error: errors[u][kernel] })
    }
    measured.push(choices)
  }
  assignKernels(model, assignmentOf(units, all), kernels)
  return measured
}

/** Of each unit, its output error by kernel. */
async function outputErrors(
  model: Module<never, unknown>,
  units: readonly Unit[],
  kernels: KernelsOfLayer,
  base: string,
  run: () => Promise<unknown>,
): Promise<Record<string, number>[]> {
  /** By layer and kernel: sums over batch and width of squared differences from the base, and for the base of its squares. */
  const sums: Record<string, Tensor>[] = []
  const layers = attentionLayers(model, 'multi_kernel')
  for (const [layer, attention] of layers.entries()) {
    const own = kernels(layer)
    const totals: Record<string, Tensor> = (sums[layer] = {})
    attention.kernel = (...call) => {
      const exact = own[base](...call)
      scope(() => noGrad(() => {
        for (const [name, kernel] of Object.entries(own)) {
          const squares = sum(square(name === base ? exact : sub(kernel(...call), exact)), [0, 3])
          const before = totals[name] as Tensor | undefined
          totals[name] = keep(before ? add(before, squares) : squares)
          before?.dispose()
        }
      }))
      return exact
    }
  }
  await run()
  const squares = await Promise.all(sums.map(async (totals) => {
    const values = await Promise.all(Object.entries(totals).map(async ([name, total]) => [name, await total.toFloat64()] as const))
    for (const total of Object.values(totals)) total.dispose()
    return Object.fromEntries(values)
  }))
  return units.map(({ layer, head, from, to }) => {
    const { heads, kvHeads } = layers[layer]
    const group = heads / kvHeads
    const within = (values: Float64Array) =>
      values.reduce((total, x, i) => (Math.floor((i % heads) / group) === head && Math.floor(i / heads) >= from && Math.floor(i / heads) < to ? total + x : total), 0)
    const whole = within(squares[layer][base])
    return Object.fromEntries(Object.entries(squares[layer]).map(([name, values]) => [name, name === base ? 0 : Math.sqrt(within(values) / whole)]))
  })
}

/**
 * The kernels that an assignment can name: softmax, linear, int8, window and favor, the latter two also with a number of tokens or
 * features of their own, such as window32 and favor64.
 */
export function namedKernels(names: Iterable<string>, layer: number, directions: DrawnDirections, sizes: { window: number; features: number }): Record<string, AttentionKernel> {
  const make = (name: string): AttentionKernel => {
    const [, kind, size] = /^(softmax|linear|int8|window|favor)([1-9]\d*)?$/.exec(name) ?? []
    if (kind === 'window') return windowKernel(size ? Number(size) : sizes.window)
    if (kind === 'favor') return directions.kernel(layer, size ? Number(size) : sizes.features)
    if (!kind || size) throw new LeanformerError('ERR_OPTION', `multi_kernel: ${name} is not a kernel`, 'softmax, window, linear, int8, favor, or such as window32 and favor64')
    return { softmax: softmaxKernel, linear: linearKernel, int8: int8Kernel }[kind as 'softmax']
  }
  return Object.fromEntries([...names].map((name) => [name, make(name)]))
}

export const multiKernelTechnique = defineTechnique({
  name: 'multi_kernel',
  title: 'Multi-kernel attention: some heads by a cheaper kernel',
  category: 'attention',
  source: 'a definition of our own, see docs/corrections.md',
  settings: {
    kernel: { default: 'window', choices: ['window', 'linear', 'int8', 'favor'], help: 'how the chosen heads attend' },
    share: { default: 0.5, min: 0, max: 1, help: 'share of the key-value heads, the first ones of each layer; 0: none' },
    assignment: { default: '', help: 'in place of kernel and share: kernels of all layers, heads and stretches of queries, as `leanformer kernels` writes it' },
    window: { default: 64, min: 1, integer: true, help: 'tokens seen by kernel=window' },
    features: { default: 256, min: 1, integer: true, help: 'random features of kernel=favor' },
    redraw: { default: 1000, min: 0, integer: true, help: 'steps between draws of these features; 0: never' },
    seed: { default: 0, min: 0, integer: true, help: 'of these features' },
  },
  decides: ['attention_kernel'],
  neutral: { settings: { share: 0 } },
  make: ({ kernel, share, assignment, window, features, redraw, seed }) => {
    const directions = new DrawnDirections(seed)
    const given = assignment ? parseAssignment(assignment) : null
    const names = new Set(given ? given.flat(2).map((stretch) => stretch.kernel) : ['softmax', kernel])
    const kernels = (layer: number) => namedKernels(names, layer, directions, { window, features })
    kernels(0) // a wrong name is told now
    return {
      adapt(model) {
        if (!given && share === 0) return
        const layers = given ?? attentionLayers(model, 'multi_kernel').map(({ kvHeads }) =>
          Array.from({ length: kvHeads }, (_, g) => wholeHead(g < Math.round(share * kvHeads) ? kernel : 'softmax')),
        )
        assignKernels(model, layers, kernels)
      },
      ...redrawn(directions, redraw),
    }
  },
})
