// Parameters by the names of the transformers library, both ways. A model lists how its own paths and the foreign names
// correspond; its products of several matrices (queries, keys and values; gate and up) are theirs one under another.
// Every name on either side must be used exactly once: what is missing or left over is an error that names it.
import { noGrad } from '../autograd/tape'
import { LeanformerError } from '../native/errors'
import type { Module } from '../nn/module'
import type { Parameter } from '../nn/parameter'
import { cast } from '../ops/cast'
import { concat } from '../ops/concat'
import { copy } from '../ops/copy'
import { transpose } from '../ops/permute'
import { slice } from '../ops/slice'
import { scope } from '../tensor/scope'
import type { Tensor } from '../tensor/tensor'

/** How one parameter of ours is stored there. */
export interface ForeignName {
  ours: string
  /** One tensor, or several whose rows follow each other in ours. */
  theirs: readonly string[]
  /** Rows of each of `theirs`; needed where there are several. */
  rows?: readonly number[]
  /** Theirs is [in, out], as in GPT-2. */
  transposed?: boolean
  /** Their shape where it differs in axes of size 1. */
  shape?: readonly number[]
}

/** Weight and bias (where there is one) of a layer; several layers of theirs are one of ours. */
export function layerNames(
  ours: string,
  theirs: readonly string[],
  options: { bias: boolean; rows?: readonly number[]; transposed?: boolean },
): ForeignName[] {
  const { bias, rows, transposed } = options
  const names: ForeignName[] = [{ ours: `${ours}.weight`, theirs: theirs.map((name) => `${name}.weight`), rows, transposed }]
  if (bias) names.push({ ours: `${ours}.bias`, theirs: theirs.map((name) => `${name}.bias`), rows })
  return names
}

const few = (names: readonly string[]) => names.slice(0, 5).join(', ') + (names.length > 5 ? ` and ${names.length - 5} more` : '')

/** @throws ERR_CHECKPOINT when `given` lacks one of `needed` or has others */
export function checkNames(what: string, needed: readonly string[], given: readonly string[], hint: string): void {
  const have = new Set(given)
  const want = new Set(needed)
  const missing = needed.filter((name) => !have.has(name))
  const unknown = given.filter((name) => !want.has(name))
  if (!missing.length && !unknown.length) return
  const parts = [missing.length && `missing ${few(missing)}`, unknown.length && `unknown ${few(unknown)}`].filter(Boolean)
  throw new LeanformerError('ERR_CHECKPOINT', `${what}: ${parts.join('; ')}`, hint)
}

function parameterOf(parameters: Map<string, Parameter>, { ours }: ForeignName): Parameter {
  const parameter = parameters.get(ours)
  if (!parameter) throw new LeanformerError('ERR_CHECKPOINT', `Hugging Face names: the model has no parameter ${ours}`)
  return parameter
}

/**
 * Fills `model` from tensors under foreign names, in any floating format. `ignore` names what is not a parameter here.
 * @throws ERR_CHECKPOINT for names that are missing or left over, and for shapes that do not fit
 */
export function loadForeign(
  model: Module<never, unknown>,
  names: readonly ForeignName[],
  tensors: Map<string, Tensor>,
  ignore: readonly RegExp[] = [],
): void {
  const parameters = model.namedParameters()
  const hint = 'build the model with the options of its config.json, or name what to leave out in `ignore`'
  const given = [...tensors.keys()].filter((name) => !ignore.some((pattern) => pattern.test(name)))
  checkNames('Hugging Face weights', names.flatMap(({ theirs }) => theirs), given, hint)
  checkNames('Hugging Face names', names.map(({ ours }) => ours), [...parameters.keys()], 'this is a fault of the model class')
  const shapes = (list: readonly Tensor[]) => list.map(({ shape }) => `[${shape.join(', ')}]`).join(', ')
  for (const name of names) {
    const parts = name.theirs.map((foreign) => tensors.get(foreign)!)
    const expected = foreignShapes(parameterOf(parameters, name), name)
    if (parts.some(({ shape }, i) => shape.join() !== expected[i].join())) {
      throw new LeanformerError(
        'ERR_CHECKPOINT',
        `Hugging Face weights: ${name.theirs.join(', ')} ${parts.length > 1 ? 'have shapes' : 'has shape'} ${shapes(parts)}, ` +
          `needs ${expected.map((shape) => `[${shape.join(', ')}]`).join(', ')}`,
        hint,
      )
    }
  }
  scope(() =>
    noGrad(() => {
      for (const name of names) {
        const parameter = parameterOf(parameters, name)
        const parts = name.theirs.map((foreign) => {
          const part = cast(tensors.get(foreign)!, parameter.tensor.dtype)
          return name.transposed ? transpose(part) : part
        })
        const whole = parts.length > 1 ? concat(parts, 0) : parts[0]
        parameter.set(whole.viewAs(parameter.shape))
      }
    }),
  )
}

function foreignShapes(parameter: Parameter, { rows, shape, theirs, transposed }: ForeignName): number[][] {
  if (shape) return [[...shape]]
  const [first, ...rest] = parameter.shape
  return (theirs.length > 1 ? rows! : [first]).map((count) => (transposed ? [...rest, count] : [count, ...rest]))
}

/** The model's parameters under foreign names, as copies that belong to the caller. */
export function saveForeign(model: Module<never, unknown>, names: readonly ForeignName[]): Map<string, Tensor> {
  const parameters = model.namedParameters()
  checkNames('Hugging Face names', names.map(({ ours }) => ours), [...parameters.keys()], 'this is a fault of the model class')
  return scope(() =>
    noGrad(() => {
      const found = new Map<string, Tensor>()
      for (const name of names) {
        const whole = parameterOf(parameters, name).tensor
        let from = 0
        for (const [i, foreign] of name.theirs.entries()) {
          const to = name.theirs.length > 1 ? from + name.rows![i] : whole.shape[0]
          const rest = whole.shape.slice(1)
          const part = name.theirs.length > 1 ? slice(whole, [from, ...rest.map(() => 0)], [to, ...rest]) : copy(whole)
          found.set(foreign, name.transposed ? transpose(part) : name.shape ? part.viewAs(name.shape) : part)
          from = to
        }
      }
      return found
    }),
  )
}
