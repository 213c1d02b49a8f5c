// Masks of sparse training: f32 tensors of 0 and 1 beside the matrices they belong to. Masked weights and the optimiser's
// state at them are 0, so that weight decay and momentum do not revive them. Everything stays on the device: the largest
// scores are found by a stable sort, so the counts are exact and ties fall to the first element.
// Masks make no product faster: a step costs what it did. Density is what training would cost on a device that skips zeros.
import { noGrad } from '../autograd/tape'
import { LeanformerError } from '../native/errors'
import type { Parameter } from '../nn/parameter'
import { cast } from '../ops/cast'
import { concat } from '../ops/concat'
import { copy } from '../ops/copy'
import { ones, zeros } from '../ops/creation'
import { abs, greater, logicalNot, mul } from '../ops/elementwise'
import { scatterAdd } from '../ops/gather'
import { rand } from '../ops/random'
import { slice, writeSlice } from '../ops/slice'
import { topK } from '../ops/sort'
import { where } from '../ops/where'
import type { Optimizer } from '../optim/optimizer'
import { Generator } from '../tensor/random'
import { keep, scope } from '../tensor/scope'
import type { Tensor } from '../tensor/tensor'
import type { GradientOptions, StepContext } from './technique'

/** Matrices of hidden layers: no embeddings, positions, heads, vectors or gates. */
export function isMaskable(name: string, { shape }: Parameter): boolean {
  return shape.length >= 2 && !/embedding|position|(^|\.)head(\.|$)|gate/.test(name)
}

export function maskableOf(parameters: Map<string, Parameter>): Map<string, Parameter> {
  return new Map([...parameters].filter(([name, parameter]) => isMaskable(name, parameter)))
}

/** 1 at the k largest scores of a tensor, 0 elsewhere. */
export function keepLargest(scores: Tensor, k: number): Tensor {
  const n = scores.size
  const { device } = scores
  if (k >= n) return ones(scores.shape, { device })
  if (k <= 0) return zeros(scores.shape, { device })
  const { indices } = topK(scores.viewAs([n]), k, 0)
  return scatterAdd(zeros([n], { device }), 0, indices, ones([k], { device })).viewAs(scores.shape)
}

/** Scores with those outside (or inside) of a mask below every other. Scores must not be negative. */
const among = (mask: Tensor, scores: Tensor) => where(greater(mask, zeros([], { device: mask.device })), scores, -1)
const outside = (mask: Tensor, scores: Tensor) => where(logicalNot(greater(mask, zeros([], { device: mask.device }))), scores, -1)

/** `drop` of the kept weights with the smallest |w| go, as many with the largest of `growth` (not negative) come. */
export function dropAndGrow(weight: Tensor, mask: Tensor, active: number, drop: number, growth: Tensor): Tensor {
  const kept = keepLargest(among(mask, cast(abs(weight), 'f32')), active - drop)
  const grown = keepLargest(outside(kept, growth), drop)
  return where(greater(grown, zeros([], { device: mask.device })), ones([], { device: mask.device }), kept)
}

export class Masks {
  readonly masks = new Map<string, Tensor>()
  /** Kept weights by name. */
  readonly active = new Map<string, number>()

  constructor(
    readonly parameters: Map<string, Parameter>,
    private readonly optimizer: Optimizer | null = null,
  ) {
    if (!parameters.size) {
      throw new LeanformerError('ERR_OPTION', 'sparse training: the model has no matrix that masks could be for', 'a hidden layer of at least 2 axes is needed')
    }
  }

  get size(): number {
    return [...this.parameters.values()].reduce((n, { tensor }) => n + tensor.size, 0)
  }

  /** Kept weights over all weights of the masked matrices. */
  get density(): number {
    return [...this.active.values()].reduce((a, b) => a + b, 0) / this.size
  }

  /** Replaces the mask of one matrix by one with `active` ones, and zeroes what it takes out. */
  set(name: string, mask: Tensor, active: number): void {
    this.masks.get(name)?.dispose()
    this.masks.set(name, keep(mask.ownsMemory ? mask : copy(mask)))
    this.active.set(name, active)
    noGrad(() => scope(() => this.zeroOutside(name)))
  }

  private zeroOutside(name: string): void {
    const parameter = this.parameters.get(name)!
    const states = [...(this.optimizer?.slotsOf(name).values() ?? [])]
    for (const tensor of [parameter.tensor, ...states]) {
      if (tensor.dtype === 'u8') {
        throw new LeanformerError('ERR_OPTION', `sparse training: the optimizer keeps 8-bit state of ${name}`, 'choose an optimizer with f32 state')
      }
      if (tensor.size !== parameter.tensor.size) continue // row and column means
      writeSlice(tensor, mul(tensor, cast(this.masks.get(name)!, tensor.dtype)), tensor.shape.map(() => 0))
    }
    parameter.refresh()
  }

  /** Masked weights back to 0, after an update. */
  apply(): void {
    noGrad(() =>
      scope(() => {
        for (const [name, mask] of this.masks) {
          const parameter = this.parameters.get(name)!
          writeSlice(parameter.tensor, mul(parameter.tensor, cast(mask, parameter.tensor.dtype)), parameter.shape.map(() => 0))
          parameter.refresh()
        }
      }),
    )
  }

  /** Gradients of masked weights to 0. */
  maskGradients(): void {
    noGrad(() =>
      scope(() => {
        for (const [name, mask] of this.masks) {
          const parameter = this.parameters.get(name)!
          if (!parameter.grad) continue
          const masked = keep(mul(parameter.grad, cast(mask, parameter.grad.dtype)))
          parameter.zeroGrad()
          parameter.tensor.grad = masked
        }
      }),
    )
  }

  /** Random masks of these densities. */
  startRandom(densities: ReadonlyMap<string, number>, seed: number): void {
    const generator = new Generator(seed)
    for (const [name, parameter] of this.parameters) {
      const count = Math.round(densities.get(name)! * parameter.tensor.size)
      scope(() => this.set(name, keepLargest(rand(parameter.shape, { generator, device: parameter.tensor.device }), count), count))
    }
  }

  /** Masks that keep the `keep` weights with the largest |w| of all matrices together, or of each one; of the kept ones alone. */
  pruneByMagnitude(keepOf: number | ReadonlyMap<string, number>): Promise<void> | void {
    return this.pruneBy((name) => {
      const size = abs(this.parameters.get(name)!.tensor)
      const mask = this.masks.get(name)
      return mask ? among(mask, cast(size, 'f32')) : cast(size, 'f32')
    }, keepOf)
  }

  /** Masks that keep the weights with the largest scores, f32 tensors like the matrices. */
  pruneBy(scores: (name: string) => Tensor, keepOf: number | ReadonlyMap<string, number>): Promise<void> | void {
    if (typeof keepOf !== 'number') {
      for (const [name, count] of keepOf) noGrad(() => scope(() => this.set(name, keepLargest(scores(name), count), count)))
      return
    }
    const names = [...this.parameters.keys()]
    const parts = noGrad(() =>
      scope(() => {
        const flat = names.map((name) => scores(name).viewAs([this.parameters.get(name)!.tensor.size]))
        const all = keepLargest(concat(flat), keepOf)
        let first = 0
        return flat.map((part) => slice(all, [first], [(first += part.size)]))
      }),
    )
    // How many a matrix keeps is known on the device alone.
    return Promise.all(parts.map((part) => part.toFloat32())).then((values) => {
      values.forEach((kept, i) => {
        const { shape } = this.parameters.get(names[i])!
        scope(() => this.set(names[i], copy(parts[i].viewAs(shape)), kept.reduce((a, b) => a + b, 0)))
        parts[i].dispose()
      })
    })
  }

  state(): { data: Record<string, number>; tensors: Map<string, Tensor> } {
    return { data: Object.fromEntries(this.active), tensors: this.masks }
  }

  load({ data, tensors }: { data?: unknown; tensors: Map<string, Tensor> }): void {
    for (const mask of this.masks.values()) mask.dispose()
    this.masks.clear()
    this.active.clear()
    for (const [name, mask] of tensors) {
      if (!this.parameters.has(name)) throw new LeanformerError('ERR_CHECKPOINT', `sparse training: a mask for '${name}', which is not masked here`)
      this.masks.set(name, mask)
      this.active.set(name, (data as Record<string, number>)[name])
    }
  }

  summary(name: string): Promise<string[]> {
    const percent = (100 * this.density).toPrecision(3)
    return Promise.resolve([`${name}: ${percent} % of ${this.size} weights are kept; products are dense, so no step became faster`])
  }

  dispose(): void {
    for (const mask of this.masks.values()) mask.dispose()
    this.masks.clear()
  }
}

/** Techniques whose gradients a sparse one must see whole. */
export const gradientTechniques = ['sam', 'asam', 'looksam', 'm_sam', 'noise_scale'] as const

/** Runs a step whose gradients `change` edits once they are complete, and puts masked weights back to 0. */
export function maskedStep(masks: Masks, next: () => void, context: StepContext, change: () => void): void {
  const plain = context.gradients
  context.gradients = (options?: GradientOptions) => {
    plain(options)
    change()
  }
  try {
    next()
  } finally {
    context.gradients = plain
  }
  masks.apply()
}

/** What sparse techniques say of combinations. */
export const sparse = {
  decides: ['zero_weights'],
  excludes: {
    trained_parameters: 'the weights that masks are found for are frozen',
    progressive_stacking: 'layers that come later have no masks',
    ema: 'averages of weights under changing masks are not sparse',
    swa: 'averages of weights under changing masks are not sparse',
  },
} as const

/** Those of them that mask the weights in place, and the optimiser's state with them. */
export const sparseInPlace = { ...sparse, excludes: { ...sparse.excludes, adamw_8bit: 'its 8-bit state cannot be masked' } } as const
