// The training loop: forward, backward, clip, update, over any number of micro-batches a step, with the loss and its
// gradient exact per counted token however a batch is split. Steps are enqueued ahead of the device by one, never more,
// so JavaScript does not wait and memory does not pile up. An async iterator of steps is the interface.
import { checkCombination } from '../catalog/entry'
import { noGrad } from '../autograd/tape'
import { backward } from '../autograd/backward'
import { LeanformerError } from '../native/errors'
import type { DType } from '../native/dtype'
import type { Module } from '../nn/module'
import type { LinearCrossEntropyOptions } from '../ops/linear_cross_entropy'
import { accumulate } from '../ops/accumulate'
import { clipGradNorm } from '../ops/clip'
import { zeros } from '../ops/creation'
import { add } from '../ops/elementwise'
import type { Optimizer } from '../optim/optimizer'
import type { Schedule } from '../optim/schedule'
import { orderTechniques, type Batch, type LateGradients, type StepContext, type Technique } from '../techniques/technique'
import { getDevice, type Device } from '../tensor/device'
import { defaultGenerator, type RandomState } from '../tensor/random'
import { keep, scope } from '../tensor/scope'
import { tensor, type Tensor } from '../tensor/tensor'
import { EnergyMeter } from './energy_meter'
import { fromHost, toHost, type HostTensor } from './host_tensor'
import { LossScaler, type LossScalerState } from './loss_scaler'
import { weightedLoss } from './weighted_loss'

/** A model that the trainer can train: GPT and everything with the same loss(). */
export interface LanguageModel extends Module<never, unknown> {
  loss(
    ids: Tensor,
    targets: Tensor,
    inputs: { segments?: Tensor | null; positions?: Tensor | null },
    options: LinearCrossEntropyOptions,
  ): Tensor
}

/** Micro-batches by index, counted from the start of the run; any index at once, so that a resume skips nothing. */
export interface BatchSource {
  batch(index: number): Batch
}

/** Micro-batches that cover the validation data once. */
export interface EvaluationSource extends BatchSource {
  readonly length: number
}

export interface TrainerOptions {
  model: LanguageModel
  optimizer: Optimizer
  schedule: Schedule
  data: BatchSource
  evalData?: EvaluationSource
  /** Optimisation steps in all. */
  steps: number
  /** Micro-batches a step; default 1. */
  accumulate?: number
  /** Evaluate after every so many steps; 0 (default) for never. The last step is always evaluated when there is evalData. */
  evalEvery?: number
  /** Largest global gradient norm; 0 for no clipping. Default 1. */
  clip?: number
  /** Format of products and activations. Parameters and optimiser state stay f32. Default f32. */
  precision?: 'f32' | 'bf16' | 'f16'
  device?: string | Device
  techniques?: readonly Technique[]
  /** Seed of dropout and other randomness in training; default 0. */
  seed?: number
  lossScaler?: LossScaler
}

export interface StepMetrics {
  /** 1-based: steps done. */
  step: number
  /** Mean over the step's counted tokens. */
  loss: number
  lr: number
  /** Global norm before clipping. */
  gradNorm: number
  tokens: number
  tokensPerSecond: number
  stepMs: number
  /** FLOPs that the step's operators declared. */
  flops: number
  liveBytes: number
  /** Highest bytes of live tensors since the run began. */
  peakBytes: number
  /** Power of the device, and its energy since train() began, where it can tell; at most half a second old. */
  watts?: number
  joules?: number
  /** The update was left out because a gradient was not finite (f16 with loss scaling only). */
  skipped?: boolean
  valLoss?: number
}

export interface TrainerState {
  step: number
  optimizerSteps: number
  optimizerScalars?: Record<string, number>
  random: RandomState
  scaler: LossScalerState | null
  techniques: Record<string, unknown>
}

export interface Checkpoint {
  tensors: Record<string, HostTensor>
  state: unknown
}

interface PendingStep {
  step: number
  /** Whether a technique kept the gradients from being applied. */
  held: boolean
  /** Whether parameters were updated before all gradients were known. */
  inBackward: boolean
  batches: readonly Batch[]
  lr: number
  tokens: number
  lossScale: number
  numbers: Promise<[loss: number, norm: number]>
  done: Promise<{ flops: number; liveBytes: number; peakBytes: number }>
  finished: Promise<number>
}

export class Trainer {
  /** Steps whose work has been enqueued. */
  step = 0
  readonly device: Device
  /** On the meta device steps have bytes and FLOPs but no numbers: losses and norms are NaN. */
  private readonly forecast: boolean
  private readonly options: Required<Omit<TrainerOptions, 'evalData' | 'device' | 'lossScaler'>> & { evalData?: EvaluationSource }
  private readonly techniques: Technique[]
  private readonly scaler: LossScaler | null
  /** Where this run's randomness stands; the default generator is lent to it step by step. */
  private random: RandomState
  private lastFlops = 0
  private lastFinish = 0
  private readonly energy: EnergyMeter

  constructor(options: TrainerOptions) {
    this.options = {
      accumulate: 1,
      evalEvery: 0,
      clip: 1,
      precision: 'f32',
      techniques: [],
      seed: 0,
      ...Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined)),
    } as unknown as typeof this.options
    this.device = getDevice(options.device ?? options.model.parameters()[0].tensor.device)
    this.forecast = this.device.name === 'meta'
    this.energy = new EnergyMeter(this.device)
    for (const name of ['steps', 'accumulate'] as const) {
      if (!Number.isInteger(this.options[name]) || this.options[name] < 1) {
        throw new LeanformerError('ERR_OPTION', `trainer: ${name} must be a whole number above 0, got ${this.options[name]}`)
      }
    }
    this.scaler = this.options.precision === 'f16' ? (options.lossScaler ?? new LossScaler()) : null
    const entries = this.options.techniques.map(({ name, entry }) => entry ?? { name })
    checkCombination([...entries, ...(options.optimizer.entry ? [options.optimizer.entry] : [])])
    this.techniques = orderTechniques(this.options.techniques)
    this.random = { seed: this.options.seed, offset: 0 }
    options.model.setComputeDType(this.options.precision as DType)
    for (const technique of this.techniques) {
      technique.setup?.({
        model: options.model,
        optimizer: options.optimizer,
        get parameters() {
          return options.model.namedParameters()
        },
        steps: options.steps,
        schedule: options.schedule,
        clip: this.options.clip,
        techniques: new Set(this.techniques.map(({ name }) => name)),
      })
    }
  }

  /**
   * Trains from the current step to the last. Yields one entry a step, in order. Ends early, at a step boundary and in a
   * state that can be saved, when `signal` aborts.
   * @throws ERR_NON_FINITE with the step and the first operator whose result was not finite
   */
  async *train({ signal }: { signal?: AbortSignal } = {}): AsyncGenerator<StepMetrics> {
    const { steps, evalEvery, evalData } = this.options
    const pending: PendingStep[] = []
    this.device.resetPeak()
    this.energy.start()
    this.lastFlops = (await this.device.synchronize()).flops
    this.lastFinish = performance.now()
    while (this.step < steps && !signal?.aborted) {
      pending.push(this.enqueueStep(await this.prepareBatches(this.step)))
      // Loss scaling decides from each step's outcome, and an evaluation must see exactly this step's weights.
      const evaluates = evalData !== undefined && (this.step === steps || (evalEvery > 0 && this.step % evalEvery === 0))
      const ahead = this.scaler || evaluates ? 0 : 1
      while (pending.length > ahead) {
        const metrics = await this.finishStep(pending.shift()!)
        if (evaluates && pending.length === 0) {
          metrics.valLoss = (await this.evaluate()).loss
          const after = await this.device.synchronize()
          this.lastFlops = after.flops
          this.lastFinish = performance.now()
        }
        yield metrics
      }
    }
    for (const last of pending) yield await this.finishStep(last)
  }

  /** Mean loss over all of evalData, exact per token. The model's mode and the randomness of training stay as they were. */
  async evaluate(): Promise<{ loss: number; tokens: number }> {
    const { model, evalData } = this.options
    if (!evalData) throw new LeanformerError('ERR_OPTION', 'evaluate: the trainer was given no evalData')
    const wasTraining = model.training
    const trained = this.exchangeWeights(this.evaluationWeights())
    model.eval()
    let tokens = 0
    const losses: Promise<number>[] = []
    try {
      for (let i = 0; i < evalData.length; ++i) {
        const batch = evalData.batch(i)
        tokens += batch.tokens
        const loss = scope(() => noGrad(() => this.batchLoss(batch, 1)))
        losses.push(this.forecast ? Promise.resolve(NaN) : loss.item())
        loss.dispose()
        if (losses.length > 1) await losses[losses.length - 2]
      }
    } finally {
      model.train(wasTraining)
      for (const evaluated of this.exchangeWeights(trained)?.values() ?? []) evaluated.dispose()
    }
    const sum = (await Promise.all(losses)).reduce((a, b) => a + b, 0)
    return { loss: sum / tokens, tokens }
  }

  /** What the techniques found out, in sentences for people. */
  async summary(): Promise<string[]> {
    return (await Promise.all(this.techniques.map((technique) => technique.summary?.() ?? []))).flat()
  }

  /** Everything that an exact resume needs, as of now. May be called between steps while training goes on. */
  async state(): Promise<Checkpoint> {
    const { model, optimizer } = this.options
    const optimizerState = optimizer.state()
    const state: TrainerState = {
      step: this.step,
      optimizerSteps: optimizerState.steps,
      optimizerScalars: optimizerState.scalars,
      random: this.random,
      scaler: this.scaler?.state() ?? null,
      techniques: {},
    }
    const published = this.evaluationWeights()
    const sources: [string, Tensor][] = [...model.state()].map(([name, value]) => [`model.${name}`, published?.get(name) ?? value])
    for (const name of published?.keys() ?? []) sources.push([`training.${name}`, model.state().get(name)!])
    for (const [name, value] of optimizerState.tensors) sources.push([`optimizer.${name}`, value])
    for (const technique of this.techniques) {
      const own = technique.state?.()
      if (!own) continue
      state.techniques[technique.name] = own.data
      for (const [name, value] of own.tensors ?? []) sources.push([`technique.${technique.name}.${name}`, value])
    }
    // All reads are enqueued before control leaves, so later steps cannot change what they see.
    const host = await Promise.all(sources.map(([, value]) => toHost(value)))
    for (const value of published?.values() ?? []) value.dispose()
    return { tensors: Object.fromEntries(sources.map(([name], i) => [name, host[i]])), state }
  }

  /** Takes over a checkpoint made by state(). @throws ERR_CHECKPOINT when it does not fit this model or optimiser */
  load(checkpoint: Checkpoint): void {
    const { model, optimizer } = this.options
    const state = checkpoint.state as TrainerState
    scope(() => {
      const groups = new Map<string, Map<string, Tensor>>()
      for (const [name, value] of Object.entries(checkpoint.tensors)) {
        const dot = name.indexOf('.')
        const kind = name.slice(0, dot)
        if (!groups.has(kind)) groups.set(kind, new Map())
        const restored = fromHost(value, this.device)
        // One after another, where it does not fit into memory as a whole.
        if (kind === 'optimizer') optimizer.paging?.pager.pageOut(restored)
        groups.get(kind)!.set(name.slice(dot + 1), restored)
      }
      for (const technique of this.techniques) technique.restore?.(model, state.techniques[technique.name])
      // Where the published weights are not those that train, both are there.
      model.loadState(new Map([...(groups.get('model') ?? []), ...(groups.get('training') ?? [])]))
      const { optimizerSteps: steps, optimizerScalars: scalars } = state
      optimizer.load({ tensors: groups.get('optimizer') ?? new Map(), steps, scalars })
      for (const technique of this.techniques) {
        const own = new Map<string, Tensor>()
        for (const [name, value] of groups.get('technique') ?? []) {
          if (name.startsWith(technique.name + '.')) own.set(name.slice(technique.name.length + 1), keep(value))
        }
        technique.load?.({ data: state.techniques[technique.name], tensors: own })
      }
    })
    this.step = state.step
    this.random = state.random
    if (state.scaler) this.scaler?.load(state.scaler)
  }

  /** Those of the optimiser or of a technique, kept; one of them at most has any. */
  private evaluationWeights(): Map<string, Tensor> | null {
    const { optimizer, model } = this.options
    return noGrad(() =>
      scope(() => {
        const sources = [optimizer.evaluationWeights(), ...this.techniques.map((technique) => technique.evaluationWeights?.() ?? null)]
        const found = sources.filter((weights) => weights !== null)
        if (found.length > 1) {
          throw new LeanformerError(
            'ERR_OPTION',
            'trainer: two of the optimizer and the techniques evaluate other weights than those that train',
            'leave all but one of them out',
          )
        }
        if (!found.length) return null
        const known = model.namedParameters()
        return new Map([...found[0]].filter(([name]) => known.has(name)).map(([name, value]) => [name, keep(value.detach())]))
      }),
    )
  }

  /** Puts these masters in the place of the present ones, which it returns. */
  private exchangeWeights(weights: Map<string, Tensor> | null): Map<string, Tensor> | null {
    if (!weights) return null
    const parameters = this.options.model.namedParameters()
    return new Map([...weights].map(([name, value]) => [name, parameters.get(name)!.exchange(value)]))
  }

  /** Loss of one micro-batch: the sum over its counted tokens times `scale`. */
  private batchLoss(batch: Batch, scale: number): Tensor {
    const shape = [batch.batch, batch.context]
    const ids = (values?: Int32Array) => (values ? tensor(values, shape, { device: this.device }) : null)
    const inputs = { segments: ids(batch.segments), positions: ids(batch.positions) }
    if (batch.weights) return weightedLoss(this.options.model, ids(batch.inputs)!, ids(batch.targets)!, inputs, { weights: batch.weights, scale })
    return this.options.model.loss(ids(batch.inputs)!, ids(batch.targets)!, inputs, { scale })
  }

  /** The step's micro-batches, those of the data unless a technique chooses others. */
  private async prepareBatches(step: number): Promise<readonly Batch[]> {
    const { data } = this.options
    let batches: readonly Batch[] = this.stepBatches(step)
    for (const technique of this.techniques) {
      // Far beyond any index of the run itself.
      const draw = (i: number) => this.changed(data.batch(2 ** 31 + step * 64 + i) as Batch, step)
      if (technique.prepare) batches = await technique.prepare(batches, { step, draw })
    }
    return batches
  }

  private stepBatches(step: number): Batch[] {
    const { accumulate: count, data } = this.options
    return Array.from({ length: count }, (_, i) => this.changed(data.batch(step * count + i), step))
  }

  /** A batch as the techniques want it. */
  private changed(batch: Batch, step: number): Batch {
    return this.techniques.reduce((each, technique) => technique.batch?.(each, step) ?? each, batch)
  }

  /**
   * Gradients of the mean over all counted tokens of a step, from `batches` of it; returns their part of that mean (times
   * `lossScale`).
   */
  private gradients(
    batches: readonly Batch[],
    tokens: number,
    lossScale: number,
    step: number,
    complete?: (leaf: Tensor) => void,
  ): Tensor {
    this.options.optimizer.zeroGrad()
    let total: Tensor | null = null
    for (const [i, batch] of batches.entries()) {
      const loss = scope(() => {
        let value = this.batchLoss(batch, lossScale / tokens)
        for (const technique of this.techniques) value = technique.loss?.(value, step) ?? value
        // With its layers left out, a frozen model has nothing to train.
        if (value.requiresGrad || !this.techniques.some(({ mayLeaveOutAll }) => mayLeaveOutAll)) backward(value, null, i === batches.length - 1 ? { complete } : {})
        return value.detach()
      })
      if (total) accumulate(total, loss)
      else total = loss
    }
    return total!
  }

  /** For backward(): updates each parameter without clipping, and adds the norm of its gradient to `norms`. */
  private updater(lr: number, norms: Tensor[]): (leaf: Tensor) => void {
    const update = this.options.optimizer.stepByParameter(lr)
    return (leaf) => {
      const { norm, clip } = clipGradNorm([leaf.grad!], { maxNorm: 0 })
      norms.push(keep(norm))
      update(leaf, clip)
    }
  }

  /** For backward(): updates each parameter from its late gradient. `end`: those that have no new one. */
  private lateUpdater(lr: number, { clip, exchange }: LateGradients): { complete: (leaf: Tensor) => void; end: () => void } {
    const { model, optimizer } = this.options
    const update = optimizer.stepByParameter(lr)
    const left = new Map([...model.namedParameters()].map((named) => [named[1].tensor, named] as const))
    const complete = (leaf: Tensor) => {
      const [name, parameter] = left.get(leaf)!
      left.delete(leaf)
      exchange(name, parameter)
      update(leaf, clip)
    }
    return { complete, end: () => [...left.keys()].forEach(complete) }
  }

  private enqueueStep(batches: readonly Batch[]): PendingStep {
    const { optimizer, schedule, clip, model } = this.options
    const step = this.step
    const tokens = batches.reduce((n, batch) => n + batch.tokens, 0)
    if (tokens === 0) throw new LeanformerError('ERR_DATA', `trainer: no target counts in the batches of step ${step + 1}`)
    const lossScale = this.scaler?.scale ?? 1
    model.train()
    let lr = schedule(step)
    let held = false
    let inBackward = false
    const outside = defaultGenerator.state()
    const { read: numbers } = scope(() => {
      let loss: Tensor | null = null
      let norm: Tensor | null = null
      let losses: (Tensor | null)[] = []
      const norms: Tensor[] = []
      // Where the random numbers of each micro-batch begin.
      const starts: RandomState[] = []
      defaultGenerator.restore(this.random)
      const context: StepContext = {
        step,
        lr,
        batches,
        lossScale,
        hold: false,
        updateInBackward: false,
        late: null,
        clip: null,
        gradients: ({ only, redraw = false } = {}) => {
          const first = only ?? 0
          const last = only ?? batches.length - 1
          if (!redraw) defaultGenerator.restore((starts[first] ??= defaultGenerator.state()))
          const whole = only === undefined
          const late = context.late && this.lateUpdater(context.lr, context.late)
          const complete = late ? late.complete : context.updateInBackward ? this.updater(context.lr, norms) : undefined
          const value = this.gradients(whole ? batches : [batches[only]], tokens, lossScale, step, complete)
          late?.end()
          if (!redraw) starts[last + 1] ??= defaultGenerator.state()
          // Reported is the loss of the weights that the step began with.
          if (whole) losses = losses.length ? losses : [value]
          else losses[only] ??= value
          for (const technique of this.techniques) technique.grads?.(model.namedParameters(), step)
        },
        update: () => {
          loss = losses.reduce((sum, part) => (sum && part ? add(sum, part) : (sum ?? part)), null)
          // Of parameters that were updated in the backward pass, the norm is left: the norm over all is that of the norms.
          const grads = [...norms, ...model.parameters().flatMap((parameter) => parameter.grad ?? [])]
          const clipped = context.late ?? (grads.length ? clipGradNorm(grads, { maxNorm: clip, unscale: 1 / lossScale }) : null)
          norm = clipped ? clipped.norm : zeros([1], { device: this.device })
          ;(context as { clip: Tensor | null }).clip = clipped?.clip ?? null
          if (!context.hold && !context.updateInBackward) optimizer.step(context.lr, clipped?.clip)
          optimizer.zeroGrad()
        },
      }
      let next = () => {
        context.gradients()
        context.update()
      }
      for (const technique of [...this.techniques].reverse()) {
        const inner = next
        if (technique.step) next = () => technique.step!(inner, context)
      }
      try {
        this.device.repeating(next)
      } finally {
        for (const part of norms) part.dispose()
      }
      lr = context.lr
      held = context.hold
      inBackward = context.updateInBackward && !context.late
      // Read before the scope closes: reads are ordered like everything else. On meta there is nothing to read.
      return { read: this.forecast ? Promise.resolve<[number, number]>([NaN, NaN]) : Promise.all([loss!.item(), norm!.item()]) }
    })
    this.random = defaultGenerator.state()
    defaultGenerator.restore(outside)
    const done = this.device.synchronize()
    const pending = { step, batches, held, inBackward, lr, tokens, lossScale, numbers, done, finished: done.then(() => performance.now()) }
    // Errors surface where the step is awaited.
    for (const promise of [pending.numbers, pending.done, pending.finished]) promise.catch(() => {})
    this.step++
    return pending
  }

  private async finishStep(pending: PendingStep): Promise<StepMetrics> {
    const [stats, finish, [loss, norm]] = await Promise.all([pending.done, pending.finished, pending.numbers])
    const finite = this.forecast || (Number.isFinite(loss) && Number.isFinite(norm))
    if (this.scaler) {
      this.scaler.update(!finite)
      if (!finite && !pending.held) this.options.optimizer.undo()
    } else if (!finite) await this.explainNonfinite(pending, loss)
    const stepMs = finish - this.lastFinish
    const flops = stats.flops - this.lastFlops
    this.lastFinish = finish
    this.lastFlops = stats.flops
    return {
      step: pending.step + 1,
      loss: loss / pending.lossScale,
      lr: pending.lr,
      gradNorm: norm / pending.lossScale,
      tokens: pending.tokens,
      tokensPerSecond: (pending.tokens / stepMs) * 1000,
      stepMs,
      flops,
      liveBytes: stats.liveBytes,
      peakBytes: stats.peakBytes,
      ...this.energy.read(),
      ...(finite ? {} : { skipped: true }),
    }
  }

  /** Runs the gradients of a step again, watching every operator, and throws an error that names the first culprit. */
  private async explainNonfinite({ step, batches, inBackward }: PendingStep, loss: number): Promise<never> {
    const tokens = batches.reduce((n, batch) => n + batch.tokens, 0)
    this.device.checkNonfinite(true)
    scope(() => void this.gradients(batches, tokens, 1, step))
    this.options.optimizer.zeroGrad()
    await this.device.synchronize()
    const culprit = this.device.firstNonfinite()
    this.device.checkNonfinite(false)
    const what = Number.isFinite(loss) ? 'the gradient' : `the loss (${loss})`
    throw new LeanformerError(
      'ERR_NON_FINITE',
      `step ${step + 1}: ${what} is not finite; ` +
        (culprit ? `the first operator with such a result is ${culprit}` : 'repeating the step gave finite numbers'),
      'lower the learning rate, warm up longer, clip gradients, or look for bad values in the data; ' +
        (inBackward ? 'parameters with finite gradients were changed: go on from a checkpoint' : 'the parameters were not changed'),
    )
  }
}
