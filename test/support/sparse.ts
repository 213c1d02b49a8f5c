// Training of T16 students under masks, for the tests of sparse techniques.
import { backward } from '../../lib/autograd/backward'
import { crossEntropy } from '../../lib/ops/cross_entropy'
import { Adam } from '../../lib/optim/adam'
import type { Optimizer } from '../../lib/optim/optimizer'
import type { Masks } from '../../lib/techniques/masks'
import { scope } from '../../lib/tensor/scope'
import { rowsOf, type Examples, type Student } from './teacher'

export const newAdam = (student: Student) => new Adam([{ parameters: student.namedParameters() }])

/** Trains with masked gradients and weights. `change` sees the dense gradients; where it returns true, they are not applied. */
export async function trainMasked(
  student: Student,
  optimizer: Optimizer,
  masks: Masks | null,
  data: Examples,
  { steps, lr = 2e-3, change = () => false }: { steps: number; lr?: number; change?: (step: number) => boolean },
): Promise<void> {
  for (let step = 0; step < steps; ++step) {
    optimizer.zeroGrad()
    scope(() => {
      const { x, labels } = rowsOf(data, step * 128, 128)
      backward(crossEntropy(student.call(x), labels))
      const held = change(step)
      masks?.maskGradients()
      // Masked weights and their moments are 0, so Adam without weight decay leaves them there.
      if (!held) optimizer.step(lr)
    })
    if (step % 20 === 19) await student.parameters()[0].tensor.device.synchronize()
  }
  optimizer.zeroGrad()
}

/** Kept weights of each mask, counted on the host. */
export async function counts(masks: Masks): Promise<Record<string, number>> {
  const entries = [...masks.masks].map(async ([name, mask]) => [name, (await mask.toFloat32()).reduce((a, b) => a + b, 0)] as const)
  return Object.fromEntries(await Promise.all(entries))
}

/** Share of the first layer's kept weights that stand at the 16 inputs which matter. */
export async function usefulShare(masks: Masks): Promise<number> {
  const mask = await masks.masks.get('layers.0.weight')!.toFloat32()
  let [useful, all] = [0, 0]
  mask.forEach((kept, i) => {
    all += kept
    if (i % 64 < 16) useful += kept
  })
  return useful / all
}
