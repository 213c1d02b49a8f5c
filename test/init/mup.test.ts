// muP: the coordinate check on a network of 32-n-n-1 over 64 times the width, the scales of each parameter, and a GPT whose
// logits move alike at every width.
import { backward } from '../../lib/autograd/backward'
import { coordinateCheck, spread } from '../../lib/init/coordinate_check'
import { fill } from '../../lib/init/model_initializer'
import { mupEntry, mupScales } from '../../lib/init/mup'
import { normal } from '../../lib/init/normal'
import { Linear } from '../../lib/nn/linear'
import { mulScalar, relu, square, sub } from '../../lib/ops/elementwise'
import { mean } from '../../lib/ops/reductions'
import { randn } from '../../lib/ops/random'
import { AdamW } from '../../lib/optim/adamw'
import { decayGroups } from '../../lib/optim/optimizer'
import { Generator } from '../../lib/tensor/random'
import { keep, scope } from '../../lib/tensor/scope'
import { tensor } from '../../lib/tensor/tensor'
import { Markov, markovModel } from '../support/markov'

const widths = [16, 64, 256, 1024]
const base = 16

/** 32-n-n-1 with a fixed batch, under muP's rules or the usual ones. */
function network(width: number, scaled: boolean) {
  const generator = new Generator(5)
  const options = { generator, bias: false }
  const layers = [new Linear(32, width, options), new Linear(width, width, options), new Linear(width, 1, options)]
  for (const { weight } of layers) fill(weight, normal(1 / Math.sqrt(weight.shape[1])), generator)
  const x = keep(randn([64, 32], { generator }))
  const y = keep(randn([64, 1], { generator }))
  const m = width / base
  if (scaled) {
    Object.assign(layers[1].weight.scales, mupScales({ width: m }, true, true))
    // The output starts like that of the base width, and is divided by m.
    fill(layers[2].weight, normal(1 / Math.sqrt(base)), generator)
  }
  const parts = () => {
    const first = relu(layers[0].call(x))
    const hidden = layers[1].call(first)
    return { first, hidden, output: mulScalar(layers[2].call(relu(hidden)), scaled ? 1 / m : 1) }
  }
  const optimizer = new AdamW(decayGroups(new Map(layers.map(({ weight }, i) => [`${i}.weight`, weight])), 0), { beta2: 0.999 })
  return {
    observe: parts,
    step() {
      optimizer.zeroGrad()
      scope(() => backward(mean(square(sub(parts().output, y)))))
      optimizer.step(0.01)
    },
    dispose() {
      optimizer.dispose()
      for (const layer of layers) layer.dispose()
      x.dispose()
      y.dispose()
    },
  }
}

test('outputs and hidden layers move as far at every width, and not so without muP', async () => {
  const mup = await coordinateCheck(widths, (width) => network(width, true))
  expect(spread(mup, 'output')).toBeLessThan(2)
  expect(spread(mup, 'hidden')).toBeLessThan(1.5)
  const plain = await coordinateCheck([16, 1024], (width) => network(width, false))
  expect(spread(plain, 'output')).toBeGreaterThan(3)
})

test('scales of Adam, SGD, depth-muP and CompleteP', () => {
  expect(mupScales({ width: 4 }, true, true)).toEqual({ lr: 1 / 4, weightDecay: 4, eps: 1 })
  expect(mupScales({ width: 4 }, false, true)).toEqual({ lr: 1, weightDecay: 1, eps: 1 })
  expect(mupScales({ width: 4, optimizer: 'sgd' }, true, true).lr).toBe(1)
  expect(mupScales({ width: 4, optimizer: 'sgd' }, false, true).lr).toBe(4)
  expect(mupScales({ width: 4, depth: 9, depthPower: 0.5 }, true, true).lr).toBeCloseTo(1 / 12, 12)
  expect(mupScales({ width: 4, depth: 9, depthPower: 1 }, true, true)).toEqual({ lr: 1 / 4, weightDecay: 4, eps: 1 / 36 })
  expect(mupScales({ width: 4, depth: 9, depthPower: 0.5 }, false, false).lr).toBe(1)
})

test('a GPT: factors of branches, scores and logits; groups of the optimiser', async () => {
  const init = mupEntry.create({ base_width: 32, base_layers: 2, base_head_width: 16, depth_power: 1 })
  const model = markovModel({ layers: 8, width: 128, heads: 4 }, init)
  expect(model.config).toMatchObject({ branchScale: 1 / 4, attentionScale: 4 / 32, logitScale: 1 / 4 })
  const groups = decayGroups(model.namedParameters(), 0.1)
  const of = (path: string) => groups.find(({ parameters }) => parameters.has(path))!
  expect(of('blocks.0.mlp.up.weight')).toMatchObject({ lrScale: 1 / 4, weightDecay: 0.4, epsScale: 1 / 16 })
  expect(of('token_embedding.weight')).toMatchObject({ weightDecay: 0.1, epsScale: 1 / 16 })
  expect(of('token_embedding.weight').lrScale).toBeUndefined()
  expect((await model.head!.weight.tensor.toFloat64()).every((x) => x === 0)).toBe(true)
  model.dispose()
})

test('the logits of a GPT move alike at three widths', async () => {
  const { inputs, targets } = new Markov().batch(0)
  const moved = await coordinateCheck([16, 64, 256], (width) => {
    const model = markovModel({ layers: 2, width, heads: 4 }, mupEntry.create({ base_width: 16, base_head_width: 4 }))
    const ids = keep(tensor(inputs, [16, 32]))
    const wanted = keep(tensor(targets, [16, 32]))
    const optimizer = new AdamW(decayGroups(model.namedParameters(), 0))
    return {
      observe: () => ({ logits: model.logits(ids) }),
      step() {
        optimizer.zeroGrad()
        scope(() => backward(model.loss(ids, wanted)))
        optimizer.step(1e-3)
      },
      dispose: () => model.dispose(),
    }
  })
  expect(spread(moved, 'logits')).toBeLessThan(2)
})
