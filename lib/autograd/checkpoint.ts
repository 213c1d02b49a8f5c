// Rematerialisation: runs a piece of the model without keeping its inner tensors, and runs it again when its gradient is
// asked for (Chen et al., arXiv 1604.06174). The numbers are bit for bit those without checkpointing, dropout included,
// because random operators draw from named blocks and the second run starts from the same generator state.
import { defaultGenerator } from '../tensor/random'
import { adopt, keep, scope } from '../tensor/scope'
import type { Tensor } from '../tensor/tensor'
import { backwardTape } from './backward'
import { currentTape, probeGradients, recordAlways, Tape, withTape } from './tape'

/**
 * `fn(...inputs)` with only the inputs kept for the backward pass. `fn` must be a function of its inputs, of parameters
 * and of the default generator; it is called twice. Costs one more forward pass of `fn`.
 */
export function checkpoint(fn: (...inputs: Tensor[]) => Tensor, inputs: readonly Tensor[]): Tensor {
  if (currentTape() === null) return scope(() => fn(...inputs))
  const random = defaultGenerator.state()
  const { result, wanted, leaves } = probeGradients(() => scope(() => fn(...inputs)))
  if (!wanted) return result
  // A layer that is skipped returns its input; the record needs an identity of its own.
  const output = inputs.includes(result) ? result.detach() : result
  recordAlways('checkpoint', inputs, [output], inputs, (_, saved, context) => {
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
    const grads = new Map([[result.id, context.takeOutput(0)]])
    if (!again.includes(result)) result.dispose()
    // What came from elsewhere so far goes on inside, so that sums are in the order of a run without checkpointing.
    for (const [i, copy] of again.entries()) {
      const partial = copy.requiresGrad && copy !== result ? context.takePartial(i) : null
      if (partial) grads.set(copy.id, keep(partial))
    }
    backwardTape(tape, grads)
    const inputGrads = again.map((copy) => {
      const inputGrad = grads.get(copy.id)
      return inputGrad ? adopt(inputGrad) : null
    })
    for (const grad of grads.values()) if (!inputGrads.includes(grad)) grad.dispose()
    return inputGrads
  }, undefined, leaves)
  return output
}
