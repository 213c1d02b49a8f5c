// Pruning before training, by what the loss says of each weight at the start. SNIP keeps the weights with the largest
// |w dL/dw|, which is |dL(w c)/dc| at c = 1. GraSP keeps those whose removal would lower the gradient's norm the most, the
// smallest -w (H g), with the Hessian's product by a difference of gradients, H g = (g(w + h g) - g(w - h g)) / 2h.
// One threshold for all matrices. Its authors divide the logits by a temperature of 200 for GraSP: the caller's loss may.
// Sources: Lee et al., arXiv 1810.02340; Wang et al., arXiv 2002.07376.
import { noGrad } from '../autograd/tape'
import { LeanformerError } from '../native/errors'
import type { Parameter } from '../nn/parameter'
import { cast } from '../ops/cast'
import { copy } from '../ops/copy'
import { abs, add, div, mul, scale, sqrt, square, sub } from '../ops/elementwise'
import { sum } from '../ops/reductions'
import { writeSlice } from '../ops/slice'
import { keep, scope } from '../tensor/scope'
import type { Tensor } from '../tensor/tensor'
import type { Masks } from './masks'

type Parameters = ReadonlyMap<string, Parameter>

/** The gradients that `gradients` fills, as tensors of their own. */
function gradientsOf(parameters: Parameters, gradients: () => void): Map<string, Tensor> {
  const clear = () => parameters.forEach((parameter) => parameter.zeroGrad())
  clear()
  gradients()
  const found = new Map<string, Tensor>()
  for (const [name, { grad }] of parameters) {
    if (!grad) throw new LeanformerError('ERR_ARGUMENT', `snip: ${name} has no gradient`, 'the loss must depend on every matrix that is pruned')
    found.set(name, keep(noGrad(() => scope(() => copy(grad)))))
  }
  clear()
  return found
}

const release = (tensors: Map<string, Tensor>) => tensors.forEach((tensor) => tensor.dispose())

/** |w dL/dw| of every weight, over their sum. `gradients` fills the parameters' grad from one batch. */
export function snipScores(parameters: Parameters, gradients: () => void): Map<string, Tensor> {
  const grads = gradientsOf(parameters, gradients)
  const scores = scope(() =>
    noGrad(() => {
      const each = [...grads].map(([name, grad]) => [name, abs(mul(parameters.get(name)!.tensor, grad))] as const)
      const total = each.map(([, score]) => sum(score)).reduce((a, b) => add(a, b))
      return each.map(([name, score]) => [name, keep(div(score, total))] as const)
    }),
  )
  release(grads)
  return new Map(scores)
}

/** The Hessian times the gradient, by a difference of gradients over `step` of the weights' norm. The weights come back bit for bit. */
export function hessianGradient(parameters: Parameters, gradients: () => void, step = 1e-3): Map<string, Tensor> {
  const direction = gradientsOf(parameters, gradients)
  const start = new Map([...parameters].map(([name, { tensor }]) => [name, keep(noGrad(() => scope(() => copy(tensor))))]))
  const length = (tensors: Map<string, Tensor>) => sqrt([...tensors.values()].map((x) => sum(square(x))).reduce((a, b) => add(a, b)))
  const h = keep(noGrad(() => scope(() => scale(div(length(start), length(direction)), step))))
  const at = (sign: number) => {
    for (const [name, parameter] of parameters) {
      const moved = () => (sign ? add(start.get(name)!, mul(direction.get(name)!, scale(h, sign))) : start.get(name)!)
      noGrad(() => scope(() => writeSlice(parameter.tensor, moved(), parameter.shape.map(() => 0))))
      parameter.refresh()
    }
  }
  at(1)
  const ahead = gradientsOf(parameters, gradients)
  at(-1)
  const behind = gradientsOf(parameters, gradients)
  at(0)
  const found = new Map([...ahead].map(([name, grad]) => [name, keep(noGrad(() => scope(() => div(sub(grad, behind.get(name)!), scale(h, 2)))))]))
  for (const tensors of [direction, start, ahead, behind]) release(tensors)
  h.dispose()
  return found
}

/** Masks that keep the share `density` of the weights. `gradients` fills the parameters' grad from the same batch at each call. */
export async function pruneAtStart(masks: Masks, gradients: () => void, { density, method = 'snip' }: { density: number; method?: 'snip' | 'grasp' }): Promise<void> {
  const { parameters } = masks
  const found = method === 'snip' ? snipScores(parameters, gradients) : hessianGradient(parameters, gradients)
  const score = (name: string) => (method === 'snip' ? found.get(name)! : mul(parameters.get(name)!.tensor, found.get(name)!))
  await masks.pruneBy((name) => cast(score(name), 'f32'), Math.round(density * masks.size))
  release(found)
}
