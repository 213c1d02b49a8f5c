// Muon: matrices of hidden layers move along the orthogonal factor of their momentum: m = b m + (1 - b) g,
// u = b m + (1 - b) g, O = NS5(u), p -= lr (wd p + c O). Newton-Schulz: X = u / |u|, five times A = X X^T,
// X = 3.4445 X + (-4.775 A + 2.0315 A^2) X, which brings singular values near 1 (0.68 to 1.13), not to 1. c is
// sqrt(max(1, rows / columns)), or 0.2 sqrt(max(rows, columns)), with which AdamW's rates and decay fit. Fused matrices
// are taken apart; everything else (embeddings, head, vectors) takes AdamW's step.
// Sources: Jordan et al., kellerjordan.github.io/posts/muon; the second scale, arXiv 2502.16982.
import { LeanformerError } from '../native/errors'
import type { Parameter } from '../nn/parameter'
import { cast } from '../ops/cast'
import { add, addScalar, div, mulScalar, sqrt, square } from '../ops/elementwise'
import { matmul } from '../ops/matmul'
import { sum } from '../ops/reductions'
import type { Tensor } from '../tensor/tensor'
import { adamw, type AdamWOptions } from './adamw'
import { membersOf, partsOf, scaled, skipOnly, updateGroup } from './group'
import { checkFractions, defineOptimizer, Optimizer, type ParameterGroup } from './optimizer'

export interface MuonOptions {
  /** Decay of the momentum; default 0.95. */
  momentum?: number
  /** Newton-Schulz iterations; default 5. */
  iterations?: number
  /** 'match_adamw' (default) or 'shape'. */
  scale?: 'match_adamw' | 'shape'
  /** Products of the iteration in bf16; default false. */
  bf16?: boolean
  /** Factor of the learning rate for what AdamW updates; default 1. */
  adamwRate?: number
  /** AdamW's settings; default beta1 0.9, beta2 0.95, eps 1e-8. */
  adamw?: AdamWOptions
  /** Whether a parameter of at least 2 axes is a hidden matrix; default: by name, all but embeddings, positions and heads. */
  isHidden?: (name: string, parameter: Parameter) => boolean
}

/** The Newton-Schulz iterate of u [rows, columns], near its orthogonal factor. Costs `iterations` times 3 products. */
export function orthogonalize(u: Tensor, { iterations = 5, bf16 = false, eps = 1e-7 } = {}): Tensor {
  const normalized = div(u, addScalar(sqrt(sum(square(u))), eps))
  let x = bf16 ? cast(normalized, 'bf16') : normalized
  const tall = u.shape[0] > u.shape[1]
  for (let i = 0; i < iterations; ++i) {
    const a = tall ? matmul(x, x, { transposeA: true }) : matmul(x, x, { transposeB: true })
    const b = add(mulScalar(a, -4.775), mulScalar(matmul(a, a), 2.0315))
    x = add(mulScalar(x, 3.4445), tall ? matmul(x, b) : matmul(b, x))
  }
  return cast(x, u.dtype)
}

export class Muon extends Optimizer {
  private readonly options: Required<MuonOptions> & { adamw: Required<AdamWOptions> }

  constructor(groups: ParameterGroup[], options: MuonOptions = {}) {
    super(groups)
    this.options = {
      momentum: 0.95,
      iterations: 5,
      scale: 'match_adamw',
      bf16: false,
      adamwRate: 1,
      isHidden: (name) => !/embedding|position|(^|\.)head(\.|$)/.test(name),
      ...options,
      adamw: { beta1: 0.9, beta2: 0.95, eps: 1e-8, ...options.adamw },
    }
    const { momentum, iterations, adamw: { beta1, beta2 } } = this.options
    checkFractions('Muon', { momentum, beta1, beta2 })
    if (!Number.isInteger(iterations) || iterations < 1) {
      throw new LeanformerError('ERR_OPTION', `Muon: iterations must be a whole number above 0, got ${iterations}`)
    }
  }

  protected update(named: [string, Parameter][], lr: number, weightDecay: number, clip: Tensor | null, group: ParameterGroup): void {
    const { isHidden, adamwRate } = this.options
    const hidden = named.filter(([name, parameter]) => parameter.shape.length >= 2 && isHidden(name, parameter))
    const rest = named.filter((each) => !hidden.includes(each))
    if (rest.length) {
      const moments = (slot: string) => rest.map(([name, parameter]) => this.slot(slot, name, parameter))
      adamw(
        { ...membersOf(rest), m: moments('m'), v: moments('v'), clip },
        { ...this.options.adamw, eps: this.options.adamw.eps * (group.epsScale ?? 1), lr: lr * adamwRate, weightDecay, step: this.steps },
      )
    }
    if (hidden.length) this.updateHidden(hidden, lr, weightDecay, clip)
  }

  private updateHidden(named: [string, Parameter][], lr: number, weightDecay: number, clip: Tensor | null): void {
    const { momentum, iterations, bf16 } = this.options
    const members = membersOf(named)
    const buffers = named.map(([name, parameter]) => this.slot('momentum', name, parameter))
    updateGroup('lerp', { parameters: buffers, grads: members.grads, clip }, { rate: 1 - momentum })
    const targets = { parameters: [] as Tensor[], grads: [] as Tensor[], copies: [] as (Tensor | null)[] }
    for (const [i, [, parameter]] of named.entries()) {
      const u = add(mulScalar(buffers[i], momentum), mulScalar(scaled(members.grads[i], clip), 1 - momentum))
      const copies = parameter.copy ? partsOf(parameter.copy, parameter.parts) : null
      const pieces = partsOf(parameter.tensor, parameter.parts)
      for (const [k, piece] of partsOf(u, parameter.parts).entries()) {
        const columns = piece.size / piece.shape[0]
        const direction = orthogonalize(piece.viewAs([piece.shape[0], columns]), { iterations, bf16 })
        targets.parameters.push(pieces[k])
        targets.grads.push(mulScalar(direction, -lr * this.scaleOf(piece.shape[0], columns)))
        targets.copies.push(copies?.[k] ?? null)
      }
    }
    updateGroup('scaled_add', { ...targets, clip: skipOnly(clip) }, { decay: 1 - lr * weightDecay, factor: 1 })
  }

  private scaleOf(rows: number, columns: number): number {
    return this.options.scale === 'shape' ? Math.sqrt(Math.max(1, rows / columns)) : 0.2 * Math.sqrt(Math.max(rows, columns))
  }
}

export const muonEntry = defineOptimizer({
  name: 'muon',
  title: 'Muon: orthogonalised momentum for hidden matrices, AdamW for the rest',
  source: 'Jordan et al. 2024, kellerjordan.github.io/posts/muon; arXiv 2502.16982',
  settings: {
    momentum: { default: 0.95, min: 0, max: 0.999999, help: 'decay of the momentum' },
    iterations: { default: 5, min: 1, integer: true, help: 'Newton-Schulz iterations' },
    scale: { default: 'match_adamw', choices: ['match_adamw', 'shape'], help: 'size of a step: as large as AdamW steps, or by the shape' },
    bf16: { default: false, help: 'iterate in bf16' },
    adamw_rate: { default: 1, min: 0, help: 'factor of the learning rate for what AdamW updates' },
    beta1: { default: 0.9, min: 0, max: 0.999999, help: "AdamW's decay of the first moment" },
    beta2: { default: 0.95, min: 0, max: 0.999999, help: "AdamW's decay of the second moment" },
    eps: { default: 1e-8, min: 0, help: "AdamW's addition to the root of the second moment" },
  },
  make: (groups, { adamw_rate: adamwRate, beta1, beta2, eps, scale, ...rest }) =>
    new Muon(groups, { ...rest, adamwRate, scale: scale as MuonOptions['scale'], adamw: { beta1, beta2, eps } }),
})
