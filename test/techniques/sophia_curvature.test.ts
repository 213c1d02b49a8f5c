// Sophia in a training run: labels follow the predictions, the loss falls, exact resume, refusal beside another optimiser.
import { sampleLabels, sophiaCurvatureEntry } from '../../lib/techniques/sophia_curvature'
import { Sophia } from '../../lib/optim/sophia'
import { decayGroups } from '../../lib/optim/optimizer'
import { expand } from '../../lib/ops/broadcast'
import { seed } from '../../lib/tensor/random'
import { tensor } from '../../lib/tensor/tensor'
import { expectResume, outcome } from '../support/techniques'
import { tinyTrainer } from '../support/tiny_gpt'

test('labels are drawn by their probabilities', async () => {
  seed(4)
  const p = [0.1, 0.2, 0.3, 0.4]
  const n = 40_000
  const labels = await sampleLabels(expand(tensor(p.map((x) => Math.log(x)), [1, 4]), [n, 4])).toFloat32()
  p.forEach((x, k) => {
    const share = labels.filter((label) => label === k).length / n
    expect(Math.abs(share - x)).toBeLessThan(4 * Math.sqrt((x * (1 - x)) / n))
  })
})

const options = {
  makeOptimizer: (model: Parameters<NonNullable<Parameters<typeof outcome>[1]>['makeOptimizer'] & object>[0]) =>
    new Sophia(decayGroups(model.namedParameters(), 0.1)),
}

test('the loss falls', async () => {
  const { losses } = await outcome([sophiaCurvatureEntry.create()], { steps: 60, ...options })
  expect(losses[59]).toBeLessThan(0.75 * losses[0])
})

test('resumes bit for bit, with dropout', () =>
  expectResume(() => [sophiaCurvatureEntry.create({ interval: 2 })], { config: { dropout: 0.1 }, ...options }, [3, 4]))

test('another optimiser is refused', () => {
  expect(() => tinyTrainer({ techniques: [sophiaCurvatureEntry.create()] })).toThrow(
    expect.objectContaining({ code: 'ERR_OPTION', message: expect.stringContaining('sophia') }),
  )
})
