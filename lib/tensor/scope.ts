// Who owns a tensor. Every tensor belongs to the innermost open scope and is disposed when that scope closes, unless it
// is returned (then it belongs to the next scope out) or kept. Garbage collection is only a safety net for tensors that
// belong to no scope, because finalizers never run inside synchronous code.
import { LeanformerError } from '../native/errors'

export interface Owned {
  /** @internal */ owner: Scope | null
  dispose(): void
}

export class Scope {
  private owned: Owned[] = []

  add(item: Owned): void {
    item.owner = this
    this.owned.push(item)
  }

  /** Disposes what still belongs here. */
  close(): void {
    for (const item of this.owned) if (item.owner === this) item.dispose()
    this.owned = []
  }
}

const stack: Scope[] = []
const closers: (() => void)[] = []

export function currentScope(): Scope | null {
  return stack.length ? stack[stack.length - 1] : null
}

export function scopeDepth(): number {
  return stack.length
}

/** Calls `close` whenever the outermost scope closes. Used by the tape. */
export function onOutermostClose(close: () => void): void {
  closers.push(close)
}

/** All owned things inside a value made of arrays, plain objects and Maps. */
function forEachOwned(value: unknown, visit: (item: Owned) => void, depth = 0): void {
  if (value === null || typeof value !== 'object' || depth > 8) return
  if ('owner' in value && 'dispose' in value) visit(value as Owned)
  else if (Array.isArray(value)) for (const item of value) forEachOwned(item, visit, depth + 1)
  else if (value instanceof Map) for (const item of value.values()) forEachOwned(item, visit, depth + 1)
  else if (Object.getPrototypeOf(value) === Object.prototype || Object.getPrototypeOf(value) === null) {
    for (const item of Object.values(value)) forEachOwned(item, visit, depth + 1)
  }
}

/** Gives a tensor up: it lives until dispose() is called. Returns it. */
export function keep<T extends Owned>(item: T): T {
  item.owner = null
  return item
}

/** The opposite of keep(): the innermost scope owns the tensor from now on. Returns it. */
export function adopt<T extends Owned>(item: T): T {
  currentScope()?.add(item)
  return item
}

/**
 * Runs `fn` and disposes every tensor made inside it, except those in its return value (a tensor, or arrays, objects
 * and Maps of tensors) and those given to keep(). `fn` must be synchronous.
 */
export function scope<T>(fn: () => T): T {
  const inner = new Scope()
  stack.push(inner)
  try {
    const result = fn()
    if (result && typeof (result as { then?: unknown }).then === 'function') {
      throw new LeanformerError(
        'ERR_ARGUMENT',
        'scope: the function returned a promise, but a scope must close before control leaves it',
        'await outside of scope(); return the tensor and read it there',
      )
    }
    const outer = stack.length > 1 ? stack[stack.length - 2] : null
    forEachOwned(result, (item) => {
      if (item.owner !== inner) return
      if (outer) outer.add(item)
      else item.owner = null
    })
    return result
  } finally {
    stack.pop()
    if (stack.length === 0) for (const close of closers) close()
    inner.close()
  }
}
