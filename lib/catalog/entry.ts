// What a technique, optimiser or initialiser says of itself: its settings with defaults and bounds, its source, what it
// cannot be combined with. The command line, its help, `leanformer techniques` and the checks all read it from here, so a
// new one is its own file and nothing else.
import { LeanformerError } from '../native/errors'

/** One setting: its default, what it may be, and a line of help. */
export type Setting = { help: string } & (
  | { default: number; min?: number; max?: number; integer?: boolean }
  | { default: boolean }
  | { default: string; choices?: readonly string[] }
)
export type Settings = Readonly<Record<string, Setting>>

type Widen<T> = T extends number ? number : T extends boolean ? boolean : string
/** A value for every setting. */
export type Values<S extends Settings> = { [K in keyof S]: Widen<S[K]['default']> }

export const categories = [
  'initialisation', 'optimisation', 'sparse training', 'compression', 'large batch', 'incremental', 'importance sampling',
  'low precision', 'memory', 'parameter-efficient tuning', 'attention',
] as const
export type Category = (typeof categories)[number]

/** What one entry of a run alone can decide, and why two that do cannot be combined. */
export const decisions = {
  attention_kernel: 'both replace attention',
  evaluated_weights: 'both replace the weights that are evaluated',
  gradient_point: 'both move the parameters before the gradient is taken',
  present_layers: 'both decide which layers are there',
  step_rows: 'both choose the rows of a step',
  trained_parameters: 'each decides alone which parameters are trained',
  zero_weights: 'both decide which weights are zero',
} as const
export type Decision = keyof typeof decisions

export interface Entry<S extends Settings = Settings> {
  /** As in --technique, --optimizer and --init; the stem of its file. */
  name: string
  /** A few words in full. */
  title: string
  category: Category
  /** Paper or formula. */
  source: string
  settings: S
  /** What it decides alone: two entries with the same decision exclude each other. */
  decides?: readonly Decision[]
  /** By name of an entry or of a decision, what it cannot be combined with and why. Said on one side is enough. */
  excludes?: Readonly<Record<string, string>>
  /** The one entry of another kind that it works with, and why. */
  onlyWith?: { kind: EntryKind; name: string; why: string }
  /** The technique that it cannot do without. */
  needs?: { technique: string; why: string }
  /**
   * Settings with which a run is bit for bit the run without it; a sentence where there are none. Of a technique that adds
   * parameters to a frozen model, they may be those with which the model computes what it did before the first update.
   */
  neutral?: { settings: Readonly<Record<string, number | string | boolean>>; until?: 'first update' } | string
}

export type EntryKind = 'technique' | 'optimizer' | 'initializer' | 'model'
/** What of an entry says what it can be combined with. */
export type Combinable = Pick<Entry, 'name' | 'decides' | 'excludes' | 'onlyWith'> & { kind?: EntryKind }

const describe = (setting: Setting): string => {
  if (typeof setting.default === 'boolean') return 'true or false'
  if (typeof setting.default === 'string') {
    return 'choices' in setting && setting.choices ? setting.choices.join(' | ') : 'a text'
  }
  const { min, max, integer } = setting as { min?: number; max?: number; integer?: boolean }
  const kind = integer ? 'a whole number' : 'a number'
  if (min !== undefined && max !== undefined) return `${kind} from ${min} to ${max}`
  return min !== undefined ? `${kind} from ${min}` : max !== undefined ? `${kind} up to ${max}` : kind
}

/** A value as the setting wants it; text is what a command line gives. undefined when it does not fit. */
function fit(setting: Setting, value: unknown): unknown {
  if (typeof setting.default === 'boolean') {
    return typeof value === 'boolean' ? value : value === 'true' ? true : value === 'false' ? false : undefined
  }
  if (typeof setting.default === 'string') {
    const { choices } = setting as { choices?: readonly string[] }
    return typeof value === 'string' && (!choices || choices.includes(value)) ? value : undefined
  }
  const { min = -Infinity, max = Infinity, integer } = setting as { min?: number; max?: number; integer?: boolean }
  const number = typeof value === 'string' && value.trim() !== '' ? Number(value) : value
  if (typeof number !== 'number' || !Number.isFinite(number) || (integer && !Number.isInteger(number))) return undefined
  return number >= min && number <= max ? number : undefined
}

/**
 * `given`, checked, with the defaults of what was not given.
 * @throws ERR_OPTION naming the setting, what was given and what would be right
 */
export function resolveSettings<S extends Settings>(entry: Entry<S>, given: Readonly<Record<string, unknown>> = {}): Values<S> {
  const { name, settings } = entry
  for (const key of Object.keys(given)) {
    if (given[key] !== undefined && !(key in settings)) {
      const known = Object.keys(settings)
      throw new LeanformerError('ERR_OPTION', `${name}: ${key} is not a setting`, known.length ? `its settings are ${known.join(', ')}` : 'it has none')
    }
  }
  const values = Object.entries(settings).map(([key, setting]) => {
    const value = given[key]
    const fitted = value === undefined ? setting.default : fit(setting, value)
    if (fitted === undefined) {
      throw new LeanformerError('ERR_OPTION', `${name}: ${key} is ${JSON.stringify(value)}`, `give ${describe(setting)}: ${setting.help}`)
    }
    return [key, fitted] as const
  })
  return Object.fromEntries(values) as Values<S>
}

/** `sam:rho=0.1,adaptive=true` as name and settings, not checked yet. @throws ERR_OPTION */
export function parseEntry(text: string): { name: string; given: Record<string, string> } {
  const colon = text.indexOf(':')
  const name = colon < 0 ? text : text.slice(0, colon)
  const given: Record<string, string> = {}
  for (const part of colon < 0 ? [] : text.slice(colon + 1).split(',')) {
    const [key, ...value] = part.split('=')
    if (!key || !value.length) {
      throw new LeanformerError('ERR_OPTION', `${text}: '${part}' is not a setting with a value`, 'such as sam:rho=0.05,adaptive=true')
    }
    given[key] = value.join('=')
  }
  return { name, given }
}

/** Why the two cannot be combined; undefined when they can. */
export function whyNotTogether(a: Combinable, b: Combinable): string | undefined {
  if (a.name === b.name && a.kind === b.kind) return 'it is given twice'
  const oneWay = (from: Combinable, to: Combinable) => {
    const { name, kind, why } = from.onlyWith ?? {}
    if (kind !== undefined && to.kind === kind && to.name !== name) return why
    const key = [to.name, ...(to.decides ?? [])].find((each) => from.excludes?.[each] !== undefined)
    return key === undefined ? undefined : from.excludes![key]
  }
  const shared = a.decides?.find((decision) => b.decides?.includes(decision))
  return oneWay(a, b) ?? oneWay(b, a) ?? (shared && decisions[shared])
}

/** @throws ERR_OPTION when an entry needs another one that is not there */
export function checkNeeds(entries: readonly Pick<Entry, 'name' | 'needs'>[]): void {
  for (const { name, needs } of entries) {
    if (!needs || entries.some((other) => other.name === needs.technique)) continue
    throw new LeanformerError('ERR_OPTION', `${name} needs ${needs.technique}: ${needs.why}`, `add --technique ${needs.technique}`)
  }
}

/** @throws ERR_OPTION when two of the entries exclude each other or one comes twice */
export function checkCombination(entries: readonly Combinable[]): void {
  for (const [i, a] of entries.entries()) {
    for (const b of entries.slice(i + 1)) {
      const why = whyNotTogether(a, b)
      if (why) throw new LeanformerError('ERR_OPTION', `${a.name} and ${b.name} cannot be combined: ${why}`, 'leave one of them out')
    }
  }
}
