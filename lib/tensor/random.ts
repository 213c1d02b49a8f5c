// Counter-based randomness: a (seed, offset) pair names a block of Philox 4x32-10 numbers, the same on every device and
// in every order of execution. A generator only hands out offsets, so its whole state is two numbers.
const { cos, log, sqrt, PI } = Math

export interface RandomState {
  seed: number
  offset: number
}

export class Generator {
  private seed = 0
  private offset = 0

  constructor(seed = 0) {
    this.reseed(seed)
  }

  reseed(seed: number): void {
    this.seed = seed
    this.offset = 0
  }

  /** A fresh block. Operators take one each; inside a block, elements are told apart by their index. */
  next(): RandomState {
    return { seed: this.seed, offset: this.offset++ }
  }

  state(): RandomState {
    return { seed: this.seed, offset: this.offset }
  }

  restore(state: RandomState): void {
    this.seed = state.seed
    this.offset = state.offset
  }
}

/** The generator that layers and initialisers use unless they are given another. */
export const defaultGenerator = new Generator()

/** Starts the default generator anew. */
export function seed(value: number): void {
  defaultGenerator.reseed(value)
}

/** Random numbers made here in JavaScript from one block (sfc32): for sampling tokens and for host-side initialisers. */
export function hostRandom(block: RandomState): { uniform(): number; normal(): number } {
  let a = block.seed | 0
  let b = (block.seed / 2 ** 32) | 0
  let c = block.offset | 0
  let counter = 1
  const next = () => {
    const t = (((a + b) | 0) + counter) | 0
    counter = (counter + 1) | 0
    a = b ^ (b >>> 9)
    b = (c + (c << 3)) | 0
    c = ((c << 21) | (c >>> 11)) + t
    return t >>> 0
  }
  for (let i = 0; i < 16; ++i) next()
  const uniform = () => (next() * 2 ** 21 + (next() >>> 11)) * 2 ** -53
  return { uniform, normal: () => sqrt(-2 * log(1 - uniform())) * cos(2 * PI * uniform()) }
}
