// A seeded permutation of [0, n) that can be read at any place in O(1), with no table: the shuffle of a data set.
// Index i is written as (l, r) in [0, a) x [0, b) with a*b >= n, a and b near sqrt(n); eight Feistel rounds
//   l = (l + F(r)) mod a,  r = (r + F(l)) mod b
// are each invertible, so the whole is a bijection of [0, a*b). Results >= n are fed back in ("cycle walking", Black
// and Rogaway 2002), which keeps it a bijection of [0, n). a*b < n + sqrt(n) + 1, so a second pass is rare.

import { LeanformerError } from '../native/errors'

const { floor, imul } = Math
const { isSafeInteger } = Number
const kRounds = 8
const kMaxSize = 2 ** 48

/** Mixes 32 bits; full avalanche, constants of C. Wellons' low-bias search. */
export function mix32(x: number): number {
  x ^= x >>> 16
  x = imul(x, 0x21f0aaad)
  x ^= x >>> 15
  x = imul(x, 0x735a2d97)
  return (x ^ (x >>> 15)) >>> 0
}

/** A hash of x in [0, bound), bound <= 2^25: a multiplication, since % of such numbers is a slow call. */
function draw(x: number, bound: number): number {
  return floor(mix32(x) * bound * 2 ** -32)
}

function assertCount(name: string, value: number, max: number): void {
  if (!Number.isSafeInteger(value) || value < 0 || value > max) {
    throw new LeanformerError('ERR_ARGUMENT', `permutation: ${name} is ${value}`, `give an integer from 0 to ${max}`)
  }
}

export class Permutation {
  readonly size: number
  private readonly rows: number
  private readonly columns: number
  private readonly keys: Uint32Array

  /** `stream` selects an independent permutation of the same seed, such as one per epoch. */
  constructor(size: number, seed: number, stream = 0) {
    assertCount('size', size, kMaxSize)
    assertCount('seed', seed, Number.MAX_SAFE_INTEGER)
    assertCount('stream', stream, Number.MAX_SAFE_INTEGER)
    this.size = size
    this.rows = Math.max(1, Math.ceil(Math.sqrt(size)))
    this.columns = Math.max(1, Math.ceil(size / this.rows))
    let state = 0x9e3779b9
    for (const word of [seed, seed / 2 ** 32, stream, stream / 2 ** 32]) {
      state = mix32((state + 0x9e3779b9) ^ (Math.floor(word) >>> 0))
    }
    this.keys = new Uint32Array(2 * kRounds)
    for (let k = 0; k < this.keys.length; k++) {
      state = (state + 0x9e3779b9) >>> 0
      this.keys[k] = mix32(state)
    }
  }

  /** The value at place `index`. */
  at(index: number): number {
    this.assertIndex(index)
    const { rows, columns, keys } = this
    let value = index
    do {
      let l = floor(value / columns)
      let r = value - l * columns
      for (let k = 0; k < keys.length; k += 2) {
        l += draw(r ^ keys[k]!, rows)
        if (l >= rows) l -= rows
        r += draw(l ^ keys[k + 1]!, columns)
        if (r >= columns) r -= columns
      }
      value = l * columns + r
    } while (value >= this.size)
    return value
  }

  /** The place of `value`: the inverse of `at`. */
  indexOf(value: number): number {
    this.assertIndex(value)
    const { rows, columns, keys } = this
    let index = value
    do {
      let l = floor(index / columns)
      let r = index - l * columns
      for (let k = keys.length - 2; k >= 0; k -= 2) {
        r -= draw(l ^ keys[k + 1]!, columns)
        if (r < 0) r += columns
        l -= draw(r ^ keys[k]!, rows)
        if (l < 0) l += rows
      }
      index = l * columns + r
    } while (index >= this.size)
    return index
  }

  private assertIndex(index: number): void {
    if (!isSafeInteger(index) || index < 0 || index >= this.size) {
      throw new LeanformerError(
        'ERR_ARGUMENT',
        `permutation: index ${index} is out of range`,
        `give an integer from 0 to ${this.size - 1}`,
      )
    }
  }
}
