// What an initialiser of a whole model is: changes to the model's configuration (such as no norm, or a gate on each
// branch), then values for its parameters, found by their paths.
import { resolveSettings, type Entry, type Settings, type Values } from '../catalog/entry'
import type { Generator } from '../tensor/random'
import type { Tensor } from '../tensor/tensor'

/** What an initialiser sees of a model: its parameters by path, such as `blocks.0.mlp.up.weight`. */
export interface ParameterTree {
  namedParameters(): Map<string, { readonly shape: readonly number[]; readonly tensor: Tensor; set(values: Tensor): void }>
}

export interface ModelInitializer {
  name: string
  /** What the model must be built with, over the caller's configuration. */
  config: Readonly<Record<string, unknown>>
  /** Fills the parameters of a model that was built so. */
  apply(model: ParameterTree, generator: Generator): void
}

/** An initialiser's file: what it says of itself, and how one is made. */
export interface InitializerEntry<S extends Settings = Settings> extends Entry<S> {
  kind: 'initializer'
  create(settings?: Partial<Values<S>>): ModelInitializer
}

/** Makes the entry that an initialiser's file exports; create() checks its settings. */
export function defineInitializer<const S extends Settings>(
  entry: Omit<Entry<S>, 'category'> & { make(values: Values<S>): Omit<ModelInitializer, 'name'> },
): InitializerEntry<S> {
  const { make, ...rest } = entry
  const whole = { ...rest, category: 'initialisation' as const }
  return {
    ...whole,
    kind: 'initializer',
    create: (settings) => ({ name: entry.name, ...make(resolveSettings(whole, settings)) }),
  }
}
