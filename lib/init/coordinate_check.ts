// The coordinate check of muP: how far activations move in a few steps, at several widths. Under the right rules the
// distances do not depend on the width. Source: Yang et al., arXiv 2203.03466, appendix D.
import { noGrad } from '../autograd/tape'
import { scope } from '../tensor/scope'
import type { Tensor } from '../tensor/tensor'

export interface CheckedModel {
  /** Activations by name on a fixed input. */
  observe(): Record<string, Tensor>
  /** One step of training. */
  step(): void
  dispose?(): void
}

/** Mean |activation after `steps` - activation before| by name, for each width. */
export async function coordinateCheck(
  widths: readonly number[],
  build: (width: number) => CheckedModel,
  steps = 5,
): Promise<Map<number, Record<string, number>>> {
  const moved = new Map<number, Record<string, number>>()
  for (const width of widths) {
    const model = build(width)
    const read = async () => {
      const seen = scope(() => noGrad(() => model.observe()))
      const entries = await Promise.all(Object.entries(seen).map(async ([name, value]) => [name, await value.toFloat64()] as const))
      for (const value of Object.values(seen)) value.dispose()
      return Object.fromEntries(entries)
    }
    const before = await read()
    for (let i = 0; i < steps; ++i) model.step()
    const after = await read()
    const distance = (name: string) => after[name].reduce((sum, x, i) => sum + Math.abs(x - before[name][i]), 0) / after[name].length
    moved.set(width, Object.fromEntries(Object.keys(after).map((name) => [name, distance(name)])))
    model.dispose?.()
  }
  return moved
}

/** Largest over smallest distance of one activation. */
export function spread(moved: ReadonlyMap<number, Record<string, number>>, name: string): number {
  const values = [...moved.values()].map((each) => each[name])
  return Math.max(...values) / Math.min(...values)
}
