// What an initialiser of a whole model is: changes to the model's configuration (such as no norm, or a gate on each
// branch), then values for its parameters, found by their paths.
import { resolveSettings, type Entry, type Settings, type Values } from '../catalog/entry'
import type { Generator } from '../tensor/random'
import { scope } from '../tensor/scope'
import type { Tensor } from '../tensor/tensor'
import type { Initializer } from './initializer'

/** What an initialiser sees of a parameter. */
export interface InitialisedParameter {
  readonly shape: readonly number[]
  readonly tensor: Tensor
  /** Factors that the optimiser's groups take from here. */
  readonly scales: { lr: number; weightDecay: number; eps: number }
  set(values: Tensor): void
}

/** What an initialiser sees of a model: its parameters by path, such as `blocks.0.mlp.up.weight`. */
export interface ParameterTree {
  namedParameters(): Map<string, InitialisedParameter>
}

/** Fills a parameter by an initialiser, on its own device and in its own format. */
export function fill(parameter: InitialisedParameter, init: Initializer, generator: Generator): void {
  const { device, dtype } = parameter.tensor
  scope(() => parameter.set(init(parameter.shape, { device, dtype, generator })))
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
    kind: 'initializer' as const,
    create: (settings) => ({ name: entry.name, ...make(resolveSettings(whole, settings)) }),
  }
}
