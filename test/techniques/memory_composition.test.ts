// Checkpointing and offloading beside every other technique: the losses are those of that technique alone, bit for bit, unless
// the combination is refused.
import { readdirSync } from 'node:fs'
import path from 'node:path'
import { checkCombination } from '../../lib/catalog/entry'
import { checkpointing } from '../../lib/techniques/checkpointing'
import { offload } from '../../lib/techniques/offload'
import type { Technique, TechniqueEntry } from '../../lib/techniques/technique'
import { tinyTrainer, tokenBatch } from '../support/tiny_gpt'

const folder = path.join(__dirname, '..', '..', 'lib', 'techniques')
const entries = readdirSync(folder).flatMap((file) => {
  const found = Object.values(jest.requireActual<Record<string, unknown>>(path.join(folder, file)))
  return found.filter((value): value is TechniqueEntry => (value as { kind?: unknown } | null)?.kind === 'technique')
})
const memory = [checkpointing, offload] as TechniqueEntry[]
// Distillation needs the folder of a teacher, curvature an optimiser of its own.
const others = entries.filter((entry) => !memory.includes(entry) && !['distil', 'sophia_curvature'].includes(entry.name))
/** Settings that small runs need. */
const given: Record<string, object> = { lottery: { rounds: 1 } }

async function losses(techniques: Technique[]): Promise<number[]> {
  const { trainer, model, optimizer } = tinyTrainer({
    config: { layers: 4, width: 16, heads: 2, context: 40 }, steps: 3, accumulate: 2, techniques,
    ...(techniques.some(({ name }) => name === 'update_in_backward') ? { clip: 0 } : {}),
    adapt: (built) => techniques.forEach((technique) => technique.adapt?.(built as never)),
    data: { batch: (i) => tokenBatch(i, 4, 16) },
  })
  const found: number[] = []
  try {
    for await (const { loss } of trainer.train()) found.push(loss)
  } finally {
    model.dispose()
    optimizer.dispose()
  }
  return found
}

test.each(others.map((entry) => [entry.name, entry] as const))('%s', async (_, entry) => {
  const other = () => entry.create(given[entry.name] ?? {})
  const alone = await losses([other()])
  for (const [i, [mine, settings]] of ([[checkpointing, {}], [checkpointing, { policy: 'selective' }], [offload, { gradients: 'disk', activations: 'disk', piece: '4KiB' }]] as const).entries()) {
    try {
      checkCombination([mine, entry])
    } catch {
      continue
    }
    const both = [mine.create(settings as never), other()]
    expect(await losses(i % 2 ? both : both.reverse())).toEqual(alone)
  }
})

test('there are many', () => {
  expect(others.length).toBeGreaterThan(25)
})
