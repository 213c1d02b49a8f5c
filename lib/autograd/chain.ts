// The layers of a model as a chain, which techniques may run in another way than one after another: some of them again in the
// backward pass, or with what they keep on disk. The numbers are the same in every way.
import type { Tensor } from '../tensor/tensor'
import { checkpoint } from './checkpoint'
import { everyPlan, layersOfPlan, type Plan } from './rematerialisation'
import { currentTape, type Tape } from './tape'

/** One layer: a function of its input, of what all layers share, of parameters and of the default generator. */
export type Stage = (x: Tensor, ...shared: Tensor[]) => Tensor
/** `shared`: other tensors through which gradients flow, such as the memory of a decoder. */
export type ChainRunner = (stages: readonly Stage[], x: Tensor, shared?: readonly Tensor[]) => Tensor

/** Sees a chain grow on a tape. */
export interface ChainWatcher {
  /** A layer is about to run; what the tape holds of those before it is complete. */
  stage(): void
  end(result: Tensor): void
}

export class Chain {
  /** Runs the layers while a tape records; null: one after another. */
  runner: ChainRunner | null = null
  /** Called when the layers are about to run on a tape. */
  watch: ((tape: Tape, x: Tensor) => ChainWatcher) | null = null

  /** The last layer's result. */
  run(stages: readonly Stage[], x: Tensor, shared: readonly Tensor[] = []): Tensor {
    const tape = currentTape()
    if (!tape) return runStages(stages, x, shared)
    const runner = this.runner ?? runStages
    if (!this.watch) return runner(stages, x, shared)
    const watcher = this.watch(tape, x)
    let forward = true // not when layers are run again in the backward pass
    const watched = stages.map((stage): Stage => (...inputs) => {
      if (forward) watcher.stage()
      return stage(...inputs)
    })
    const result = runner(watched, x, shared)
    forward = false
    watcher.end(result)
    return result
  }
}

/** One layer after another; results in between are released unless the tape holds them. */
export const runStages: ChainRunner = (stages, x, shared = []) => {
  let h = x
  for (const stage of stages) h = follow(h, stage(h, ...shared), x)
  return h
}

/** The layers by a plan that covers them. */
export function runPlan(stages: readonly Stage[], plan: Plan, x: Tensor, shared: readonly Tensor[] = []): Tensor {
  let h = x
  let at = 0
  for (const piece of plan) {
    const part = stages.slice(at, (at += layersOfPlan(piece)))
    const again = () => checkpoint((input, ...others) => runPlan(part, piece as Plan, input, others), [h, ...shared])
    h = follow(h, piece === 'keep' ? part[0](h, ...shared) : again(), x)
  }
  return h
}

/** Each layer is run again for its gradients. */
export const everyLayerAgain: ChainRunner = (stages, x, shared) => runPlan(stages, everyPlan(stages.length, 1), x, shared)

/** Releases `before`, unless it is the caller's or a layer gave its own input back. Returns `after`. */
export function follow(before: Tensor, after: Tensor, callers: Tensor): Tensor {
  if (before !== after && before !== callers) before.dispose()
  return after
}
