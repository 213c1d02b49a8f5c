// What every technique of this folder is: a name and optional hooks into a training run. The trainer knows no technique by
// name. Each technique also has a plain functional form.
import { resolveSettings, type Combinable, type Entry, type Settings, type Values } from '../catalog/entry'
import type { Module } from '../nn/module'
import type { Parameter } from '../nn/parameter'
import type { Optimizer } from '../optim/optimizer'
import type { Tensor } from '../tensor/tensor'

/** What a technique sees of a run. */
export interface TrainingRun {
  model: Module<never, unknown>
  optimizer: Optimizer
  /** Of the model as it is now: it may grow. */
  readonly parameters: Map<string, Parameter>
  /** Steps in all. */
  steps: number
  /** Learning rate by 0-based step. */
  schedule(step: number): number
  /** Largest global gradient norm; 0: gradients are not clipped. */
  clip: number
  /** The names of all techniques of the run. */
  techniques: ReadonlySet<string>
}

/** Gradients of the step before, which are applied in the backward pass of this one. */
export interface LateGradients {
  /** Of all of them together, and how they are clipped; see clipGradNorm(). */
  norm: Tensor
  clip: Tensor
  /** Puts the late gradient of a parameter, or null, in the place of its own, which waits from now on. */
  exchange(name: string, parameter: Parameter): void
}

/** One micro-batch of token ids. */
export interface Batch {
  /** Both [batch, context]; targets are -1 where nothing counts. */
  inputs: Int32Array
  targets: Int32Array
  batch: number
  context: number
  segments?: Int32Array
  positions?: Int32Array
  /** Targets that count. */
  tokens: number
  /** [batch]: factor of each row's loss; default 1. */
  weights?: Float32Array
}

/** What prepare() may ask for. */
export interface PrepareContext {
  step: number
  /** Micro-batch `i` of up to 64 at this step that the run would not see otherwise. */
  draw(i: number): Batch
}

/** The two halves of one optimisation step. */
export interface StepContext {
  step: number
  /** The learning rate of this step; may be changed before update(). */
  lr: number
  /** Set by a technique before update(): the gradients are not applied, and the step does not count for the optimiser. */
  hold: boolean
  /** Set by a technique before gradients(): parameters are updated in the backward pass, each when its gradient is complete. */
  updateInBackward: boolean
  /** Set by a technique before gradients(), with updateInBackward: what is applied there, instead of this step's gradients. */
  late: LateGradients | null
  /** The micro-batches of this step. */
  readonly batches: readonly Batch[]
  /** Factor of the loss (and so of the gradients) in f16; 1 otherwise. */
  readonly lossScale: number
  /**
   * Fills the parameters' grad from all micro-batches of the step. Called again, it starts from zero with the same batches
   * and the same random numbers.
   */
  gradients(options?: GradientOptions): void
  /** Clips and applies the gradients. */
  update(): void
  /** After update(), on the device: the factor of the gradients, and 1 when the update was left out. */
  readonly clip: Tensor | null
}

export interface GradientOptions {
  /** This micro-batch alone; its gradient is of its share of the step's mean, so that those of all add up to the whole. */
  only?: number
  /** Draw new random numbers instead of those of the first call. */
  redraw?: boolean
}

export interface Technique {
  name: string
  /** What it can be combined with, of a technique of this folder. */
  entry?: Combinable
  /** A step may leave out all that is trained: then there is no gradient, which is no error. */
  mayLeaveOutAll?: boolean
  /** Names of techniques that must come before this one. */
  after?: readonly string[]
  /** Its step() stands around those of all techniques that do not say this. */
  outermost?: boolean
  /** Before anything else, when a run starts: for what takes files. */
  open?(files: { openModel(path: string): Promise<Module<never, unknown>> }): Promise<void>
  /** Changes the model's structure, before its optimiser is made; also when a trained model is loaded. */
  adapt?(model: Module<never, unknown>): void
  /** Once, before the first step. */
  setup?(run: TrainingRun): void
  /** Before a step, may choose other micro-batches for it, and wait for numbers to do so. The device idles meanwhile. */
  prepare?(batches: readonly Batch[], context: PrepareContext): Promise<readonly Batch[]>
  /** May return another batch. */
  batch?(batch: Batch, step: number): Batch
  /** May return another loss, such as one with a penalty added. */
  loss?(loss: Tensor, step: number): Tensor
  /** Sees, and may replace, the gradients before clipping. */
  grads?(parameters: Map<string, Parameter>, step: number): void
  /** Wraps the step; without it, or by calling next(), it is gradients() then update(). */
  step?(next: () => void, context: StepContext): void
  /** The weights to evaluate and to publish, by parameter, where they are not those that train. */
  evaluationWeights?(): Map<string, Tensor> | null
  /** What it found out, in sentences for people, at the end of a run. */
  summary?(): Promise<string[]>
  /** Gives the model the structure it had when `data` was saved by state(); before its parameters are loaded. */
  restore?(model: Module<never, unknown>, data: unknown): void
  /** What must be saved for an exact resume: plain data and tensors. */
  state?(): { data?: unknown; tensors?: Map<string, Tensor> }
  load?(state: { data?: unknown; tensors: Map<string, Tensor> }): void
}

/** A technique's file: what it says of itself, and how one is made. */
export interface TechniqueEntry<S extends Settings = Settings> extends Entry<S> {
  kind: 'technique'
  create(settings?: Partial<Values<S>>): Technique
}

/** Makes the entry that a technique's file exports; create() checks its settings. */
export function defineTechnique<const S extends Settings>(
  entry: Entry<S> & { make(values: Values<S>): Omit<Technique, 'name' | 'entry'> },
): TechniqueEntry<S> {
  const { make, ...rest } = entry
  const whole = { ...rest, kind: 'technique' as const }
  return { ...whole, create: (settings) => ({ name: entry.name, entry: whole, ...make(resolveSettings(entry, settings)) }) }
}

/** Techniques in an order that satisfies every `outermost` and `after`; otherwise as given. */
export function orderTechniques(techniques: readonly Technique[]): Technique[] {
  const ordered: Technique[] = []
  const names = new Set(techniques.map((technique) => technique.name))
  const remaining = [...techniques.filter(({ outermost }) => outermost), ...techniques.filter(({ outermost }) => !outermost)]
  while (remaining.length) {
    const i = remaining.findIndex((technique) =>
      (technique.after ?? []).every((name) => !names.has(name) || ordered.some((done) => done.name === name)),
    )
    // A circle cannot be satisfied; the order given is as good as any.
    ordered.push(...remaining.splice(Math.max(i, 0), 1))
  }
  return ordered
}
