// Option tables: one zod object says what an option is, its default, unit, range and help; flags, config files, help
// and error texts are all read from it. A value's origin is kept, so that a run can print where each number came from.

import { z } from 'zod'

import { LeanformerError } from '../native/errors'

declare module 'zod' {
  interface GlobalMeta {
    /** One line: what it is; unit and default, where the schema itself does not say it. */
    help?: string
    /** Placeholder of the value in the help: `--text <path>`. */
    value?: string
    /** A run that is resumed may change it. */
    resumable?: boolean
    /** Only a flag: meaningless in a config file. */
    flagOnly?: boolean
  }
}

export type Origin = 'default' | 'run' | 'file' | 'flag'

export interface Layer {
  origin: Exclude<Origin, 'default'>
  /** How errors name the layer: a file's path. */
  name?: string
  values: Record<string, unknown>
}

interface JsonSchema {
  type?: string
  enum?: unknown[]
  anyOf?: JsonSchema[]
  items?: JsonSchema
  minimum?: number
  maximum?: number
  exclusiveMinimum?: number
  exclusiveMaximum?: number
  default?: unknown
  help?: string
  value?: string
  resumable?: boolean
  flagOnly?: boolean
}

export interface OptionInfo {
  key: string
  /** Such as `--min-lr`. */
  flag: string
  kind: 'boolean' | 'number' | 'string' | 'list'
  /** Such as `integer from 1 to 1024`. */
  range: string
  default?: unknown
  help: string
  value: string
  resumable: boolean
  flagOnly: boolean
}

export const flagOf = (key: string): string => `--${key.replace(/[A-Z]/g, (c) => `-${c.toLowerCase()}`)}`

function rangeOf(schema: JsonSchema): string {
  if (schema.anyOf) return schema.anyOf.map(rangeOf).join(' or ')
  if (schema.enum) return schema.enum.join(' | ')
  if (schema.type === 'array') return `list of ${rangeOf(schema.items ?? {})}`
  if (schema.type !== 'number' && schema.type !== 'integer') return schema.type ?? 'string'
  const kind = schema.type
  const safe = (bound: number | undefined) =>
    bound !== undefined && Math.abs(bound) < Number.MAX_SAFE_INTEGER ? bound : undefined
  const low =
    safe(schema.minimum) ?? (schema.exclusiveMinimum === undefined ? undefined : `above ${schema.exclusiveMinimum}`)
  const high =
    safe(schema.maximum) ?? (schema.exclusiveMaximum === undefined ? undefined : `below ${schema.exclusiveMaximum}`)
  if (low !== undefined && high !== undefined) return `${kind} from ${low} to ${high}`
  if (low !== undefined) return typeof low === 'string' ? `${kind} ${low}` : `${kind} from ${low}`
  return high === undefined ? kind : `${kind} up to ${high}`
}

function kindOf(schema: JsonSchema): OptionInfo['kind'] {
  if (schema.type === 'integer' || schema.type === 'number') return 'number'
  if (schema.type === 'boolean') return 'boolean'
  return schema.type === 'array' ? 'list' : 'string'
}

/** What the schema says of each option, in its order. */
export function describeOptions(schema: z.ZodObject): OptionInfo[] {
  const { properties } = z.toJSONSchema(schema, { io: 'input', unrepresentable: 'any' }) as {
    properties: Record<string, JsonSchema>
  }
  return Object.entries(properties).map(([key, property]) => {
    const kind = kindOf(property)
    return {
      key,
      flag: flagOf(key),
      kind,
      range: rangeOf(property),
      ...(property.default === undefined ? {} : { default: property.default }),
      help: property.help ?? '',
      value: property.value ?? (kind === 'number' ? 'n' : key),
      resumable: property.resumable ?? false,
      flagOnly: property.flagOnly ?? false,
    }
  })
}

/** Least number of edits between two words; swapping two neighbours is one (optimal string alignment). */
function editDistance(a: string, b: string): number {
  const d = Array.from({ length: a.length + 1 }, (_, i) =>
    Array.from({ length: b.length + 1 }, (_, j) => (i === 0 ? j : i)),
  )
  for (let i = 1; i <= a.length; i++) {
    for (let j = 1; j <= b.length; j++) {
      const same = a[i - 1] === b[j - 1]
      d[i]![j] = Math.min(d[i - 1]![j]! + 1, d[i]![j - 1]! + 1, d[i - 1]![j - 1]! + (same ? 0 : 1))
      if (i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1]) {
        d[i]![j] = Math.min(d[i]![j]!, d[i - 2]![j - 2]! + 1)
      }
    }
  }
  return d[a.length]![b.length]!
}

/** The known word that was probably meant, if any is near. */
export function nearest(word: string, known: readonly string[]): string | undefined {
  const plain = (s: string) => s.toLowerCase().replace(/[^a-z0-9]/g, '')
  const ranked = known
    .map((candidate) => ({ candidate, distance: editDistance(plain(word), plain(candidate)) }))
    .sort((a, b) => a.distance - b.distance)[0]
  return ranked && ranked.distance <= Math.max(1, Math.floor(word.length / 3)) ? ranked.candidate : undefined
}

export const optionError = (message: string, hint?: string): LeanformerError =>
  new LeanformerError('ERR_OPTION', message, hint)

/** Turns the text of a flag into a value of the option's kind. */
export function parseFlag(option: OptionInfo, text: string): unknown {
  if (option.kind !== 'number') return text
  const value = text.trim() === '' ? NaN : Number(text)
  if (!Number.isFinite(value))
    throw optionError(`${option.flag} ${text} is not a number`, `give ${article(option.range)}`)
  return value
}

const article = (words: string): string =>
  /^(number|integer|boolean|string|list)/.test(words) ? `a${words[0] === 'i' ? 'n' : ''} ${words}` : words

/** How an error names an option: as a flag where it was a flag, by key and file where it came from there. */
export function nameOf(key: string, layer: Layer | undefined): string {
  if (layer === undefined || layer.origin === 'flag') return flagOf(key)
  return `${key} (${layer.name ?? layer.origin})`
}

export interface Resolved<T> {
  values: T
  origins: Record<string, Origin>
  /** Names an option in an error. */
  name: (key: string) => string
}

/** Checks the layers, later ones first in force, against the schema; unknown keys are errors. */
export function resolveOptions<S extends z.ZodObject>(schema: S, layers: readonly Layer[]): Resolved<z.output<S>> {
  const options = new Map(describeOptions(schema).map((option) => [option.key, option]))
  const given: Record<string, unknown> = {}
  const from = new Map<string, Layer>()
  for (const layer of layers) {
    for (const [key, value] of Object.entries(layer.values)) {
      const option = options.get(key)
      if (option === undefined || (option.flagOnly && layer.origin === 'file')) {
        const guess = option === undefined ? nearest(key, [...options.keys()]) : undefined
        throw optionError(
          `${nameOf(key, layer)} is ${option ? 'a flag only' : 'not an option'}`,
          guess ? `did you mean ${layer.origin === 'flag' ? flagOf(guess) : guess}?` : 'see --help for all of them',
        )
      }
      if (value === undefined) continue
      given[key] = value
      from.set(key, layer)
    }
  }
  const name = (key: string): string => nameOf(key, from.get(key))
  const result = schema.safeParse(given)
  if (!result.success) {
    const issue = result.error.issues[0]!
    const key = String(issue.path[0])
    const option = options.get(key)!
    const value = given[key]
    const guess = typeof value === 'string' ? nearest(value, option.range.split(' | ')) : undefined
    throw optionError(
      `${name(key)} is ${value === undefined ? 'missing' : JSON.stringify(value)}`,
      `give ${article(option.range)}${guess ? `; did you mean ${guess}?` : ''}`,
    )
  }
  const origins = Object.fromEntries(
    [...options.keys()].map((key): [string, Origin] => [key, from.get(key)?.origin ?? 'default']),
  )
  return { values: result.data, origins, name }
}
