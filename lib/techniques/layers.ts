// The layers of a model that techniques of depth act on.
import { Chain } from '../autograd/chain'
import { LeanformerError } from '../native/errors'
import { Attention } from '../nn/attention'
import type { Module } from '../nn/module'
import type { DepthRule } from '../nn/residual'
import { TransformerBlock } from '../nn/transformer_block'

/** The pre-norm layers, in order. @throws ERR_OPTION naming the technique when there are none */
export function layersOf(model: Module<never, unknown>, technique: string): TransformerBlock[] {
  const layers = model.namedModules().flatMap(([, module]) => ((module as unknown) instanceof TransformerBlock ? [module as unknown as TransformerBlock] : []))
  if (layers.length) return layers
  throw new LeanformerError('ERR_OPTION', `${technique}: the model has no layers of the kind x + f(norm(x))`, 'it works with models such as gpt, llama and vit')
}

/** Gives each layer its rule, from its 1-based number and the number of layers. */
export function setDepthRules(
  model: Module<never, unknown>,
  technique: string,
  rule: (layer: number, layers: number) => DepthRule | null,
): void {
  const layers = layersOf(model, technique)
  for (const [i, block] of layers.entries()) block.depth = rule(i + 1, layers.length)
}

/** All self-attention layers of a model, in order. @throws ERR_OPTION naming the technique when there are none */
export function attentionLayers(model: Module<never, unknown>, technique: string): Attention[] {
  const found = model.namedModules().flatMap(([, module]) => ((module as unknown) instanceof Attention ? [module as unknown as Attention] : []))
  if (found.length) return found
  throw new LeanformerError('ERR_OPTION', `${technique}: the model has no self-attention`)
}

/** The chains of a model's layers. @throws ERR_OPTION when it has none */
export function chainsOf(model: Module<never, unknown>, technique: string): Chain[] {
  const chains = model.namedModules().flatMap(([, module]) => Object.values(module).filter((value): value is Chain => value instanceof Chain))
  if (chains.length) return chains
  throw new LeanformerError('ERR_OPTION', `${technique}: the model has no chain of layers`, 'gpt, bert, llama, vit and encoder-decoders have')
}
