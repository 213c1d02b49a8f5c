// One pre-norm transformer layer: x + attention(norm(x)), then x + mlp(norm(x)). Without dropout and without anything on
// the branches both additions happen inside the products that feed them. Initialisers may take the norms away and put
// gates, shifts and factors on the branches; techniques may drop branches at random.
import { add } from '../ops/elementwise'
import { full, zeros } from '../ops/creation'
import type { Tensor } from '../tensor/tensor'
import { Attention, type AttentionInputs, type AttentionOptions } from './attention'
import { Dropout } from './dropout'
import { LayerNorm } from './layer_norm'
import { MLP, type MLPActivation } from './mlp'
import { Module } from './module'
import { Parameter } from './parameter'
import { PositionalAttention } from './positional_attention'
import { drawBranch, gated, shifted, timesFactor, type BranchFactor, type DepthRule } from './residual'
import { RMSNorm } from './rms_norm'
import type { Initializer } from '../init/initializer'

export interface BranchOptions {
  /** A trainable factor of the branches, starting at `gateStart`: one for both, or one each. Default 'none'. */
  gates?: 'none' | 'layer' | 'branch'
  gateStart?: number
  /** Trainable scalars added before each branch and around its activation, 0 at first. */
  shifts?: boolean
  /** Constant factor of the branches; default 1. */
  branchScale?: number
}

export interface TransformerBlockOptions extends Omit<AttentionOptions, 'outInit'>, BranchOptions {
  hidden?: number
  norm?: 'layer_norm' | 'rms_norm' | 'none'
  normEps?: number
  activation?: MLPActivation
  /** 'gpsa': gated positional self-attention, see PositionalAttention. */
  attention?: 'softmax' | 'gpsa'
  /** Of gpsa on images: side lengths in patches. */
  grid?: readonly [rows: number, columns: number]
  /** For the last matrix of either branch. */
  residualInit?: Initializer
}

export class TransformerBlock extends Module<[x: Tensor, inputs?: Omit<AttentionInputs, 'residual'>]> {
  norm1: LayerNorm | RMSNorm | null
  attention: Attention
  norm2: LayerNorm | RMSNorm | null
  mlp: MLP
  /** [1] each: the gates and shifts of the branches; with one gate a layer it is `gate`. */
  gate: Parameter | null
  gate1: Parameter | null
  gate2: Parameter | null
  shift1: Parameter | null
  shift2: Parameter | null
  /** Set by techniques that drop layers or branches at random. */
  depth: DepthRule | null = null
  private readonly branchScale: number
  private readonly dropout: Dropout | null

  constructor(width: number, options: TransformerBlockOptions) {
    super()
    const { device, dtype, generator, bias, residualInit, gates = 'none', gateStart = 0, normEps: eps } = options
    const common = { device, dtype, generator, bias }
    const norm = () => {
      if (options.norm === 'none') return null
      return options.norm === 'rms_norm' ? new RMSNorm(width, { ...common, eps }) : new LayerNorm(width, { ...common, eps })
    }
    this.norm1 = norm()
    const inner = { ...options, outInit: residualInit }
    this.attention = options.attention === 'gpsa' ? new PositionalAttention(width, inner) : new Attention(width, inner)
    this.norm2 = norm()
    this.mlp = new MLP(width, options.hidden ?? 4 * width, {
      ...common,
      activation: options.activation,
      shifts: options.shifts,
      downInit: residualInit,
    })
    const gate = (kind: string) => (gates === kind ? new Parameter(full([1], gateStart, common)) : null)
    this.gate = gate('layer')
    this.gate1 = gate('branch')
    this.gate2 = gate('branch')
    const shift = () => (options.shifts ? new Parameter(zeros([1], common)) : null)
    this.shift1 = shift()
    this.shift2 = shift()
    this.branchScale = options.branchScale ?? 1
    this.dropout = options.dropout ? new Dropout(options.dropout) : null
  }

  /** x [batch, tokens, width] -> the same shape. */
  forward(x: Tensor, inputs: Omit<AttentionInputs, 'residual'> = {}): Tensor {
    const { norm1, norm2, attention, mlp, depth } = this
    const draw = (): BranchFactor => {
      if (!depth) return 1
      if (this.training) return drawBranch(depth, x)
      return depth.rescale === 'evaluation' ? depth.keep : 1
    }
    const first = draw()
    const y = this.branch(x, first, this.gate1, (residual) => {
      const h = shifted(norm1 ? norm1.call(x) : x, this.shift1)
      return attention.call(h, { ...inputs, residual })
    })
    return this.branch(y, depth?.unit === 'branch' ? draw() : first, this.gate2, (residual) => {
      const h = shifted(norm2 ? norm2.call(y) : y, this.shift2)
      return mlp.call(h, residual)
    })
  }

  /** x + dropout(factors F), where F adds x itself when nothing stands between. */
  private branch(x: Tensor, draw: BranchFactor, ownGate: Parameter | null, f: (residual: Tensor | null) => Tensor): Tensor {
    if (draw === null) return x
    const gate = ownGate ?? this.gate
    const dropout = this.training ? this.dropout : null
    const factor = typeof draw === 'number' ? draw * this.branchScale : draw
    if (!gate && !dropout && factor === 1) return f(x)
    let y = gated(f(null), gate)
    y = timesFactor(y, factor)
    if (typeof factor !== 'number') y = timesFactor(y, this.branchScale)
    return add(x, dropout ? dropout.call(y) : y)
  }
}
