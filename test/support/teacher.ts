// T16, the task on which sparse networks are compared: 64 normal inputs, of which 16 decide the label,
// argmax(tanh(x[:16] A / 2) C) with normal A [16, 32] and C [32, 10]. A useful mask keeps the columns of those 16.
import { backward } from '../../lib/autograd/backward'
import { noGrad } from '../../lib/autograd/tape'
import { xavierNormal } from '../../lib/init/xavier'
import { Linear } from '../../lib/nn/linear'
import { Module } from '../../lib/nn/module'
import { crossEntropy } from '../../lib/ops/cross_entropy'
import { relu } from '../../lib/ops/elementwise'
import type { Optimizer } from '../../lib/optim/optimizer'
import { Generator, hostRandom } from '../../lib/tensor/random'
import { scope } from '../../lib/tensor/scope'
import { tensor, type Tensor } from '../../lib/tensor/tensor'

// Globals are slow to reach from within jest.
const { tanh } = Math

export const teacherShape = { inputs: 64, informative: 16, hidden: 32, classes: 10, train: 20_000, test: 5_000 }

/** Examples, row by row. */
export interface Examples {
  count: number
  x: Float32Array
  labels: Int32Array
}

/** The task; the same numbers for the same seed. */
export function teacher(seed = 1): { train: Examples; test: Examples } {
  const { inputs, informative, hidden, classes } = teacherShape
  const weights = hostRandom({ seed, offset: 0 })
  const a = Float64Array.from({ length: informative * hidden }, () => weights.normal() / 2)
  const c = Float64Array.from({ length: hidden * classes }, () => weights.normal())
  const h = new Float64Array(hidden)
  const examples = (count: number, offset: number): Examples => {
    const random = hostRandom({ seed, offset })
    const x = Float32Array.from({ length: count * inputs }, () => random.normal())
    const labels = Int32Array.from({ length: count }, (_, row) => {
      for (let j = 0; j < hidden; ++j) {
        let sum = 0
        for (let i = 0; i < informative; ++i) sum += x[row * inputs + i] * a[i * hidden + j]
        h[j] = tanh(sum)
      }
      let best = 0
      let most = -Infinity
      for (let k = 0; k < classes; ++k) {
        let score = 0
        for (let j = 0; j < hidden; ++j) score += h[j] * c[j * classes + k]
        if (score > most) [most, best] = [score, k]
      }
      return best
    })
    return { count, x, labels }
  }
  return { train: examples(teacherShape.train, 1), test: examples(teacherShape.test, 2) }
}

/** The network that learns the task: 64-256-128-10 with ReLU, Xavier weights, zero biases. */
export class Student extends Module {
  layers: Linear[]

  constructor(seed = 1, widths: readonly number[] = [teacherShape.inputs, 256, 128, teacherShape.classes]) {
    super()
    const generator = new Generator(seed)
    this.layers = widths.slice(1).map((out, i) => new Linear(widths[i], out, { generator, init: xavierNormal() }))
  }

  /** x [rows, inputs] -> logits [rows, classes]. */
  forward(x: Tensor): Tensor {
    return this.layers.reduce((h, layer, i) => layer.call(i ? relu(h) : h), x)
  }
}

/** Rows `first` to `first + rows` of the examples, around the end. */
export function rowsOf(data: Examples, first: number, rows: number): { x: Tensor; labels: Tensor } {
  const width = data.x.length / data.count
  const x = new Float32Array(rows * width)
  const labels = new Int32Array(rows)
  for (let r = 0; r < rows; ++r) {
    const from = (first + r) % data.count
    x.set(data.x.subarray(from * width, (from + 1) * width), r * width)
    labels[r] = data.labels[from]
  }
  return { x: tensor(x, [rows, width]), labels: tensor(labels, [rows]) }
}

/** Trains a student from step `from` to `to`; `after` sees every step, such as to keep masks. */
export async function trainStudent(
  student: Student,
  optimizer: Optimizer,
  data: Examples,
  options: { steps: number; lr: number; from?: number; rows?: number; after?: (step: number) => void },
): Promise<void> {
  const { steps, lr, from = 0, rows = 128, after } = options
  for (let step = from; step < from + steps; ++step) {
    optimizer.zeroGrad()
    scope(() => {
      const { x, labels } = rowsOf(data, step * rows, rows)
      backward(crossEntropy(student.call(x), labels))
      optimizer.step(lr)
    })
    after?.(step)
    if (step % 20 === 19) await student.parameters()[0].tensor.device.synchronize()
  }
}

/** Share of examples that a student labels right. */
export async function accuracy(student: Student, data: Examples): Promise<number> {
  const logits = scope(() => noGrad(() => student.call(rowsOf(data, 0, data.count).x)))
  const scores = await logits.toFloat32()
  logits.dispose()
  const classes = scores.length / data.count
  let right = 0
  for (let row = 0; row < data.count; ++row) {
    let best = 0
    for (let k = 1; k < classes; ++k) if (scores[row * classes + k] > scores[row * classes + best]) best = k
    if (best === data.labels[row]) right++
  }
  return right / data.count
}
