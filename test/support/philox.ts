// Philox 4x32-10 in TypeScript (Salmon et al., SC 2011), with the library's convention for elements; see native/api/philox.h.
const wide = (a: number, b: number): [low: number, high: number] => {
  const product = BigInt(a >>> 0) * BigInt(b >>> 0)
  return [Number(product & 0xffffffffn), Number(product >> 32n)]
}

export function philox(key: readonly [number, number], counter: readonly [number, number, number, number]): number[] {
  let [k0, k1] = key
  let [c0, c1, c2, c3] = counter
  for (let round = 0; round < 10; ++round) {
    const [low0, high0] = wide(0xd2511f53, c0)
    const [low1, high1] = wide(0xcd9e8d57, c2)
    ;[c0, c1, c2, c3] = [(high1 ^ c1 ^ k0) >>> 0, low1, (high0 ^ c3 ^ k1) >>> 0, low0]
    k0 = (k0 + 0x9e3779b9) >>> 0
    k1 = (k1 + 0xbb67ae85) >>> 0
  }
  return [c0, c1, c2, c3]
}

/** The uniform number of one element of an operator that drew block (seed, offset). */
export function philoxUniform(seed: number, offset: number, element: number): number {
  const block = Math.floor(element / 4)
  const words = philox([seed >>> 0, Math.floor(seed / 2 ** 32)], [block >>> 0, Math.floor(block / 2 ** 32), offset >>> 0, 0])
  return (words[element % 4] >>> 8) * 2 ** -24
}
