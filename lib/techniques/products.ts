// The products that techniques of low precision replace: the matrices of attention and feed-forward; heads, embeddings,
// norms and softmax stay as they are.
import { LeanformerError } from '../native/errors'
import type { Linear } from '../nn/linear'
import { linearTargets, partNames } from '../nn/linear_parts'
import type { Module } from '../nn/module'

const known: ReadonlySet<string> = new Set(partNames)

/** The layers, in order. @throws ERR_OPTION naming the technique when there are none, or one is no plain product */
export function hiddenProducts(model: Module<never, unknown>, technique: string): Linear[] {
  const targets = linearTargets(model).filter(({ parts }) => parts.every(({ name }) => known.has(name)))
  if (!targets.length) throw new LeanformerError('ERR_OPTION', `${technique}: the model has no attention or feed-forward matrices`)
  const taken = targets.find(({ layer }) => !layer.plain)
  if (taken) throw new LeanformerError('ERR_OPTION', `${technique}: ${taken.path} has an adapter or packed weights`, 'merge or unpack it first')
  return targets.map(({ layer }) => layer)
}

/** What cannot be combined with a technique that computes these products itself. */
export function productExcludes(own: string): Record<string, string> {
  const others = ['qat', 'int8_training', 'fp8', 'lora', 'ia3', 'adapters'].filter((name) => name !== own)
  return {
    ...Object.fromEntries(others.map((name) => [name, 'both change what the hidden matrices compute'])),
    progressive_stacking: 'layers that come later would not have its products',
  }
}
