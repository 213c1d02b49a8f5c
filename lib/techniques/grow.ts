// Growing a trained model and the state of its optimiser. In depth: layers copied on top (progressive stacking), or new ones
// whose last matrices are 0, which change nothing at first. In width by a whole factor k: every unit k times, and what reads
// them divided by k; then the logits stay, each copy of a unit has 1 / k of its gradient, and moments follow (m by 1 / k, v
// by 1 / k^2; the head's stay). Sources: stacking, Gong et al., ICML 2019; Chen et al., Net2Net, arXiv 1511.05641, and
// bert2BERT, arXiv 2110.07143; optimiser state, Shen et al., arXiv 2203.06211.
import { noGrad } from '../autograd/tape'
import { LeanformerError } from '../native/errors'
import type { Parameter } from '../nn/parameter'
import { concat, split } from '../ops/concat'
import { copy } from '../ops/copy'
import { zerosLike } from '../ops/creation'
import { add, mul, mulScalar } from '../ops/elementwise'
import { randn } from '../ops/random'
import type { Optimizer } from '../optim/optimizer'
import { keep, scope } from '../tensor/scope'
import type { Tensor } from '../tensor/tensor'
import { GPT } from '../models/gpt'

export type DepthGrowth = 'stack' | 'identity'

const lastMatrix = /^(attention\.out|mlp\.down)\.(weight|bias)$/

/** Doubles the layers of a model in place: layer L + i starts as layer i, or as a copy of it that adds nothing yet. */
export function growDepth(model: GPT, how: DepthGrowth, optimizer?: Optimizer): void {
  const before = model.config.layers
  const source = model.namedParameters()
  const like = model.parameters()[0].tensor
  model.config.layers = 2 * before
  for (let i = 0; i < before; ++i) model.blocks.push(model.newBlock(before + i, { device: like.device, dtype: like.dtype }))
  const renamed = new Map<string, string>()
  for (const [name, parameter] of model.namedParameters()) {
    const [, index, inner] = /^blocks\.(\d+)\.(.*)$/.exec(name) ?? []
    if (index === undefined || Number(index) < before) continue
    const from = `blocks.${Number(index) - before}.${inner}`
    const old = source.get(from)!
    scope(() => parameter.set(noGrad(() => (how === 'identity' && lastMatrix.test(inner) ? zerosLike(old.tensor) : old.tensor))))
    if (old.copy) parameter.setComputeDType(old.copy.dtype)
    Object.assign(parameter.scales, old.scales)
    parameter.trainable = old.trainable
    renamed.set(from, name)
  }
  for (const [i, block] of model.blocks.entries()) {
    block.training = model.training
    if (i < before) continue
    for (const [, module] of block.namedModules()) module.training = model.training
    block.attention.kernel = model.blocks[i - before].attention.kernel
  }
  if (optimizer) growState(model, optimizer, renamed, how)
}

/** New parameters join the group of the one they were copied from, with its state; where they start anew, without momentum. */
function growState(model: GPT, optimizer: Optimizer, renamed: ReadonlyMap<string, string>, how: DepthGrowth): void {
  const parameters = model.namedParameters()
  for (const group of optimizer.groups) {
    for (const name of [...group.parameters.keys()]) {
      const to = renamed.get(name)
      if (to) group.parameters.set(to, parameters.get(to)!)
    }
  }
  const { tensors, ...rest } = optimizer.state()
  const grown = new Map<string, Tensor>()
  for (const [key, value] of tensors) {
    grown.set(key, keep(value.alias()))
    const dot = key.indexOf('.')
    const to = renamed.get(key.slice(dot + 1))
    if (to) grown.set(`${key.slice(0, dot)}.${to}`, keep(noGrad(() => (how === 'identity' && key.startsWith('m.') ? zerosLike(value) : copy(value)))))
  }
  optimizer.load({ tensors: grown, ...rest })
}

/** How a tensor of the model widens: which axes are repeated, and what the whole is divided by. */
interface Widening {
  /** For each axis the sizes of parts that are repeated one by one; null for an axis that stays. */
  axes: readonly (readonly number[] | null)[]
  divide: boolean
  /** Whether its gradient is divided, too. */
  gradient: boolean
}

function wideningOf(name: string, { shape }: Parameter, model: GPT): Widening {
  const { width, heads, kvHeads } = model.config
  const d = width / heads
  const whole = (axis: number) => [shape[axis]]
  if (/embedding\.weight$/.test(name)) return { axes: [null, whole(1)], divide: false, gradient: true }
  if (name === 'head.weight') return { axes: [null, whole(1)], divide: true, gradient: false }
  const parts = [heads * d, kvHeads * d, kvHeads * d]
  if (/qkv\.weight$/.test(name)) return { axes: [parts, whole(1)], divide: true, gradient: true }
  if (/qkv\.bias$/.test(name)) return { axes: [parts], divide: false, gradient: true }
  const hidden = /mlp\.up\./.test(name) ? Array<number>(shape[0] / model.config.hidden).fill(model.config.hidden) : whole(0)
  if (shape.length === 2) return { axes: [hidden, whole(1)], divide: true, gradient: true }
  // Scalars of branches stay; their gradients, too.
  return shape[0] === 1 ? { axes: [null], divide: false, gradient: false } : { axes: [hidden], divide: false, gradient: true }
}

function repeat(x: Tensor, axis: number, parts: readonly number[], factor: number): Tensor {
  const pieces = parts.length === 1 ? [x] : split(x, parts, axis)
  return concat(pieces.flatMap((piece) => Array<Tensor>(factor).fill(piece)), axis)
}

function widen(x: Tensor, { axes }: Widening, factor: number): Tensor {
  return axes.reduce((wide, parts, axis) => (parts ? repeat(wide, axis, parts, factor) : wide), x)
}

/**
 * The same function with `factor` times the width, heads and hidden units. Copies of a unit stay alike for ever unless
 * dropout or `noise` (a share of each weight's size) tells them apart. `optimizer` may carry over its state with
 * widenState(). The old model stays.
 * @throws ERR_ARGUMENT for models whose layers cannot be widened so
 */
export function growWidth(model: GPT, factor = 2, { noise = 0 } = {}): GPT {
  const { config } = model
  const wrong = (text: string) => new LeanformerError('ERR_ARGUMENT', `growWidth: ${text}`)
  if (!Number.isInteger(factor) || factor < 2) throw wrong(`factor must be a whole number from 2 on, got ${factor}`)
  if (config.attention !== 'softmax' || config.positions === 'alibi') throw wrong('positions that differ by head cannot be repeated')
  const { device, dtype } = model.parameters()[0].tensor
  const grown = new GPT(
    {
      ...config,
      width: factor * config.width,
      heads: factor * config.heads,
      kvHeads: factor * config.kvHeads,
      hidden: factor * config.hidden,
      mup: null,
      // A tied head reads every unit factor times, from embeddings that were divided by sqrt(factor) if they are scaled.
      logitScale: config.logitScale / (config.tiedHead ? (config.scaleEmbeddings ? Math.sqrt(factor) : factor) : 1),
    },
    { device, dtype },
  )
  const wide = grown.namedParameters()
  for (const [name, parameter] of model.namedParameters()) {
    const how = wideningOf(name, parameter, model)
    scope(() =>
      noGrad(() => {
        let value = widen(parameter.tensor, how, factor)
        const rescale = config.scaleEmbeddings && /embedding/.test(name) ? 1 / Math.sqrt(factor) : 1
        value = mulScalar(value, (how.divide ? 1 / factor : 1) * rescale)
        if (noise && value.rank === 2) value = add(value, mulScalar(mul(value, randn(value.shape, { device, dtype })), noise))
        wide.get(name)!.set(value)
      }),
    )
  }
  return grown
}

/** Moments of Adam's kind for growWidth(): loads the state of `from`, which trained `model`, widened, into `to`. */
export function widenState(model: GPT, factor: number, from: Optimizer, to: Optimizer): void {
  const parameters = model.namedParameters()
  const { tensors, ...rest } = from.state()
  const grown = new Map<string, Tensor>()
  for (const [key, value] of tensors) {
    const [slot, name] = [key.slice(0, key.indexOf('.')), key.slice(key.indexOf('.') + 1)]
    const parameter = parameters.get(name)!
    if (slot !== 'm' && slot !== 'v') {
      throw new LeanformerError('ERR_ARGUMENT', `widenState: the state ${slot} is not known`, 'it carries over the moments of Adam and AdamW')
    }
    const how = wideningOf(name, parameter, model)
    const scaled = model.config.scaleEmbeddings && /embedding/.test(name) ? Math.sqrt(factor) : 1
    const share = (how.gradient ? 1 / factor : 1) * scaled
    const wide = noGrad(() => scope(() => mulScalar(widen(value, how, factor), slot === 'm' ? share : share * share)))
    grown.set(key, keep(wide))
  }
  to.load({ tensors: grown, ...rest })
}
