// Convolution layers: cross-correlation with a bank of filters, plus a bias.
import { kaimingUniform } from '../init/kaiming'
import type { Initializer } from '../init/initializer'
import { zeros } from '../ops/creation'
import { conv1d, conv2d, type Conv1dOptions, type Conv2dOptions, type Pair } from '../ops/conv'
import type { Tensor } from '../tensor/tensor'
import { Module, type ModuleOptions } from './module'
import { Parameter } from './parameter'

interface FilterOptions extends ModuleOptions {
  bias?: boolean
  /** How the filters start; default Kaiming uniform with gain 1 / sqrt(3). The bias starts at 0. */
  init?: Initializer
}

function filters(shape: number[], options: FilterOptions): { weight: Parameter; bias: Parameter | null } {
  return {
    weight: new Parameter((options.init ?? kaimingUniform(1 / Math.sqrt(3)))(shape, options)),
    bias: options.bias === false ? null : new Parameter(zeros([shape[0]], options)),
  }
}

/** x [batch, inChannels, length] -> [batch, outChannels, places]. */
export class Conv1d extends Module {
  weight: Parameter
  bias: Parameter | null

  constructor(
    inChannels: number,
    outChannels: number,
    kernel: number,
    private readonly options: Conv1dOptions & FilterOptions = {},
  ) {
    super()
    const { weight, bias } = filters([outChannels, inChannels / (options.groups ?? 1), kernel], options)
    this.weight = weight
    this.bias = bias
  }

  forward(x: Tensor): Tensor {
    return conv1d(x, this.weight.value, this.bias?.value, this.options)
  }
}

/** x [batch, inChannels, height, width] -> [batch, outChannels, height', width']. */
export class Conv2d extends Module {
  weight: Parameter
  bias: Parameter | null

  constructor(
    inChannels: number,
    outChannels: number,
    kernel: Pair,
    private readonly options: Conv2dOptions & FilterOptions = {},
  ) {
    super()
    const [height, width] = typeof kernel === 'number' ? [kernel, kernel] : kernel
    const { weight, bias } = filters([outChannels, inChannels / (options.groups ?? 1), height, width], options)
    this.weight = weight
    this.bias = bias
  }

  forward(x: Tensor): Tensor {
    return conv2d(x, this.weight.value, this.bias?.value, this.options)
  }
}
