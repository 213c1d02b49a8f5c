// AdamW whose moments take a byte each: codes of a dynamic map (native/api/dynamic_map.h), with one f32 scale a block of 256
// elements. 2.03 bytes a parameter instead of 8, with AdamW's settings. Embeddings and tensors below 4096 elements keep f32
// moments. Source: Dettmers et al., arXiv 2110.02861.
import { LeanformerError } from '../native/errors'
import type { Parameter } from '../nn/parameter'
import { zeros } from '../ops/creation'
import { run, run1, type Tensor } from '../tensor/tensor'
import { adamw, type AdamWOptions } from './adamw'
import { membersOf, updateGroup } from './group'
import { checkFractions, defineOptimizer, Optimizer, type ParameterGroup } from './optimizer'

export interface AdamW8bitOptions extends AdamWOptions {
  /** Elements that share a scale; default 256. */
  block?: number
  /** Tensors with fewer elements keep f32 moments; default 4096. */
  smallest?: number
}

/** x f32 as u8 codes of its shape, and one f32 scale a block. `withSign`: the code book of [-1, 1], otherwise of [0, 1]. */
export function quantizeBlocks(x: Tensor, { block = 256, withSign = true } = {}): { codes: Tensor; scales: Tensor } {
  const [codes, scales] = run('quantize_blocks', [x], { block, with_sign: withSign })
  return { codes, scales }
}

/** The f32 numbers that quantizeBlocks() coded. */
export function dequantizeBlocks(codes: Tensor, scales: Tensor, { block = 256, withSign = true } = {}): Tensor {
  return run1('dequantize_blocks', [codes, scales], { block, with_sign: withSign })
}

export class AdamW8bit extends Optimizer {
  private readonly options: Required<AdamW8bitOptions>

  constructor(groups: ParameterGroup[], options: AdamW8bitOptions = {}) {
    super(groups)
    const { beta1 = 0.9, beta2 = 0.999, eps = 1e-8, block = 256, smallest = 4096 } = options
    this.options = { beta1, beta2, eps, block, smallest }
    checkFractions('AdamW8bit', { beta1, beta2 })
    if (!Number.isInteger(block) || block < 1 || block > 16384) {
      throw new LeanformerError('ERR_OPTION', `AdamW8bit: block must be a whole number from 1 to 16384, got ${block}`)
    }
  }

  /** Whether a parameter's moments are coded. */
  private coded(name: string, { tensor: { size, dtype } }: Parameter): boolean {
    return size >= this.options.smallest && dtype === 'f32' && !/embedding/.test(name)
  }

  protected update(named: [string, Parameter][], lr: number, weightDecay: number, clip: Tensor | null, group: ParameterGroup): void {
    const { beta1, beta2, block } = this.options
    const eps = this.options.eps * (group.epsScale ?? 1)
    const common = { lr, beta1, beta2, eps, step: this.steps }
    const small = named.filter(([name, parameter]) => !this.coded(name, parameter))
    if (small.length) {
      const moments = (slot: string) => small.map(([name, parameter]) => this.slot(slot, name, parameter))
      adamw({ ...membersOf(small), m: moments('m'), v: moments('v'), clip }, { ...common, weightDecay })
    }
    const large = named.filter(([name, parameter]) => this.coded(name, parameter))
    const codes = (slot: string) =>
      large.map(([name, parameter]) =>
        this.slot(slot, name, parameter, () => zeros(parameter.shape, { dtype: 'u8', device: parameter.tensor.device })),
      )
    const scales = (slot: string) =>
      large.map(([name, parameter]) =>
        this.slot(slot, name, parameter, () => zeros([Math.ceil(parameter.tensor.size / block)], { device: parameter.tensor.device })),
      )
    // With a scale of 0 every code stands for 0.
    const states = [codes('m_codes'), scales('m_scales'), codes('v_codes'), scales('v_scales')]
    updateGroup('adamw_8bit', { ...membersOf(large), states, clip }, { ...common, weight_decay: weightDecay, block })
  }
}

export const adamw8bitEntry = defineOptimizer({
  name: 'adamw_8bit',
  title: 'AdamW with moments in 8 bits',
  source: 'Dettmers et al., arXiv 2110.02861',
  settings: {
    beta1: { default: 0.9, min: 0, max: 0.999999, help: 'decay of the first moment' },
    beta2: { default: 0.95, min: 0, max: 0.999999, help: 'decay of the second moment' },
    eps: { default: 1e-8, min: 0, help: 'added to the root of the second moment' },
    block: { default: 256, min: 1, max: 16384, integer: true, help: 'elements that share a scale' },
    smallest: { default: 4096, min: 0, integer: true, help: 'tensors with fewer elements keep f32 moments' },
  },
  make: (groups, options) => new AdamW8bit(groups, options),
})
