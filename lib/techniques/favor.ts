// Performer's attention in every layer, with directions drawn anew every so many steps. They are a function of seed, layer
// and number of the draw, which is saved; generation and evaluation use the last ones. See lib/attention/favor.ts.
// Source: Choromanski et al., arXiv 2009.14794.
import { DrawnDirections } from '../attention/favor'
import { attentionLayers } from './layers'
import { defineTechnique, type Technique } from './technique'

/** What a technique does whose directions are drawn anew every `redraw` steps (0: never); the number of the draw is saved. */
export function redrawn(directions: DrawnDirections, redraw: number): Pick<Technique, 'step' | 'state' | 'restore'> {
  return {
    step(next, { step }) {
      directions.draw = redraw ? Math.floor(step / redraw) : 0
      next()
    },
    state: () => ({ data: { draw: directions.draw } }),
    restore(_, data) {
      directions.draw = (data as { draw: number }).draw
    },
  }
}

export const favor = defineTechnique({
  name: 'favor',
  title: 'FAVOR+: softmax attention by random features, linear in the length',
  category: 'attention',
  source: 'Choromanski et al., arXiv 2009.14794',
  settings: {
    features: { default: 256, min: 0, integer: true, help: 'random features a head; d ln d is enough, 266 for 64; 0: off' },
    redraw: { default: 1000, min: 0, integer: true, help: 'steps between draws of the directions; 0: never' },
    eps: { default: 1e-6, min: 0, help: 'added to features where attention is not causal' },
    seed: { default: 0, min: 0, integer: true, help: 'of the directions' },
  },
  decides: ['attention_kernel'],
  neutral: { settings: { features: 0 } },
  make: ({ features, redraw, eps, seed }) => {
    const directions = new DrawnDirections(seed)
    return {
      adapt(model) {
        if (features === 0) return
        for (const [layer, attention] of attentionLayers(model, 'favor').entries()) attention.kernel = directions.kernel(layer, features, eps)
      },
      ...redrawn(directions, redraw),
    }
  },
})
