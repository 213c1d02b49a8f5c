// Slopes of ALiBi. Source: Press et al., arXiv 2108.12409.

/**
 * One slope a head: 2^(-8/n), 2^(-16/n), ... for a power of two n; otherwise those of the largest power of two below n,
 * followed by every other slope of twice that many.
 */
export function alibiSlopes(heads: number): number[] {
  const powers = (n: number) => Array.from({ length: n }, (_, i) => 2 ** ((-8 * (i + 1)) / n))
  const below = 2 ** Math.floor(Math.log2(heads))
  if (below === heads) return powers(heads)
  const between = powers(2 * below).filter((_, i) => i % 2 === 0)
  return [...powers(below), ...between.slice(0, heads - below)]
}
