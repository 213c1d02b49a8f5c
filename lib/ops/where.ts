// Choice between two tensors, element by element.
import { record } from '../autograd/tape'
import { isTensor, run1, type Tensor } from '../tensor/tensor'
import { inFormatOf, like, sumTo } from './broadcast'

/** x where `condition` (bool) holds, else y; the three broadcast. One of x and y may be a number. */
export function where(condition: Tensor, x: Tensor, y: Tensor | number): Tensor
export function where(condition: Tensor, x: number, y: Tensor): Tensor
export function where(condition: Tensor, x: Tensor | number, y: Tensor | number): Tensor {
  const a = isTensor(x) ? x : like(y as Tensor, x, 'where')
  const b = isTensor(y) ? y : like(a, y, 'where')
  const z = run1('where', [condition, a, b], {})
  record('where', [condition, a, b], [z], [condition], ([grad], [c], context) => {
    const g = inFormatOf(grad!, a)
    const zero = run1('fill', [], { shape: [], value: 0, dtype: g.dtype }, g.device)
    return [
      null,
      context.needs(1) ? sumTo(run1('where', [c, g, zero], {}), a.shape) : null,
      context.needs(2) ? sumTo(run1('where', [c, zero, g], {}), b.shape) : null,
    ]
  })
  return z
}
