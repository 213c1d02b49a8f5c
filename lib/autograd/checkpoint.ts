// Rematerialisation: runs a piece of the model without keeping its inner tensors, and runs it again when its gradient is
// asked for (Chen et al., arXiv 1604.06174). The numbers are bit for bit those without checkpointing, dropout included,
// because random operators draw from named blocks and the second run starts from the same generator state.
import { defaultGenerator } from '../tensor/random'
import { adopt, keep, scope } from '../tensor/scope'
import type { Tensor } from '../tensor/tensor'
import { backwardTape } from './backward'
import { currentTape, noGrad, recordAlways, Tape, withTape } from './tape'

/**
 * `fn(...inputs)` with only the inputs kept for the backward pass. `fn` must be a function of its inputs, of parameters
 * and of the default generator; it is called twice. Costs one more forward pass of `fn`.
 */
export function checkpoint(fn: (...inputs: Tensor[]) => Tensor, inputs: readonly Tensor[]): Tensor {
  if (currentTape() === null) return scope(() => fn(...inputs))
  const random = defaultGenerator.state()
  const result = noGrad(() => scope(() => fn(...inputs)))
  // A layer that is skipped returns its input; the record needs an identity of its own.
  const output = inputs.includes(result) ? result.detach() : result
  recordAlways('checkpoint', inputs, [output], inputs, ([grad], saved, context) => {
    const after = defaultGenerator.state()
    defaultGenerator.restore(random)
    // Not leaves: their gradients come together exactly as they would without checkpointing.
    const again = saved.map((input, i) => {
      const copy = input.detach()
      copy.requiresGrad = context.needs(i)
      return copy
    })
    const tape = new Tape()
    const result = withTape(tape, () => fn(...again))
    defaultGenerator.restore(after)
    const grads = new Map([[result.id, keep(grad!.alias())]])
    backwardTape(tape, grads)
    return again.map((copy) => {
      const inputGrad = grads.get(copy.id)
      return inputGrad ? adopt(inputGrad) : null
    })
  })
  return output
}
