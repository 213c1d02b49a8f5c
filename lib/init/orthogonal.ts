// Orthogonal initialisation: rows (or columns, whichever are fewer) orthonormal, times a gain. The first axis is the rows,
// all others together the columns. Gram-Schmidt in f64 on the host, done twice for full precision; the random signs of the
// draws make the result uniform over such matrices. Source: Saxe et al., arXiv 1312.6120.
import { hostRandom } from '../tensor/random'
import { tensor } from '../tensor/tensor'
import { resolveOptions, type Initializer } from './initializer'

export function orthogonal(gain = 1): Initializer {
  return (shape, options) => {
    const { device, dtype, generator } = resolveOptions(options)
    const rows = shape[0]
    const columns = shape.slice(1).reduce((n, d) => n * d, 1)
    const [count, length] = rows <= columns ? [rows, columns] : [columns, rows]
    const random = hostRandom(generator.next())
    const vectors = Array.from({ length: count }, () => Float64Array.from({ length }, () => random.normal()))
    for (const [i, v] of vectors.entries()) {
      for (let pass = 0; pass < 2; ++pass) {
        for (let j = 0; j < i; ++j) {
          const u = vectors[j]
          let dot = 0
          for (let k = 0; k < length; ++k) dot += u[k] * v[k]
          for (let k = 0; k < length; ++k) v[k] -= dot * u[k]
        }
      }
      const norm = Math.sqrt(v.reduce((sum, x) => sum + x * x, 0))
      for (let k = 0; k < length; ++k) v[k] /= norm
    }
    const flat = new Float64Array(rows * columns)
    for (let r = 0; r < rows; ++r) {
      for (let c = 0; c < columns; ++c) flat[r * columns + c] = gain * (rows <= columns ? vectors[r][c] : vectors[c][r])
    }
    return tensor(Array.from(flat), shape, { device, dtype })
  }
}
