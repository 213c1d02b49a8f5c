// Measures what each layer of a chain costs, while it computes the chain's results and gradients with the fewest bytes there
// are: it keeps the first input alone and runs all layers below the one whose gradients are due again, O(layers^2) in time.
// So measuring needs no more bytes than any plan does. Bytes and FLOPs are those of the program, see Device.program().
import { defaultGenerator, type RandomState } from '../tensor/random'
import { adopt } from '../tensor/scope'
import type { Tensor } from '../tensor/tensor'
import { backwardTape } from './backward'
import { follow, type Stage } from './chain'
import type { ChainCosts, StageCosts } from './rematerialisation'
import { noGrad, probeGradients, recordAlways, Tape, withTape } from './tape'

export interface MeasuredChain extends ChainCosts {
  /** First layers through which no gradient flows; `stages` has the others. */
  frozen: number
  /** Live bytes when the first of `stages` begins. */
  entry: number
}

/** The chain's result; `done` gets the costs when the chain's gradients have been taken. */
export function measureChain(stages: readonly Stage[], x: Tensor, done: (costs: MeasuredChain) => void): Tensor {
  const { device } = x
  const live = () => device.program().liveBytes
  // Peak and FLOPs since the mark, with the peak as bytes above `level`.
  let flopsBefore = 0
  const mark = () => {
    flopsBefore = device.program(true).flops
    return live()
  }
  const since = (level: number) => {
    const { peakBytes, flops } = device.program()
    return { peak: peakBytes - level, flops: flops - flopsBefore }
  }

  let h = x
  let frozen = 0
  let entry = x.requiresGrad ? live() : -1
  let first = x
  const starts: RandomState[] = []
  const leaves = new Set<Tensor>()
  const forward: Pick<StageCosts, 'output' | 'runPeak' | 'runFlops'>[] = []
  for (const stage of stages) {
    starts.push(defaultGenerator.state())
    const level = mark()
    const { result, wanted, leaves: used } = probeGradients(() => stage(h))
    for (const leaf of used) leaves.add(leaf)
    const { peak, flops } = since(level)
    if (entry < 0 && wanted) [entry, first, frozen] = [level, h, starts.length - 1]
    if (entry >= 0) forward.push({ output: live() - level, runPeak: peak, runFlops: flops })
    // What the gradients start from stays, held by the record.
    h = h === first && entry >= 0 ? result : follow(h, result, x)
  }
  if (!forward.length) return h
  const output = h === first ? h.detach() : h
  const exit = mark()
  recordAlways('chain', [first], [output], [first], (_, [input], context) => {
    const lastOutput = forward[forward.length - 1].output
    const turn = { peak: since(exit).peak, growth: live() - exit + lastOutput }
    const after = defaultGenerator.state()
    let grad: Tensor | undefined = context.takeOutput(0)
    const costs: StageCosts[] = []
    for (let i = forward.length - 1; i >= 0 && grad; --i) {
      defaultGenerator.restore(starts[frozen])
      let below = input
      for (let j = 0; j < i; ++j) below = follow(below, noGrad(() => stages[frozen + j](below)), input)
      const level = mark()
      const leaf = below.detach()
      leaf.requiresGrad = i > 0 || context.needs(0)
      const tape = new Tape()
      const result = withTape(tape, () => stages[frozen + i](leaf))
      const kept = since(level)
      const held = live() - level - forward[i].output
      const holds = (tensor: Tensor) => {
        const before = live()
        tensor.dispose()
        return before === live()
      }
      const grads: Map<number, Tensor> = new Map([[result.id, grad]])
      // A tape that holds its own result, too, is counted as if nobody else did.
      const ownOutput = result !== leaf && holds(result) ? forward[i].output : 0
      leaf.dispose()
      const ownInput = i > 0 && holds(below) ? forward[i - 1].output : 0
      const before = mark()
      backwardTape(tape, grads)
      const { peak: backPeak } = since(before)
      const growth = live() - before + held + ownOutput + ownInput
      costs.unshift({ ...forward[i], keepPeak: kept.peak, keepFlops: kept.flops, held: held + ownOutput, backPeak, growth })
      grad = grads.get(leaf.id)
      for (const other of grads.values()) if (other !== grad) other.dispose()
    }
    defaultGenerator.restore(after)
    mark()
    if (costs.length === forward.length) done({ stages: costs, turn, frozen, entry })
    return [grad ? adopt(grad) : null]
  }, undefined, leaves)
  if (first !== x) first.dispose()
  return output
}
