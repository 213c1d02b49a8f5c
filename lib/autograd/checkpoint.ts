// Rematerialisation: runs a piece of the model without keeping its inner tensors, and runs it again when its gradient is
// asked for (Chen et al., arXiv 1604.06174). The numbers are bit for bit those without checkpointing, dropout included,
// because random operators draw from named blocks and the second run starts from the same generator state.
import { defaultGenerator } from '../tensor/random'
import { scope } from '../tensor/scope'
import { setRequiresGrad, type Tensor } from '../tensor/tensor'
import { backwardTape } from './backward'
import { currentTape, noGrad, recordAlways, Tape, withTape } from './tape'

/**
 * `fn(...inputs)` with only the inputs kept for the backward pass. `fn` must be a function of its inputs, of parameters
 * and of the default generator; it is called twice. Costs one more forward pass of `fn`.
 */
export function checkpoint(fn: (...inputs: Tensor[]) => Tensor, inputs: readonly Tensor[]): Tensor {
  if (currentTape() === null) return scope(() => fn(...inputs))
  const random = defaultGenerator.state()
  const output = noGrad(() => scope(() => fn(...inputs)))
  recordAlways('checkpoint', inputs, [output], inputs, ([grad], saved, context) => {
    const after = defaultGenerator.state()
    defaultGenerator.restore(random)
    const again = saved.map((input, i) => {
      const copy = input.detach()
      return context.needs(i) ? setRequiresGrad(copy) : copy
    })
    const tape = new Tape()
    const result = withTape(tape, () => fn(...again))
    defaultGenerator.restore(after)
    if (result.requiresGrad) backwardTape(tape, new Map([[result.id, grad!.alias()]]))
    else tape.clear()
    return again.map((copy) => {
      const inputGrad = copy.grad
      copy.grad = null
      return inputGrad
    })
  })
  return output
}
