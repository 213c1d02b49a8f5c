import { Permutation } from '../../lib/data/permutation'

/** All values of the permutation in order. */
const values = (n: number, seed: number, stream = 0): number[] => {
  const p = new Permutation(n, seed, stream)
  return Array.from({ length: n }, (_, i) => p.at(i))
}

test('is a bijection of [0, n) and indexOf is its inverse, for every small n and some large ones', () => {
  const sizes = Array.from({ length: 300 }, (_, i) => i + 1)
  for (const n of [...sizes, 1023, 1024, 1025, 4096, 10007, 65536, 99991]) {
    for (const seed of [0, 1, 2 ** 40 + 5]) {
      const p = new Permutation(n, seed)
      const seen = new Uint8Array(n)
      for (let i = 0; i < n; i++) {
        const v = p.at(i)
        if (v < 0 || v >= n || seen[v]) throw new Error(`n=${n} seed=${seed}: ${i} -> ${v} is repeated or outside`)
        seen[v] = 1
        if (p.indexOf(v) !== i) throw new Error(`n=${n} seed=${seed}: indexOf(${v}) is not ${i}`)
      }
    }
  }
})

test('reads any place of a huge permutation, and inverts it there', () => {
  for (const n of [2 ** 31 + 11, 2 ** 40, 2 ** 48]) {
    const p = new Permutation(n, 7)
    for (const i of [0, 1, 12345, (n / 2) | 0, n - 1]) {
      const v = p.at(i)
      expect(v).toBeGreaterThanOrEqual(0)
      expect(v).toBeLessThan(n)
      expect(p.indexOf(v)).toBe(i)
    }
  }
})

test('every permutation of four things is equally likely over seeds (chi-square, 23 degrees of freedom)', () => {
  const counts = new Map<string, number>()
  const draws = 24000
  for (let seed = 0; seed < draws; seed++) {
    const key = values(4, seed).join('')
    counts.set(key, (counts.get(key) ?? 0) + 1)
  }
  expect(counts.size).toBe(24)
  let chi2 = 0
  for (const c of counts.values()) chi2 += (c - draws / 24) ** 2 / (draws / 24)
  expect(chi2).toBeLessThan(49.7) // the 0.999 quantile
})

test('places and neighbours are uniform over streams (chi-square)', () => {
  const n = 50
  const draws = 20000
  for (const measure of [(p: Permutation) => p.at(3), (p: Permutation) => (p.at(8) - p.at(7) + n) % n]) {
    const counts = new Float64Array(n)
    for (let stream = 0; stream < draws; stream++) counts[measure(new Permutation(n, 11, stream))]! += 1
    const cells = [...counts].filter((c) => c > 0) // a difference of zero never occurs
    const expected = draws / cells.length
    const chi2 = cells.reduce((sum, c) => sum + (c - expected) ** 2 / expected, 0)
    expect(cells.length).toBeGreaterThanOrEqual(n - 1)
    expect(chi2).toBeLessThan(86) // the 0.999 quantile of 49 degrees of freedom is 85.4
  }
})

test('seeds and streams give different orders', () => {
  const orders = [values(100, 1), values(100, 2), values(100, 1 + 2 ** 32), values(100, 1, 1), values(100, 1, 2 ** 32)]
  expect(new Set(orders.map((o) => o.join())).size).toBe(orders.length)
})

test('is the same for ever: a resumed run must read the same data', () => {
  expect(values(12, 0)).toEqual([1, 3, 11, 2, 7, 4, 9, 0, 6, 10, 5, 8])
  expect(values(12, 1337, 3)).toEqual([8, 9, 3, 11, 10, 4, 2, 5, 0, 1, 7, 6])
  expect(new Permutation(2 ** 48, 42).at(123456789)).toBe(186952604546330)
})

test('refuses sizes, seeds and places that are not in range, by name', () => {
  const bad: [() => unknown, RegExp][] = [
    [() => new Permutation(-1, 0), /size is -1/],
    [() => new Permutation(2 ** 49, 0), /size is/],
    [() => new Permutation(3, 0.5), /seed is 0.5/],
    [() => new Permutation(3, 0).at(3), /index 3 is out of range/],
    [() => new Permutation(3, 0).indexOf(-1), /index -1/],
  ]
  for (const [call, message] of bad) {
    expect(call).toThrow(message)
    expect(call).toThrow(expect.objectContaining({ code: 'ERR_ARGUMENT' }))
  }
})
