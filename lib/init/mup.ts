// Maximal update parametrisation: learning rates found on a narrow model hold for a wide one. With m = width / base width,
// for Adam: hidden matrices start at N(0, 1 / fan_in) with learning rate 1 / m and weight decay m; embeddings, biases and
// norms as ever; logits times 1 / m; attention scores q k / d instead of q k / sqrt(d), as they are at the base's head
// width. For SGD: everything but hidden matrices has learning rate m. In depth, with n = layers / base layers, branches
// times n^-a: a = 1/2 is depth-muP (Adam's rate also n^-1/2), a = 1 CompleteP (rate n^(a - 1) = 1, eps times n^-a / m).
// Sources: Yang et al., arXiv 2203.03466; depth: arXiv 2310.02244; CompleteP: Dey et al., arXiv 2505.01618.
import type { Generator } from '../tensor/random'
import { defineInitializer, fill, type ParameterTree } from './model_initializer'
import { normal } from './normal'
import { layersOf, partsOf } from './roles'

export interface MupShape {
  /** Width over base width. */
  width: number
  /** Layers over base layers; default 1. */
  depth?: number
  /** a: 0 (default) without depth rules, 0.5 for depth-muP, 1 for CompleteP. */
  depthPower?: number
  optimizer?: 'adam' | 'sgd'
}

export interface MupScales {
  lr: number
  weightDecay: number
  eps: number
}

/** Factors of learning rate, weight decay and eps. `hidden`: both sides of the matrix grow with the width; `inBlock`: it is in a layer. */
export function mupScales({ width, depth = 1, depthPower = 0, optimizer = 'adam' }: MupShape, hidden: boolean, inBlock: boolean): MupScales {
  if (optimizer === 'sgd') return { lr: hidden ? 1 : width, weightDecay: 1, eps: 1 }
  const rate = inBlock && depthPower ? depth ** (depthPower - 1) : 1
  return {
    lr: (hidden ? 1 / width : 1) * rate,
    weightDecay: hidden ? width : 1,
    eps: depthPower === 1 ? depth ** -depthPower / width : 1,
  }
}

const hiddenRoles = new Set(['qkv', 'q', 'kv', 'out', 'up', 'down', 'matrix'])

/** Fills a model that was built with `mup: { baseWidth, ... }`. */
export function mup(model: ParameterTree, generator: Generator, options: { baseWidth: number; baseLayers: number; depthPower: number; optimizer: 'adam' | 'sgd'; zeroHead: boolean }): void {
  const parts = partsOf(model)
  const down = parts.find(({ role }) => role === 'down')!
  const shape = {
    width: down.parameter.shape[0] / options.baseWidth,
    depth: layersOf(parts) / options.baseLayers,
    depthPower: options.depthPower,
    optimizer: options.optimizer,
  }
  for (const { path, role, parameter } of parts) {
    const hidden = hiddenRoles.has(role)
    Object.assign(parameter.scales, mupScales(shape, hidden, path.includes('blocks.')))
    if (hidden) fill(parameter, normal(1 / Math.sqrt(parameter.shape[1])), generator)
    else if (role === 'head') fill(parameter, normal(options.zeroHead ? 0 : 1 / Math.sqrt(options.baseWidth)), generator)
  }
}

export const mupEntry = defineInitializer({
  name: 'mup',
  title: 'Maximal update parametrisation: rates that hold for every width and depth',
  source: 'Yang et al., arXiv 2203.03466; Dey et al., arXiv 2505.01618',
  settings: {
    base_width: { default: 64, min: 1, integer: true, help: 'width at which the rates were found' },
    base_layers: { default: 2, min: 1, integer: true, help: 'layers at which the rates were found' },
    base_head_width: { default: 64, min: 1, integer: true, help: 'width per head at which attention is the usual one' },
    depth_power: { default: 0, min: 0, max: 1, help: '0: no rules for depth, 0.5: depth-muP, 1: CompleteP' },
    optimizer: { default: 'adam', choices: ['adam', 'sgd'], help: 'the kind of optimiser that the rates are for' },
    zero_head: { default: true, help: 'a head of its own starts at 0' },
  },
  make: (v) => ({
    config: { mup: { baseWidth: v.base_width, baseLayers: v.base_layers, baseHeadWidth: v.base_head_width, depthPower: v.depth_power } },
    apply: (model, generator) =>
      mup(model, generator, {
        baseWidth: v.base_width,
        baseLayers: v.base_layers,
        depthPower: v.depth_power,
        optimizer: v.optimizer as 'adam' | 'sgd',
        zeroHead: v.zero_head,
      }),
  }),
})
