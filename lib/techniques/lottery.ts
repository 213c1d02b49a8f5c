// Lottery tickets by iterative magnitude pruning, inside one run: it is cut into `rounds` + 1 equal parts, each a training of
// its own along the whole (compressed) schedule. Between them the share `rate` of the kept weights with the smallest |w|
// goes, by one threshold for all matrices or within each (the output layer at half the rate), and the others return to what
// they were at step k of the first part, the optimiser's state to zero. rewind 0 is the original hypothesis; large networks
// want a few per cent. Later parts see later data. Sources: Frankle and Carbin, arXiv 1803.03635 and 1912.05671.
import { noGrad } from '../autograd/tape'
import { LeanformerError } from '../native/errors'
import type { Parameter } from '../nn/parameter'
import { copy } from '../ops/copy'
import { writeSlice } from '../ops/slice'
import type { Optimizer } from '../optim/optimizer'
import { keep, scope } from '../tensor/scope'
import type { Tensor } from '../tensor/tensor'
import { gradientTechniques, maskableOf, maskedStep, Masks, sparseInPlace } from './masks'
import { defineTechnique } from './technique'

/** Weights kept after a round that removes the share `rate` of `active` ones. */
export const survivors = (active: number, rate: number): number => active - Math.ceil(rate * active - 1e-9)

/** One round of pruning: of all matrices together, or of each, with `outputRate` for the matrix that `isOutput` names. */
export async function pruneRound(
  masks: Masks,
  { rate, global = true, outputRate = rate / 2, isOutput = () => false }: { rate: number; global?: boolean; outputRate?: number; isOutput?: (name: string) => boolean },
): Promise<void> {
  const active = (name: string) => masks.active.get(name) ?? masks.parameters.get(name)!.tensor.size
  const names = [...masks.parameters.keys()]
  if (global) await masks.pruneByMagnitude(survivors(names.reduce((n, name) => n + active(name), 0), rate))
  else masks.pruneByMagnitude(new Map(names.map((name) => [name, survivors(active(name), isOutput(name) ? outputRate : rate)])))
}

/** The values of all parameters at one moment. */
export class Snapshot {
  private values: Map<string, Tensor>

  constructor(parameters: Map<string, Parameter>) {
    this.values = noGrad(() => new Map([...parameters].map(([name, { tensor }]) => [name, keep(copy(tensor))])))
  }

  /** Puts the values back; masked weights stay 0. */
  restore(parameters: Map<string, Parameter>, masks?: Masks): void {
    for (const [name, parameter] of parameters) {
      writeSlice(parameter.tensor, this.values.get(name)!, parameter.shape.map(() => 0))
      parameter.refresh()
    }
    masks?.apply()
  }

  get tensors(): Map<string, Tensor> {
    return this.values
  }

  /** Takes saved values over. */
  load(values: Map<string, Tensor>): void {
    this.dispose()
    this.values = values
  }

  dispose(): void {
    for (const value of this.values.values()) value.dispose()
  }
}

export const lotteryEntry = defineTechnique({
  name: 'lottery',
  title: 'Lottery tickets: prune by magnitude, rewind, train again',
  category: 'sparse training',
  source: 'Frankle and Carbin, arXiv 1803.03635, 1912.05671',
  settings: {
    rounds: { default: 5, min: 0, integer: true, help: 'prunings; each adds a training of the same length' },
    rate: { default: 0.2, min: 0, max: 0.99, help: 'share of the kept weights that a round removes' },
    rewind: { default: 0.05, min: 0, max: 1, help: 'where in a training the weights are taken from; 0: the start' },
    scope: { default: 'global', choices: ['global', 'layer'], help: 'rank weights of all matrices together, or within each' },
  },
  decides: sparseInPlace.decides,
  excludes: { ...sparseInPlace.excludes, freeze_layers: 'what is rewound must be trained again' },
  neutral: { settings: { rounds: 0 } },
  make: ({ rounds, rate, rewind, scope: scopeName }) => {
    let masks: Masks
    let parameters: Map<string, Parameter>
    let optimizer: Optimizer
    let schedule: (step: number) => number
    let length = 1
    let ticket: Snapshot | null = null
    return {
      after: gradientTechniques,
      setup(run) {
        ;({ parameters, optimizer, schedule } = run)
        if (rounds === 0) return
        masks = new Masks(maskableOf(parameters), optimizer)
        length = Math.floor(run.steps / (rounds + 1))
        if (length < 1) throw new LeanformerError('ERR_OPTION', `lottery: ${run.steps} steps are too few for ${rounds} rounds`, 'give more steps or fewer rounds')
      },
      async prepare(batches, { step }) {
        if (rounds === 0) return batches
        if (step === Math.floor(rewind * length)) ticket ??= new Snapshot(parameters)
        if (step > 0 && step % length === 0 && step < length * (rounds + 1)) {
          await pruneRound(masks, { rate, global: scopeName === 'global' })
          noGrad(() => scope(() => ticket!.restore(parameters, masks)))
          optimizer.reset()
        }
        return batches
      },
      step(next, context) {
        if (rounds === 0) return next()
        context.lr = schedule(Math.min(context.step % length, length - 1) * (rounds + 1))
        if (masks.masks.size) maskedStep(masks, next, context, () => masks.maskGradients())
        else next()
      },
      summary: () => (rounds === 0 ? Promise.resolve([]) : masks.summary('lottery ticket')),
      state() {
        if (rounds === 0) return {}
        const tensors = new Map([...masks.masks].map(([name, mask]) => [`mask.${name}`, mask]))
        for (const [name, value] of ticket?.tensors ?? []) tensors.set(`ticket.${name}`, value)
        return { data: Object.fromEntries(masks.active), tensors }
      },
      load({ data, tensors }) {
        if (rounds === 0) return
        const part = (prefix: string) =>
          new Map([...tensors].filter(([name]) => name.startsWith(prefix)).map(([name, value]) => [name.slice(prefix.length), value]))
        masks.load({ data, tensors: part('mask.') })
        const saved = part('ticket.')
        if (!saved.size) return
        ticket ??= new Snapshot(new Map())
        ticket.load(saved)
      },
    }
  },
})
