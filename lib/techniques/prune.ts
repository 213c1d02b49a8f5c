// Pruning of a trained model. Unstructured: the smallest weights become 0. Structured: heads and feed-forward units go, and
// the matrices shrink; whole layers go by keepLayers() of layer_drop.ts. Scores: heads and units by |dL/dg| of a gate g = 1
// on each (for a unit, its Taylor term |sum a dL/da|), layers by how much they turn the hidden state, 1 - cos(x_in, x_out).
// Source: Michel et al., arXiv 1905.10650; Molchanov et al., arXiv 1906.10771; ShortGPT: Men et al., arXiv 2403.03853.
import { backward } from '../autograd/backward'
import { noGrad } from '../autograd/tape'
import { LeanformerError } from '../native/errors'
import type { Attention } from '../nn/attention'
import { linearTargets } from '../nn/linear_parts'
import type { MLP } from '../nn/mlp'
import type { Module } from '../nn/module'
import type { Parameter } from '../nn/parameter'
import { Rescale } from '../nn/rescale'
import { abs, greater, mul } from '../ops/elementwise'
import { cast } from '../ops/cast'
import { concat } from '../ops/concat'
import { reshape, rowsOf } from '../ops/reshape'
import { mean } from '../ops/reductions'
import { slice } from '../ops/slice'
import { topK } from '../ops/sort'
import { scope } from '../tensor/scope'
import { tensor, type Tensor } from '../tensor/tensor'
import { cosineDistance, withLayerStates, type DistillableModel } from './distil'

/** A transformer layer that can be shrunk. */
export type PrunableBlock = Module<never, Tensor> & { attention: Attention; mlp: MLP; forward(...inputs: never[]): Tensor }

/** A model whose layers lie in `blocks`: GPT, LLaMA, BERT, ViT. */
export interface PrunableModel extends Module<never, unknown> {
  blocks: PrunableBlock[]
  config: { layers: number }
}

/** Losses of some batches, one after another; the scores add up over them. */
export type Losses = Iterable<() => Tensor>

/**
 * Gradients of the loss by gates of value 1 on the inputs of a layer's last product, added up over `losses` in magnitude:
 * per head of each block's attention, and per unit of each feed-forward layer.
 */
export async function gateScores(model: PrunableModel, losses: Losses): Promise<{ heads: number[][]; units: number[][] }> {
  const gated = model.blocks.map(({ attention, mlp }) => ({ attention, mlp, layers: [attention.out, mlp.down] }))
  for (const { layers } of gated) {
    for (const layer of layers) {
      if (!layer.plain) throw new LeanformerError('ERR_ARGUMENT', 'prune: a layer has an adapter or packed weights', 'merge or unpack it before pruning')
      layer.adapter = new Rescale(layer, [{ name: 'out', from: 0, to: layer.shape[0] }], () => true)
    }
  }
  const frozen = model.parameters().filter((parameter) => parameter.trainable)
  const gates = gated.map(({ layers }) => layers.map((layer) => (layer.adapter as Rescale).parts[0].factors))
  for (const parameter of frozen) parameter.trainable = gates.flat().includes(parameter)
  try {
    const heads = gated.map(({ attention }) => Array<number>(attention.heads).fill(0))
    const units = gated.map(({ mlp }) => Array<number>(mlp.down.shape[1]).fill(0))
    for (const loss of losses) {
      scope(() => backward(loss()))
      for (const [i, [head, unit]] of gates.entries()) {
        const width = head.tensor.size / heads[i].length
        const byHead = await head.grad!.toFloat64()
        for (let h = 0; h < heads[i].length; ++h) heads[i][h] += Math.abs(byHead.slice(h * width, (h + 1) * width).reduce((a, b) => a + b))
        for (const [u, value] of (await unit.grad!.toFloat64()).entries()) units[i][u] += Math.abs(value)
        head.zeroGrad()
        unit.zeroGrad()
      }
    }
    return { heads, units }
  } finally {
    for (const parameter of frozen) parameter.trainable = true
    for (const { layers } of gated) {
      for (const layer of layers) {
        layer.adapter?.dispose()
        layer.adapter = null
      }
    }
  }
}

/** 1 - cos between what goes into each layer but the first and what comes out, averaged over tokens; the first is never let go. */
export async function layerScores(model: DistillableModel, run: () => unknown): Promise<number[]> {
  const found = scope(() =>
    noGrad(() => {
      const { states } = withLayerStates(model, run)
      const rows = (x: Tensor) => rowsOf(cast(x, 'f32'))
      return states.slice(1).map((state, i) => mean(cosineDistance(rows(states[i]), rows(state))))
    }),
  )
  return [Infinity, ...(await Promise.all(found.map((value) => value.item())))]
}

/** Places of the `count` largest scores, in their order. */
export function best(scores: readonly number[], count: number): number[] {
  if (!(count >= 1 && count <= scores.length)) {
    throw new LeanformerError('ERR_ARGUMENT', `prune: ${count} of ${scores.length} cannot be kept`, `give a whole number from 1 to ${scores.length}`)
  }
  const order = scores.map((_, i) => i).sort((a, b) => scores[b] - scores[a] || a - b)
  return order.slice(0, count).sort((a, b) => a - b)
}

/** Keeps the best heads and feed-forward units of each layer; scores from gateScores(), normalised by layer anyway. */
export function shrink(model: PrunableModel, scores: { heads: number[][]; units: number[][] }, keep: { heads?: number; units?: number }): void {
  for (const [i, { attention, mlp }] of model.blocks.entries()) {
    if (keep.heads !== undefined) attention.keepHeads(best(scores.heads[i], keep.heads))
    if (keep.units !== undefined) mlp.keepUnits(best(scores.units[i], keep.units))
  }
}

/**
 * Sets the share `sparsity` of the smallest weights to 0, over all matrices of attention and feed-forward together or in
 * each on its own. Returns the masks, 1 where a weight stays, by path.
 */
export function pruneMagnitude(model: Module<never, unknown>, sparsity: number, range: 'global' | 'layer' = 'global'): Map<string, Tensor> {
  if (!(sparsity >= 0 && sparsity < 1)) throw new LeanformerError('ERR_ARGUMENT', `prune: sparsity is ${sparsity}`, 'give a number from 0, below 1')
  const targets = linearTargets(model).filter(({ layer }) => layer.plain)
  const flat = (weight: Parameter) => reshape(abs(weight.tensor), [weight.tensor.size])
  // The largest magnitude that goes, [1]; less than any when none does.
  const border = (magnitudes: Tensor) => {
    const kept = magnitudes.size - Math.round(sparsity * magnitudes.size)
    if (kept === magnitudes.size) return tensor([-1], [1], { device: magnitudes.device, dtype: magnitudes.dtype })
    return slice(topK(magnitudes, kept + 1, 0).values, [kept], [kept + 1])
  }
  return scope(() =>
    noGrad(() => {
      const common = range === 'global' ? border(concat(targets.map(({ layer }) => flat(layer.weight)), 0)) : null
      const masks = new Map<string, Tensor>()
      for (const { path, layer } of targets) {
        const limit = common ?? border(flat(layer.weight))
        const mask = cast(greater(abs(layer.weight.tensor), limit), layer.weight.tensor.dtype)
        layer.weight.set(mul(layer.weight.tensor, mask))
        masks.set(path, mask)
      }
      return masks
    }),
  )
}
