// Reads the goldens that test/goldens/generate.py wrote: numbers by name, in a safetensors file with facts beside it.
import { readFileSync } from 'node:fs'
import path from 'node:path'
import type { ForeignName } from '../../lib/models/huggingface'
import type { Module } from '../../lib/nn/module'
import { getDevice } from '../../lib/tensor/device'
import type { Tensor } from '../../lib/tensor/tensor'
import { fromHost } from '../../lib/train/host_tensor'
import { decodeSafetensors, type HostTensor } from '../../lib/train/safetensors'

const folder = path.resolve('test/goldens')

export function goldenFacts(stem: string) {
  return JSON.parse(readFileSync(path.join(folder, `${stem}.json`), 'utf8'))
}

export async function goldenTensors(stem: string): Promise<Goldens> {
  return new Goldens((await decodeSafetensors(readFileSync(path.join(folder, `${stem}.safetensors`)))).tensors)
}

export class Goldens {
  constructor(readonly tensors: Record<string, HostTensor>) {}

  shape(name: string): number[] {
    return this.tensors[name].shape
  }

  /** f32 and f64 tensors. */
  numbers(name: string): Float64Array {
    const { dtype, data } = this.tensors[name]
    const { buffer } = data.slice()
    return dtype === 'f64' ? new Float64Array(buffer) : Float64Array.from(new Float32Array(buffer))
  }

  ints(name: string): Int32Array {
    return new Int32Array(this.tensors[name].data.slice().buffer)
  }
}

/** Largest difference over the largest value of the reference. */
export function relative(actual: ArrayLike<number>, expected: ArrayLike<number>, from = 0, to = expected.length): number {
  let difference = 0
  let size = 0
  for (let i = from; i < to; ++i) {
    difference = Math.max(difference, Math.abs(actual[i] - expected[i]))
    size = Math.max(size, Math.abs(expected[i]))
  }
  return difference / size
}

/** The golden's `weights.*` under their own names. */
export function foreignTensors(goldens: Goldens): Map<string, Tensor> {
  const own = Object.entries(goldens.tensors).filter(([name]) => name.startsWith('weights.'))
  return new Map(own.map(([name, value]) => [name.slice('weights.'.length), fromHost(value, getDevice())]))
}

/** Compares the gradients that a model has with the golden's `grad.*`, part by part of a joint matrix. */
export async function checkGradients(
  model: Module<never, unknown>,
  names: readonly ForeignName[],
  goldens: Goldens,
  bound: number,
): Promise<void> {
  const parameters = model.namedParameters()
  for (const { ours, theirs, transposed } of names) {
    const actual = await parameters.get(ours)!.grad!.toFloat64()
    const parts = theirs.map((name) => goldens.numbers(`grad.${name}`))
    const expected = Float64Array.from(parts.flatMap((part) => [...part]))
    const ordered = transposed ? transposedNumbers(expected, goldens.shape(`grad.${theirs[0]}`)) : expected
    // Softmax does not see a constant added to all keys: that gradient is rounding noise, judged by its neighbours'.
    const error = relative(actual, ordered)
    expect([ours, error < bound, error]).toEqual([ours, true, error])
  }
}

function transposedNumbers(x: Float64Array, [rows, columns]: number[]): Float64Array {
  return x.map((_, i) => x[(i % rows) * columns + Math.floor(i / rows)])
}
