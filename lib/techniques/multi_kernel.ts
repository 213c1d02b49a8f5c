// Multi-kernel attention in every layer: a share of the heads attends by another kernel, the others by softmax. For assignments
// that are measured on a trained model there are assignKernels() and measureUnits(); see lib/attention/multi_kernel.ts.
import { softmaxKernel, windowKernel, type AttentionKernel } from '../attention/kernels'
import { multiKernel, wholeHead, type Choice, type LayerAssignment } from '../attention/multi_kernel'
import type { Module } from '../nn/module'
import { int8Kernel } from './int8_attention'
import { attentionLayers } from './layers'
import { linearKernel } from './linear_attention'
import { defineTechnique } from './technique'

/** Gives each layer its assignment, in order. */
export function assignKernels(model: Module<never, unknown>, layers: readonly LayerAssignment[], kernels: Readonly<Record<string, AttentionKernel>>): void {
  for (const [i, attention] of attentionLayers(model, 'multi_kernel').entries()) attention.kernel = multiKernel(layers[i], kernels)
}

/** Assignments layer by layer from one kernel for each unit, in the order of layers and key-value heads. */
export function unitsByLayer(model: Module<never, unknown>, kernels: readonly string[]): LayerAssignment[] {
  let at = 0
  return attentionLayers(model, 'multi_kernel').map(({ kvHeads }) => Array.from({ length: kvHeads }, () => wholeHead(kernels[at++])))
}

/**
 * What each unit costs and does to the loss by each kernel, when it alone leaves `base`. `evaluate` gives loss and cost (FLOPs or
 * seconds) of the model on calibration data; a unit's cost is what it adds to the cost without it, up to a constant.
 */
export async function measureUnits(
  model: Module<never, unknown>,
  kernels: Readonly<Record<string, AttentionKernel>>,
  base: string,
  evaluate: () => Promise<{ loss: number; cost: number }>,
): Promise<Choice[][]> {
  const count = attentionLayers(model, 'multi_kernel').reduce((n, { kvHeads }) => n + kvHeads, 0)
  const all = Array<string>(count).fill(base)
  const run = (names: readonly string[]) => {
    assignKernels(model, unitsByLayer(model, names), kernels)
    return evaluate()
  }
  const whole = await run(all)
  const units: Choice[][] = []
  for (let u = 0; u < count; ++u) {
    const choices: Choice[] = [{ kernel: base, cost: whole.cost / count, change: 0 }]
    for (const kernel of Object.keys(kernels).filter((name) => name !== base)) {
      const { loss, cost } = await run(all.map((name, i) => (i === u ? kernel : name)))
      choices.push({ kernel, cost: whole.cost / count + cost - whole.cost, change: loss - whole.loss })
    }
    units.push(choices)
  }
  assignKernels(model, unitsByLayer(model, all), kernels)
  return units
}

export const multiKernelTechnique = defineTechnique({
  name: 'multi_kernel',
  title: 'Multi-kernel attention: some heads by a cheaper kernel',
  category: 'attention',
  source: 'a definition of our own, see docs/corrections.md',
  settings: {
    kernel: { default: 'window', choices: ['window', 'linear', 'int8'], help: 'how the chosen heads attend' },
    share: { default: 0.5, min: 0, max: 1, help: 'share of the key-value heads, the first ones of each layer; 0: none' },
    window: { default: 64, min: 1, integer: true, help: 'tokens seen by kernel=window' },
  },
  decides: ['attention_kernel'],
  neutral: { settings: { share: 0 } },
  make: ({ kernel, share, window }) => ({
    adapt(model) {
      if (share === 0) return
      const kernels = { softmax: softmaxKernel, window: windowKernel(window), linear: linearKernel, int8: int8Kernel }
      const layers = attentionLayers(model, 'multi_kernel').map(({ kvHeads }) =>
        Array.from({ length: kvHeads }, (_, g) => wholeHead(g < Math.round(share * kvHeads) ? kernel : 'softmax')),
      )
      assignKernels(model, layers, kernels)
    },
  }),
})
