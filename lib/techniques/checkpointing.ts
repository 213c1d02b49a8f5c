// Checkpointing: layers are run again in the backward pass instead of keeping what they made, with the same numbers bit for bit.
//   every    stretches of `every` layers          sqrt     about sqrt(layers) stretches (Chen et al., arXiv 1604.06174)
//   selective the cheap operators of each layer: norms, gates, and attention kernels that keep their scores (Korthikanti
//            et al., arXiv 2205.05198)
//   optimal  the fewest FLOPs within a budget of bytes (Beaumont et al., arXiv 1911.13214). The budget is for all live bytes
//            of the device in a step. The first step measures what each layer costs, with the fewest bytes there are; each
//            later one runs by the plan that is best for the bytes which the chain then has.
import { follow, runPlan, runStages, type Chain, type ChainRunner, type Stage } from '../autograd/chain'
import { measureChain, type MeasuredChain } from '../autograd/chain_costs'
import { chooseWithin, everyPlan, frontier, planOf, sqrtPlan, type Choice, type Plan } from '../autograd/rematerialisation'
import { withCheapRemade } from '../autograd/tape'
import { parseBytes } from '../catalog/bytes'
import { LeanformerError } from '../native/errors'
import type { Module } from '../nn/module'
import type { Device } from '../tensor/device'
import type { Tensor } from '../tensor/tensor'
import { chainsOf } from './layers'
import { defineTechnique } from './technique'

export interface CheckpointingOptions {
  policy: 'none' | 'every' | 'sqrt' | 'selective' | 'optimal'
  /** Layers of a stretch, for 'every'. */
  every?: number
  /** Bytes, for 'optimal'. */
  budget?: number
}

/** What a chain of layers is run by, and what that was forecast to cost. */
export interface ChainForecast {
  plan: Plan
  /** Most live bytes of the device between the chain's first layer and its last gradient. */
  peakBytes: number
  /** FLOPs of what is run again. */
  recomputedFlops: number
  /** FLOPs of the layers' forward pass. */
  forwardFlops: number
}

interface Measured extends MeasuredChain {
  choices: Choice[]
}

/** Runs a model's layers by a policy; its three methods stand at the beginning, between gradients and update, and at the end of a step. */
export class Checkpointing {
  private readonly chains: Chain[]
  private readonly device: Device
  private readonly measured = new Map<string, Measured>()
  /** How often the chain has begun in this step. */
  private calls = 0
  private begins = 0
  /** Live bytes that were not there when the chains were measured. */
  private more = 0
  /** Most live bytes outside of the chain: with gradients, less those that the step begins with; and in the update. */
  private outside = { gradients: 0, update: 0 }
  private plans: ChainForecast[] = []
  /** Of the chain that began last; null: it is being measured, or there is none. */
  private latest: ChainForecast | null = null

  constructor(
    model: Module<never, unknown>,
    private readonly options: CheckpointingOptions,
  ) {
    this.chains = chainsOf(model, 'checkpointing')
    this.device = model.parameters()[0].tensor.device
    if (options.policy === 'optimal' && this.chains.length > 1) {
      throw new LeanformerError('ERR_OPTION', 'checkpointing: policy=optimal is for models with one chain of layers', 'use policy=sqrt for an encoder-decoder')
    }
  }

  beginStep(): void {
    this.calls = 0
    this.latest = null
    this.plans = []
    this.begins = this.device.program(true).liveBytes
    for (const chain of this.chains) chain.runner = this.runner()
  }

  endGradients(): void {
    this.lookOutside('gradients')
  }

  endStep(): void {
    for (const chain of this.chains) chain.runner = null
    this.lookOutside('update')
  }

  /** What the chains of the last step were run by, one for each micro-batch; those that were measured are not there. */
  forecasts(): readonly ChainForecast[] {
    return this.plans
  }

  private runner(): ChainRunner | null {
    const { policy, every = 1 } = this.options
    if (policy === 'none') return null
    if (policy === 'every') return (stages, x, shared) => runPlan(stages, everyPlan(stages.length, every), x, shared)
    if (policy === 'sqrt') return (stages, x, shared) => runPlan(stages, sqrtPlan(stages.length), x, shared)
    if (policy === 'selective') return (stages, x, shared) => withCheapRemade(() => runStages(stages, x, shared))
    return (stages, x) => this.runWithin(stages, x)
  }

  /** Bytes since the last look, unless they were the chain's own. */
  private lookOutside(phase: 'gradients' | 'update'): void {
    if (this.options.policy !== 'optimal') return
    const { peakBytes } = this.device.program(true)
    if (this.latest && peakBytes <= this.latest.peakBytes) return
    const level = phase === 'gradients' ? this.begins : 0
    this.outside[phase] = Math.max(this.outside[phase], peakBytes - level)
    if (this.latest) this.checkBudget()
  }

  private runWithin(stages: readonly Stage[], x: Tensor): Tensor {
    if (this.chains[0].watch) {
      throw new LeanformerError('ERR_OPTION', 'checkpointing: policy=optimal cannot plan bytes that offloading moves', 'use policy=sqrt, or leave gradients and activations where they are')
    }
    this.lookOutside('gradients')
    const key = `${this.calls++} ${stages.length} ${x.dtype} ${x.shape.join()}`
    const known = this.measured.get(key)
    if (!known) {
      this.latest = null
      return measureChain(stages, x, (costs) => this.measured.set(key, { ...costs, choices: frontier(costs) }))
    }
    let h = x
    for (const stage of stages.slice(0, known.frozen)) h = follow(h, stage(h), x)
    const entry = this.device.program().liveBytes
    this.more = entry - known.entry
    this.checkBudget()
    const choice = chooseWithin(known.choices, this.options.budget! - entry)!
    const plan = planOf(choice)
    const forwardFlops = known.stages.reduce((sum, stage) => sum + stage.keepFlops, 0)
    this.latest = { plan, peakBytes: entry + choice.peak, recomputedFlops: choice.flops - forwardFlops, forwardFlops }
    this.plans.push(this.latest)
    const result = runPlan(stages.slice(known.frozen), plan, h)
    if (h !== x) h.dispose()
    return result
  }

  private checkBudget(): void {
    const chains = [...this.measured.values()].map(({ entry, choices }) => entry + this.more + choices[0].peak)
    const least = Math.max(this.begins + this.outside.gradients, this.outside.update, ...chains)
    if (least <= this.options.budget!) return
    throw new LeanformerError(
      'ERR_OPTION',
      `checkpointing: a budget of ${this.options.budget} bytes is too small for this model and batch: the least is ${least} bytes`,
      `give budget=${least}, or take a smaller batch or context`,
    )
  }
}

export const checkpointing = defineTechnique({
  name: 'checkpointing',
  title: 'Checkpointing: layers are run again in the backward pass instead of kept',
  category: 'memory',
  source: 'Chen et al., arXiv 1604.06174; Beaumont et al., arXiv 1911.13214',
  settings: {
    policy: { default: 'sqrt', choices: ['none', 'every', 'sqrt', 'selective', 'optimal'], help: 'which layers; optimal needs a budget' },
    every: { default: 1, min: 1, integer: true, help: 'layers of a stretch, for policy=every' },
    budget: { default: '', help: 'bytes that may be live on the device in a step, such as 64MiB, for policy=optimal' },
  },
  neutral: { settings: { policy: 'none' } },
  make: ({ policy, every, budget }) => {
    if ((policy === 'optimal') !== (budget !== '')) {
      throw new LeanformerError('ERR_OPTION', `checkpointing: policy is ${policy} and budget is ${JSON.stringify(budget)}`, 'policy=optimal needs a budget, such as budget=64MiB, and the others have none')
    }
    const options = { policy: policy as CheckpointingOptions['policy'], every, ...(budget ? { budget: parseBytes('checkpointing: budget', budget) } : {}) }
    let running: Checkpointing | null = null
    return {
      outermost: true,
      setup({ model }) {
        running = new Checkpointing(model, options)
        const dropped = model.namedModules().some(([, module]) => (module as { depth?: unknown }).depth)
        if (policy === 'optimal' && dropped) {
          throw new LeanformerError('ERR_OPTION', 'checkpointing: which layers will be dropped at random is not known, so policy=optimal cannot plan', 'use policy=sqrt')
        }
      },
      step(next) {
        running!.beginStep()
        next()
        running!.endStep()
      },
      grads() {
        running!.endGradients()
      },
      async summary() {
        const forecasts = running?.forecasts() ?? []
        if (!forecasts.length) return []
        const total = (name: 'recomputedFlops' | 'forwardFlops') => forecasts.reduce((sum, forecast) => sum + forecast[name], 0)
        const share = ((100 * total('recomputedFlops')) / total('forwardFlops')).toFixed(0)
        const peak = Math.max(...forecasts.map(({ peakBytes }) => peakBytes))
        return [`checkpointing: ${share} % of the layers' forward FLOPs are computed again; the layers' peak is ${peak} bytes.`]
      },
    }
  },
})
