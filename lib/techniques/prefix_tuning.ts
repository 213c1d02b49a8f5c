// Prefix tuning: a frozen model whose attention layers each see trained keys and values before all others (nn/prefix.ts).
// Positions of the tokens count the prefix, as a cache of that length would. Source: Li and Liang, arXiv 2101.00190.
import { LeanformerError } from '../native/errors'
import { GPT } from '../models/gpt'
import { Attention } from '../nn/attention'
import type { Module } from '../nn/module'
import { PositionalAttention } from '../nn/positional_attention'
import { Prefix } from '../nn/prefix'
import { Generator } from '../tensor/random'
import { defineTechnique } from './technique'
import { trainOnly } from './train_only'

/** The attention layers of a model, in their order. */
export function attentionLayers(model: Module<never, unknown>): Attention[] {
  return model.namedModules().flatMap(([, module]) => ((module as unknown) instanceof Attention ? [module as unknown as Attention] : []))
}

/** Freezes the model and gives each attention layer a prefix; returns how many numbers are trained. 0 tokens change nothing. */
export function addPrefix(model: Module<never, unknown>, { length, generator }: { length: number; generator?: Generator }): number {
  const layers = attentionLayers(model)
  if (!layers.length) throw new LeanformerError('ERR_ARGUMENT', 'prefix_tuning: the model has no attention layers')
  if (layers.some((layer) => layer instanceof PositionalAttention)) {
    throw new LeanformerError('ERR_ARGUMENT', 'prefix_tuning: gated positional attention has no place for a prefix', 'use it with softmax attention')
  }
  const frozen = trainOnly(model, () => false)
  if (length === 0) return frozen
  for (const layer of layers) {
    const { device, dtype } = layer.out.weight.tensor
    layer.prefix = new Prefix(length, layer.kvHeads, layer.headWidth, { device, dtype, generator })
  }
  if ((model as unknown) instanceof GPT) (model as unknown as GPT).makeRoom(length)
  return trainOnly(model, (path) => path.includes('.prefix.'))
}

export const prefix_tuning = defineTechnique({
  name: 'prefix_tuning',
  title: 'Prefix tuning: trained keys and values before those of the text, in every layer of a frozen model',
  category: 'parameter-efficient tuning',
  source: 'Li and Liang, arXiv 2101.00190',
  settings: {
    length: { default: 16, min: 0, integer: true, help: 'virtual tokens a layer, 0: off; with learned positions the context must have room for them' },
    seed: { default: 1, min: 0, integer: true, help: 'of the first values' },
  },
  decides: ['trained_parameters'],
  excludes: { convit: 'gated positional attention has no place for a prefix' },
  neutral: { settings: { length: 0 } },
  make: ({ length, seed }) => ({
    after: ['distil'],
    adapt: (model) => void (length > 0 && addPrefix(model, { length, generator: new Generator(seed) })),
  }),
})
