// A trainable tensor: the master values (f32 as a rule) and, while a model computes in 16 bits, a copy in that format.
// Gradients of the copy arrive at the master, in the master's format.
import type { DType } from '../native/dtype'
import { keep } from '../tensor/scope'
import { run, run1, setRequiresGrad, type Tensor } from '../tensor/tensor'

/** How updates, computed in f32, become a 16-bit master again. */
export interface Rounding {
  mode: 'stochastic' | 'nearest'
  seed: number
  /** Tells the parameters of a model apart. */
  index: number
}

export class Parameter {
  private master: Tensor
  private rounding: Rounding | null = null
  private lowPrecision: Tensor | null = null
  private frozen = false
  /** Factors of the learning rate, of the weight decay and of the optimiser's eps for this parameter; see decayGroups(). */
  readonly scales = { lr: 1, weightDecay: 1, eps: 1 }
  /** Rows of each matrix when several are stored as one (queries, keys and values); null: it is one matrix. */
  parts: readonly number[] | null = null

  /** Takes the tensor over. */
  constructor(value: Tensor) {
    this.master = setRequiresGrad(keep(value))
  }

  /** The master values. */
  get tensor(): Tensor {
    return this.master
  }

  /** What layers compute with: the master, or its copy in the compute format. */
  get value(): Tensor {
    return this.lowPrecision ?? this.master
  }

  /** The copy that updates must refresh, if there is one. */
  get copy(): Tensor | null {
    return this.lowPrecision
  }

  get grad(): Tensor | null {
    return this.master.grad
  }

  get shape(): readonly number[] {
    return this.master.shape
  }

  /** Whether gradients are computed for this parameter. */
  get trainable(): boolean {
    return !this.frozen
  }

  set trainable(on: boolean) {
    this.frozen = !on
    this.master.requiresGrad = on
    if (this.lowPrecision) this.lowPrecision.requiresGrad = on
  }

  zeroGrad(): void {
    this.master.grad?.dispose()
    this.master.grad = null
  }

  /** Only matrices and tables get a copy: vectors (biases, norm gains) cost nothing and stay exact. */
  setComputeDType(dtype: DType): void {
    this.lowPrecision?.dispose()
    this.lowPrecision = null
    if (dtype === this.master.dtype || this.master.rank < 2) return
    const copy = keep(run1('cast', [this.master], { dtype }))
    copy.requiresGrad = !this.frozen
    copy.leaf = this.master
    this.lowPrecision = copy
  }

  /** Copies `value` into the parameter. */
  set(value: Tensor): void {
    const fresh = keep(run1(value.dtype === this.master.dtype ? 'copy' : 'cast', [value], { dtype: this.master.dtype } as never))
    const compute = this.lowPrecision?.dtype
    this.zeroGrad()
    this.master.dispose()
    this.master = fresh
    this.trainable = !this.frozen
    fresh.leaf = fresh
    fresh.gradDType = this.rounding && 'f32'
    if (compute) this.setComputeDType(compute)
  }

  /** Takes the tensor over as the master, with no gradient, and gives back the one before, gradient and all. */
  exchange(value: Tensor): Tensor {
    const before = this.master
    this.master = keep(value)
    this.trainable = !this.frozen
    value.leaf = value
    value.gradDType = this.rounding && 'f32'
    if (this.lowPrecision) this.setComputeDType(this.lowPrecision.dtype)
    return before
  }

  /** The values themselves in bf16 from now on, with f32 gradients: there is no other master, so updates must be rounded. */
  narrow(rounding: Rounding): void {
    const before = this.master
    this.rounding = rounding
    this.exchange(run1('cast', [before], { dtype: 'bf16' }))
    before.grad?.dispose()
    before.dispose()
  }

  /** Whether narrow() was called: updates must go through widen(). */
  get isNarrow(): boolean {
    return this.rounding !== null
  }

  /** For an update: f32 numbers stand in the place of a narrow master, gradient and all, until the result is called. */
  widen(): (step: number) => void {
    const { master: narrow, lowPrecision: copy, rounding } = this
    const wide = run1('cast', [narrow], { dtype: 'f32' })
    wide.grad = narrow.grad
    this.master = wide
    this.lowPrecision = null
    return (step) => {
      this.master = narrow
      this.lowPrecision = copy
      wide.grad = null
      const { mode, seed, index } = rounding!
      const rounded =
        mode === 'stochastic'
          ? run1('stochastic_cast', [wide], { seed, offset: step * 2 ** 16 + index })
          : run1('cast', [wide], { dtype: narrow.dtype })
      run('write_slice', [narrow, rounded], { start: this.shape.map(() => 0) })
      this.refresh()
    }
  }

  /** Layers compute with `value` from now on; its gradient arrives at the master. setComputeDType() ends it. */
  computeWith(value: Tensor): void {
    this.lowPrecision?.dispose()
    this.lowPrecision = keep(value)
    value.requiresGrad = !this.frozen
    value.leaf = this.master
  }

  /** Makes what layers compute with follow the master after it was changed in place. */
  refresh(): void {
    if (this.lowPrecision) run('write_slice', [this.lowPrecision, this.inComputeDType()], { start: this.shape.map(() => 0) })
  }

  private inComputeDType(): Tensor {
    return run1('cast', [this.master], { dtype: this.lowPrecision!.dtype })
  }

  dispose(): void {
    this.zeroGrad()
    this.lowPrecision?.dispose()
    this.master.dispose()
  }
}
