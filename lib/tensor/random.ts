// Counter-based randomness: a (seed, offset) pair names a block of Philox 4x32-10 numbers, the same on every device and
// in every order of execution. A generator only hands out offsets, so its whole state is two numbers.
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
