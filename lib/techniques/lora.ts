// LoRA, with rsLoRA, DoRA and QLoRA as settings: the model is frozen, and low-rank changes of its matrices are trained
// (nn/low_rank.ts). QLoRA keeps the frozen matrices in 4 bits (nn/nf4.ts). Adapters can be merged into the weights.
// Source: Hu et al., arXiv 2106.09685; Dettmers et al., arXiv 2305.14314.
import { LeanformerError } from '../native/errors'
import { Linear } from '../nn/linear'
import { linearTargets, partNames, type LinearPart } from '../nn/linear_parts'
import { LowRank, type LowRankOptions } from '../nn/low_rank'
import type { Module } from '../nn/module'
import { NF4Weight, type NF4Options } from '../nn/nf4'
import { Generator } from '../tensor/random'
import { defineTechnique } from './technique'
import { parseTargets, trainOnly } from './train_only'

export interface LoRAOptions extends LowRankOptions {
  /** Names of matrices: q, k, v, out, gate, up, down, or those of other linear layers, such as classifier; or a choice. */
  targets: readonly string[] | ((path: string, part: LinearPart) => boolean)
  /** What differs for one matrix. */
  own?: (path: string, part: LinearPart) => Partial<LowRankOptions>
}

/** Freezes the model and gives the targets adapters; returns how many numbers are trained. @throws ERR_ARGUMENT without a target */
export function addLoRA(model: Module<never, unknown>, { targets, own, ...options }: LoRAOptions): number {
  const wanted = typeof targets === 'function' ? targets : (_: string, part: LinearPart) => targets.includes(part.name)
  let found = 0
  for (const { path, layer, parts } of linearTargets(model)) {
    const chosen = parts.filter((part) => wanted(path, part))
    if (!chosen.length) continue
    const { device, dtype } = (layer.packed ? layer.packed.parameters()[0] : layer.weight).tensor
    layer.adapter = new LowRank(layer, chosen, { device, dtype: dtype === 'f64' ? 'f64' : 'f32', ...options }, own && ((part) => own(path, part)))
    found++
  }
  if (!found) throw new LeanformerError('ERR_ARGUMENT', `lora: the model has none of the targets ${typeof targets === 'function' ? '' : targets.join(', ')}`, 'give names of its linear layers')
  return trainOnly(model, (path) => path.includes('.adapter.'))
}

/** Every layer with a LoRA adapter, by path. */
export function loraLayers(model: Module<never, unknown>): Map<string, { layer: Linear; adapter: LowRank }> {
  const found = new Map<string, { layer: Linear; adapter: LowRank }>()
  for (const [path, module] of model.namedModules()) {
    const layer = module as unknown
    if (layer instanceof Linear && layer.adapter instanceof LowRank) found.set(path, { layer, adapter: layer.adapter })
  }
  return found
}

/** Writes all adapters into the weights, for use without their cost. */
export function mergeLoRA(model: Module<never, unknown>): void {
  for (const { layer, adapter } of loraLayers(model).values()) adapter.merge(layer)
}

/** Takes them out again, to go on training. */
export function unmergeLoRA(model: Module<never, unknown>): void {
  for (const { layer, adapter } of loraLayers(model).values()) adapter.unmerge(layer)
}

/** Puts the matrices of attention and feed-forward in 4 bits; heads and embeddings stay. */
export function packNF4(model: Module<never, unknown>, options: NF4Options = {}): void {
  for (const { layer, parts } of linearTargets(model)) {
    const known = parts.every(({ name }) => (partNames as readonly string[]).includes(name))
    if (known && !layer.packed) layer.pack(new NF4Weight(layer.weight.tensor, options))
  }
}

export const lora = defineTechnique({
  name: 'lora',
  title: 'Low-rank adaptation of a frozen model; rsLoRA, DoRA and QLoRA by settings',
  category: 'parameter-efficient tuning',
  source: 'Hu et al., arXiv 2106.09685; rsLoRA 2312.03732; DoRA 2402.09353; QLoRA 2305.14314',
  settings: {
    rank: { default: 8, min: 0, integer: true, help: 'rank of the change of each matrix; 0: off' },
    alpha: { default: 0, min: 0, help: 'the change is scaled by alpha / rank; 0: alpha = rank' },
    dropout: { default: 0, min: 0, max: 0.99, help: 'on the input of the low-rank path alone' },
    targets: { default: 'q+v', help: 'all, or some of q, k, v, out, gate, up, down joined by +' },
    rslora: { default: false, help: 'scale by alpha / sqrt(rank)' },
    dora: { default: false, help: 'train the lengths of the rows too' },
    base: { default: 'f32', choices: ['f32', 'nf4', 'nf4_single'], help: 'format of the frozen matrices: nf4 with 8-bit scales, nf4_single with f32 scales' },
    seed: { default: 1, min: 0, integer: true, help: 'of the first A' },
  },
  decides: ['trained_parameters'],
  neutral: { settings: { rank: 0 } },
  make: ({ rank, alpha, dropout, targets, rslora, dora, base, seed }) => ({
    after: ['distil'],
    adapt(model) {
      if (rank === 0) return
      if (base !== 'f32') packNF4(model, { doubleQuantisation: base === 'nf4' })
      const options = { rank, dropout, rankStabilised: rslora, magnitudes: dora, generator: new Generator(seed) }
      addLoRA(model, { ...options, targets: parseTargets('lora', targets), ...(alpha ? { alpha } : {}) })
    },
  }),
})
