// Reads the goldens that test/goldens/generate.py wrote: numbers by name, in a safetensors file with facts beside it.
import { readFileSync } from 'node:fs'
import path from 'node:path'
import { decodeSafetensors, type HostTensor } from '../../lib/train/safetensors'

const folder = path.join(__dirname, '..', 'goldens')

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
