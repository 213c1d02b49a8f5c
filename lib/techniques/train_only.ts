// Which parameters of a model are trained: the others get no gradient, take no optimiser state and never change.
import { LeanformerError } from '../native/errors'
import type { Module } from '../nn/module'
import { partNames } from '../nn/linear_parts'

/** Freezes every parameter but those that `trained` names; returns how many numbers are trained. */
export function trainOnly(model: Module<never, unknown>, trained: (path: string) => boolean): number {
  let count = 0
  for (const [path, parameter] of model.namedParameters()) {
    parameter.trainable = trained(path)
    if (parameter.trainable) count += parameter.tensor.size
  }
  return count
}

/** Numbers that training can change. */
export function trainedCount(model: Module<never, unknown>): number {
  return model.parameters().reduce((n, parameter) => n + (parameter.trainable ? parameter.tensor.size : 0), 0)
}

/** Heads on top of a model: they are trained in full with most ways of tuning. A tied head is not one of them. */
export const isHead = (path: string): boolean => /^(head|classifier|pooler)\./.test(path)

/** `q+v` or `all` as names of matrices. @throws ERR_OPTION */
export function parseTargets(technique: string, text: string): string[] {
  if (text === 'all') return [...partNames]
  const names = text.split('+')
  const unknown = names.find((name) => !(partNames as readonly string[]).includes(name))
  if (unknown !== undefined) {
    throw new LeanformerError('ERR_OPTION', `${technique}: targets has '${unknown}'`, `give all, or some of ${partNames.join(', ')} joined by +`)
  }
  return names
}
