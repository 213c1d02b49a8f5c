// `leanformer kernels`: which attention kernel each head (and stretch of queries) of a trained model can have. Every unit is
// measured alone: output error, change of the loss, cost. Added up they give a frontier of accuracy against cost, of which some
// points, and every kernel alone, are measured with the whole model. The cheapest assignment whose validation loss rises by at
// most --limit is chosen and, with --out, written as a run with `--technique multi_kernel:assignment=...`: sample and
// train --resume use it. See attention/multi_kernel.ts and techniques/multi_kernel.ts.
import path from 'node:path'
import type { Writable } from 'node:stream'
import type { z } from 'zod'
import { DrawnDirections } from '../attention/favor'
import type { AttentionKernel } from '../attention/kernels'
import { choose, chooseExactly, formatAssignment, frontier, type FrontierPoint } from '../attention/multi_kernel'
import { noGrad } from '../autograd/tape'
import { checkCombination } from '../catalog/entry'
import { loadTextDataset } from '../data/tokens'
import type { TextModel } from '../models/model_entry'
import { randn } from '../ops/random'
import { attentionLayers } from '../techniques/layers'
import { assignKernels, assignmentOf, measureUnits, multiKernelTechnique, namedKernels, unitsOf, type MeasuredChoice, type Unit } from '../techniques/multi_kernel'
import { getDevice, type Device } from '../tensor/device'
import { Generator } from '../tensor/random'
import { scope } from '../tensor/scope'
import { saveCheckpoint } from '../train/checkpoint_file'
import { formatCount, median } from '../train/format'
import { RunFolder } from '../train/run_folder'
import type { TrainerState } from '../train/trainer'
import { kernelsSchema } from './config'
import { findEntry } from './entries'
import { lossOf, meanLoss } from './evaluate'
import { optionError, resolveOptions } from './options'
import { batchesOf, openModel, prepareDevice } from './training_run'

const base = 'softmax'
/** Up to so many units every assignment is in question, with more those of the convex frontier. */
const kMostExact = 16

/** An assignment as it was foretold and as the whole model was measured. */
export interface MeasuredPoint {
  kernels: string[]
  /** Of attention, added up over the units: seconds or FLOPs. */
  cost: number
  /** Of the loss, foretold. */
  change: number
  /** Of the validation loss. */
  measured: number
  /** Of one micro-batch forward through the whole model. */
  ms: number
}

export interface KernelsReport {
  run: string
  out?: string
  cost: 'seconds' | 'flops'
  /** Validation loss by softmax alone. */
  loss: number
  units: { unit: Unit; choices: MeasuredChoice[] }[]
  frontier: MeasuredPoint[]
  /** Each kernel alone. */
  single: MeasuredPoint[]
  chosen: MeasuredPoint & { assignment: string }
}

type Options = z.output<typeof kernelsSchema>

export async function kernelsCommand(flags: Record<string, unknown>, stdout: Writable = process.stdout): Promise<number> {
  const { values } = resolveOptions(kernelsSchema, [{ origin: 'flag', values: flags }])
  const report = await measureKernels(values)
  stdout.write(values.json ? `${JSON.stringify({ event: 'kernels', ...report })}\n` : reportText(report, values))
  return 0
}

async function measureKernels(options: Options): Promise<KernelsReport> {
  const { run, out, window, features, limit } = options
  if (out !== undefined && path.resolve(run) === path.resolve(out)) throw optionError(`--out ${out} is the run itself`, 'give another folder')
  const device = getDevice(options.device)
  const { model, config, tokenizer, folder, checkpoint } = await openModel(run, device)
  try {
    prepareDevice({ device: options.device, threads: options.threads ?? config.threads, memoryLimit: undefined })
    const others = config.technique.filter((text) => text.split(':')[0] !== multiKernelTechnique.name)
    checkCombination([multiKernelTechnique, ...(await Promise.all(others.map((text) => findEntry('technique', text)))).map(({ entry }) => entry)])
    const { entry } = await findEntry('model', config.model)
    const { data, evalData } = batchesOf(entry, await loadTextDataset({ ...config, tokenizer, evalTokens: options.evalTokens }), config.seed)
    model.eval()

    const names = [...new Set([base, ...options.kernel])]
    const directions = new DrawnDirections(0)
    const kernels = (layer: number) => namedKernels(names, layer, directions, { window, features })
    const ends = Array.from({ length: options.stretches }, (_, i) => (i + 1 === options.stretches ? Infinity : Math.ceil((config.context * (i + 1)) / options.stretches)))
    const units = unitsOf(model, ends)
    const shape = { batch: config.batch, context: config.context, causal: entry.objective === 'next_token' }
    const measured = await measureUnits(model, units, kernels, base, {
      loss: () => meanLoss(model, { length: options.batches, batch: (i) => data.batch(i) }, device),
      cost: costs(model, shape, device, options),
    })

    const judge = judgeOf(model, (chosen) => assignKernels(model, assignmentOf(units, chosen), kernels), { data, evalData, device, repeats: options.repeats })
    const alone = names.map((name) => foretold(measured, units.map(() => name)))
    const [softmax] = alone
    const line = frontier(measured)
    const points = line.filter((_, i) => line.length <= options.points || i === 0 || Math.floor((i * (options.points - 1)) / (line.length - 1)) > Math.floor(((i - 1) * (options.points - 1)) / (line.length - 1)))
    const loss = await judge.loss(softmax)
    const known = [...alone, ...points]
    const ms = await judge.times(known)
    const whole: MeasuredPoint[] = []
    for (const [i, point] of known.entries()) whole.push({ ...point, measured: (await judge.loss(point)) - loss, ms: ms[i] })

    const wanted = units.length > kMostExact ? choose(line, limit) : chooseExactly(measured, limit)
    // What was foretold may not hold for the model as a whole: then the next cheapest of the frontier, at last softmax itself.
    const inTurn = [wanted, ...line.filter(({ cost, change }) => cost > wanted.cost && change < wanted.change).reverse(), softmax]
    let chosen: KernelsReport['chosen'] | undefined
    for (const point of inTurn) {
      const rise = (await judge.loss(point)) - loss
      if (rise > limit) continue
      chosen = { ...point, measured: rise, ms: (await judge.times([point]))[0], assignment: formatAssignment(assignmentOf(units, point.kernels)) }
      break
    }
    if (out !== undefined) {
      const text = `${multiKernelTechnique.name}:assignment=${chosen!.assignment},window=${window},features=${features},redraw=0`
      const made = await RunFolder.create(out, { ...folder.config, values: { ...folder.config.values, technique: [...others, text], out } }, tokenizer)
      const state = checkpoint.state as TrainerState
      const techniques = { ...state.techniques, [multiKernelTechnique.name]: { draw: 0 } }
      await saveCheckpoint(made.checkpoints, checkpoint.step, { tensors: checkpoint.tensors, state: { ...state, techniques } })
    }
    return {
      run, out, cost: options.cost, loss,
      units: units.map((unit, i) => ({ unit, choices: measured[i] })),
      single: whole.slice(0, alone.length), frontier: whole.slice(alone.length), chosen: chosen!,
    }
  } finally {
    model.dispose()
  }
}

/** The sums of what was measured of single units. */
function foretold(measured: readonly (readonly MeasuredChoice[])[], kernels: string[]): FrontierPoint {
  const chosen = measured.map((choices, u) => choices.find(({ kernel }) => kernel === kernels[u])!)
  return { kernels, cost: chosen.reduce((n, { cost }) => n + cost, 0), change: chosen.reduce((n, { change }) => n + change, 0) }
}

/** What one call of a kernel costs on random queries, keys and values of a unit's shape; equal shapes are measured once. */
function costs(
  model: TextModel,
  { batch, context, causal }: { batch: number; context: number; causal: boolean },
  device: Device,
  { cost, repeats }: Pick<Options, 'cost' | 'repeats'>,
): (unit: Unit, kernel: AttentionKernel, name: string) => Promise<number> {
  const layers = attentionLayers(model, 'multi_kernel')
  const known = new Map<string, number>()
  return async ({ layer, from, to }, kernel, name) => {
    const { heads, kvHeads, headWidth } = layers[layer]
    const [group, last] = [heads / kvHeads, Math.min(to, context)]
    const key = [name, group, headWidth, from, last].join()
    if (known.has(key)) return known.get(key)!
    const generator = new Generator(1)
    const make = (tokens: number, count: number) => randn([batch, tokens, count, headWidth], { device, generator })
    const [q, k, v] = [make(last - from, group), make(causal ? last : context, 1), make(causal ? last : context, 1)]
    const call = () => scope(() => void noGrad(() => kernel(q, k, v, { heads: group, kvHeads: 1, causal })))
    const seconds: number[] = []
    let flops = 0
    for (let i = -1; i < repeats; ++i) {
      const [before, since] = [await device.synchronize(), performance.now()]
      call()
      flops = (await device.synchronize()).flops - before.flops
      if (i >= 0) seconds.push((performance.now() - since) / 1000)
    }
    for (const each of [q, k, v]) each.dispose()
    known.set(key, cost === 'flops' ? flops : median(seconds))
    return known.get(key)!
  }
}

/** Measures whole assignments. */
function judgeOf(
  model: TextModel,
  assign: (kernels: readonly string[]) => void,
  { data, evalData, device, repeats }: ReturnType<typeof batchesOf> & { device: Device; repeats: number },
) {
  const batch = data.batch(0)
  const time = async (kernels: readonly string[]) => {
    assign(kernels)
    await device.synchronize()
    const since = performance.now()
    scope(() => void noGrad(() => lossOf(model, batch, device)))
    await device.synchronize()
    return performance.now() - since
  }
  return {
    async loss({ kernels }: FrontierPoint) {
      assign(kernels)
      return meanLoss(model, evalData, device)
    },
    /** Medians of milliseconds, taken in turn so that all see the same machine; the first round warms up. */
    async times(points: readonly FrontierPoint[]) {
      const taken: number[][] = points.map(() => [])
      for (let i = -1; i < repeats; ++i) for (const [p, { kernels }] of points.entries()) taken[p].push(await time(kernels))
      return taken.map(([, ...counted]) => median(counted))
    },
  }
}

const signed = (value: number) => `${value < 0 ? '' : '+'}${value.toFixed(4)}`

function reportText({ loss, units, single, frontier: line, chosen, out, cost }: KernelsReport, { limit }: Options): string {
  const costText = (value: number) => (cost === 'flops' ? formatCount(value) : (1e6 * value).toFixed(0)).padStart(10)
  const costName = (cost === 'flops' ? 'FLOPs' : 'us').padStart(10)
  const place = ({ layer, head, from, to }: Unit) => `${layer}.${head}${from || to < Infinity ? ` ${from}-${to < Infinity ? to : ''}` : ''}`
  const row = (name: string, p: MeasuredPoint) => `${name.padEnd(10)}${costText(p.cost)}${signed(p.change).padStart(11)}${signed(p.measured).padStart(11)}${p.ms.toFixed(2).padStart(11)}`
  const kinds = (kernels: readonly string[]) => [...new Set(kernels)].map((name) => `${kernels.filter((each) => each === name).length} ${name}`).join(', ')
  return [
    `layer.head kernel    out. error    loss${costName}`,
    ...units.flatMap(({ unit, choices }) => choices.map((c) => `${place(unit).padEnd(10)} ${c.kernel.padEnd(10)}${c.error.toFixed(4).padStart(9)} ${signed(c.change).padStart(9)}${costText(c.cost)}`)),
    '',
    `validation loss ${loss.toFixed(4)}; its change foretold and measured, ms of a micro-batch forward`,
    `          ${costName}   foretold   measured         ms`,
    ...single.map((point) => row(point.kernels[0], point)),
    ...line.map((point, i) => `${row(`point ${i + 1}`, point)}  ${kinds(point.kernels)}`),
    '',
    `${row('chosen', chosen)}  ${kinds(chosen.kernels)}, at most +${limit}`,
    ...(out === undefined ? [`  multi_kernel:assignment=${chosen.assignment}`] : [`written to ${out}: sample --run ${out}, train --resume ${out}`]),
    '',
  ].join('\n')
}
