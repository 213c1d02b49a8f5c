// Layers: an object with parameters, inner modules and a forward function. Parameters and modules are found by looking at
// the fields, so a layer is its constructor and its forward, nothing else. A field `upBias` is named `up_bias`.
import type { DType } from '../native/dtype'
import { LeanformerError } from '../native/errors'
import type { Device } from '../tensor/device'
import type { Generator } from '../tensor/random'
import { scope } from '../tensor/scope'
import type { Tensor } from '../tensor/tensor'
import { Parameter } from './parameter'

/** Where and how a layer makes its parameters. */
export interface ModuleOptions {
  device?: string | Device
  dtype?: DType
  generator?: Generator
}

// Remembered, because a training step may ask for all parameters several times.
const snakeNames = new Map<string, string>()
function snakeCase(field: string): string {
  let name = snakeNames.get(field)
  if (name === undefined) snakeNames.set(field, (name = field.replace(/[A-Z]/g, (letter) => '_' + letter.toLowerCase())))
  return name
}

export abstract class Module<Arguments extends unknown[] = [x: Tensor], Result = Tensor> {
  /** Whether dropout and the like are on. */
  training = true

  /** The layer's formula. Call it through call(), which releases what it made and did not return. */
  abstract forward(...inputs: Arguments): Result

  call(...inputs: Arguments): Result {
    return scope(() => this.forward(...inputs))
  }

  private forEachChild(visit: (name: string, child: Parameter | AnyModule) => void): void {
    const fields = this as Record<string, unknown>
    for (const field of Object.keys(this)) {
      const value = fields[field]
      if (isChild(value)) visit(snakeCase(field), value)
      else if (Array.isArray(value)) {
        for (let i = 0; i < value.length; ++i) {
          if (isChild(value[i])) visit(`${snakeCase(field)}.${i}`, value[i])
        }
      }
    }
  }

  private forEachModule(path: string, visit: (path: string, module: AnyModule) => void): void {
    visit(path, this as unknown as AnyModule)
    this.forEachChild((name, child) => {
      if (child instanceof Module) child.forEachModule(path ? `${path}.${name}` : name, visit)
    })
  }

  /** This module ('' is its path) and every one below it, each with its path. */
  namedModules(): [path: string, module: AnyModule][] {
    const found: [string, AnyModule][] = []
    this.forEachModule('', (path, module) => found.push([path, module]))
    return found
  }

  /** Every parameter with its path, such as `blocks.0.mlp.up.weight`. A shared one comes once, under its first path. */
  namedParameters(): Map<string, Parameter> {
    const found = new Map<string, Parameter>()
    const seen = new Set<Parameter>()
    this.forEachModule('', (path, module) => {
      module.forEachChild((name, child) => {
        if (!(child instanceof Parameter) || seen.has(child)) return
        seen.add(child)
        found.set(path ? `${path}.${name}` : name, child)
      })
    })
    return found
  }

  parameters(): Parameter[] {
    return [...this.namedParameters().values()]
  }

  /** Numbers that training can change. */
  parameterCount(): number {
    return this.parameters().reduce((n, parameter) => n + parameter.tensor.size, 0)
  }

  train(on = true): this {
    for (const [, module] of this.namedModules()) module.training = on
    return this
  }

  eval(): this {
    return this.train(false)
  }

  /**
   * Products and activations in `dtype` from now on; parameters stay as they are and get copies in `dtype` that follow
   * them. 'f32' takes the copies away.
   */
  setComputeDType(dtype: DType): this {
    for (const parameter of this.parameters()) parameter.setComputeDType(dtype)
    return this
  }

  /** The parameters' tensors by path. They stay the module's own. */
  state(): Map<string, Tensor> {
    return new Map([...this.namedParameters()].map(([name, parameter]) => [name, parameter.tensor]))
  }

  /**
   * Takes the values of all parameters from `state`, copying them.
   * @throws ERR_CHECKPOINT when a name is missing, unknown or has another shape
   */
  loadState(state: Map<string, Tensor>): void {
    this.checkState(new Map([...state].map(([name, { shape }]) => [name, shape])))
    for (const [name, parameter] of this.namedParameters()) parameter.set(state.get(name)!)
  }

  /** @internal Whether tensors of these names and shapes are this module's parameters. @throws ERR_CHECKPOINT */
  checkState(state: Map<string, readonly number[]>): void {
    const own = this.namedParameters()
    const missing = [...own.keys()].filter((name) => !state.has(name))
    const unknown = [...state.keys()].filter((name) => !own.has(name))
    if (missing.length || unknown.length) {
      const list = (names: string[]) => names.slice(0, 5).join(', ') + (names.length > 5 ? ` and ${names.length - 5} more` : '')
      const parts = [missing.length && `missing ${list(missing)}`, unknown.length && `unknown ${list(unknown)}`].filter(Boolean)
      throw new LeanformerError('ERR_CHECKPOINT', `loadState: ${parts.join('; ')}`, 'the model must be built with the same options')
    }
    for (const [name, parameter] of own) {
      const shape = state.get(name)!
      if (shape.join() !== parameter.tensor.shape.join()) {
        throw new LeanformerError(
          'ERR_CHECKPOINT',
          `loadState: ${name} has shape [${shape.join(', ')}], needs [${parameter.tensor.shape.join(', ')}]`,
          'the model must be built with the same options',
        )
      }
    }
  }

  /** Releases all parameters. */
  dispose(): void {
    for (const parameter of this.parameters()) parameter.dispose()
  }
}

type AnyModule = Module<never, unknown>

const isChild = (value: unknown): value is Parameter | AnyModule => value instanceof Parameter || value instanceof Module
