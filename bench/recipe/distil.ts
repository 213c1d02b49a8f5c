// A large model made small, on real text: `npm run distil`. Trains a teacher on Moby-Dick; then a student with a third of
// the layers, once alone and once taught by it from its own layers, for the same steps; prunes heads and feed-forward
// units of the taught one and teaches it again; puts it in 8 and 4 bits. Prints loss and bytes of each, and leaves all of
// them as folders. `--steps N` (default 300) for more or fewer; `--text FILE`, `--out DIR`.
import { mkdir } from 'node:fs/promises'
import path from 'node:path'
import { parseArgs } from 'node:util'
import { loadTextDataset, type TextDataset } from '../../lib/data/tokens'
import { GPT, type GPTConfig } from '../../lib/models/gpt'
import { AdamW } from '../../lib/optim/adamw'
import { decayGroups } from '../../lib/optim/optimizer'
import { SGD } from '../../lib/optim/sgd'
import { cosine } from '../../lib/optim/schedule'
import { copyTeacher, distillation, type DistillationWeights } from '../../lib/techniques/distil'
import { gateScores, shrink } from '../../lib/techniques/prune'
import { quantise } from '../../lib/techniques/quantise'
import { Generator } from '../../lib/tensor/random'
import { tensor } from '../../lib/tensor/tensor'
import { loadCompressed, saveCompressed } from '../../lib/train/compressed'
import { bitsPerByte } from '../../lib/train/metrics'
import { Trainer } from '../../lib/train/trainer'

export interface DistilRecipe {
  text: string
  steps: number
  out: string
  teacher: Pick<GPTConfig, 'layers' | 'width' | 'heads'>
  studentLayers: number
  context: number
  batch: number
  /** Validation tokens an evaluation reads. */
  evalTokens: number
}

export interface DistilRow {
  name: string
  parameters: number
  bytes: number
  /** On the validation text. */
  loss: number
  bitsPerByte: number
}

const weights: DistillationWeights = { temperature: 2, kd: 0.7, ce: 0.3, cosine: 0.1 }

/** Runs the recipe; `say` gets a line for each model as it is done. */
export async function runDistil(options: DistilRecipe, say: (row: DistilRow) => void): Promise<DistilRow[]> {
  const { steps, out, teacher: shape, studentLayers, context, batch } = options
  const data = await loadTextDataset({ text: options.text, tokenizer: 'bytes', context, batch, seed: 1, evalTokens: options.evalTokens })
  const config = { ...shape, vocab: data.tokenizer.vocabSize, context, bias: false }
  const build = (layers: number) => new GPT({ ...config, layers }, { generator: new Generator(1) })
  const rows: DistilRow[] = []
  const finish = async (name: string, model: GPT) => {
    await mkdir(out, { recursive: true })
    const bytes = await saveCompressed(path.join(out, name.replace(/\W+/g, '-')), model)
    const loss = await evaluate(model, data)
    const row = { name, parameters: logicalSize(model), bytes, loss, bitsPerByte: bitsPerByte(loss, data.validationTokens, data.validationBytes) }
    rows.push(row)
    say(row)
  }
  const teacher = build(shape.layers)
  await fit(teacher, data, steps)
  await finish('teacher', teacher)
  const alone = build(studentLayers)
  await fit(alone, data, steps)
  await finish('student alone', alone)
  alone.dispose()
  const student = build(studentLayers)
  copyTeacher(student, teacher)
  await fit(student, data, steps, teacher)
  await finish('student distilled', student)
  const losses = Array.from({ length: 4 }, (_, i) => {
    const { inputs, targets } = data.train.batch(1_000_000 + i)
    return () => student.loss(tensor(inputs, [batch, context]), tensor(targets, [batch, context]))
  })
  const units = (3 * student.config.hidden) / 4
  shrink(student, await gateScores(student, losses), { heads: Math.max(1, shape.heads - 1), units })
  await fit(student, data, Math.ceil(steps / 3), teacher)
  await finish('pruned and taught again', student)
  const folder = path.join(out, 'pruned-and-taught-again')
  const reopen = () => loadCompressed(folder, (saved: GPTConfig) => new GPT(saved))
  const headWidth = shape.width / shape.heads // divides the inputs of every matrix that is left
  for (const [name, bits, group] of [['pruned int8', 8, 0], ['pruned int4', 4, headWidth]] as const) {
    const small = await reopen()
    quantise(small, { bits, group, calibrate: () => void small.call(tensor(data.train.batch(2_000_000).inputs, [batch, context])) })
    await finish(name, small)
    small.dispose()
  }
  teacher.dispose()
  student.dispose()
  return rows
}

/** Trains with the usual recipe; with a teacher, on what it says. */
async function fit(model: GPT, data: TextDataset, steps: number, teacher?: GPT): Promise<void> {
  const optimizer = new AdamW(decayGroups(model.namedParameters(), 0.1), { beta2: 0.99 })
  const trainer = new Trainer({
    model,
    optimizer,
    schedule: cosine({ lr: 2e-3, minLr: 2e-4, warmup: Math.floor(steps / 20), steps }),
    data: data.train,
    steps,
    techniques: teacher ? [{ name: 'distil', ...distillation(teacher, weights) }] : [],
  })
  for await (const _ of trainer.train());
  optimizer.dispose()
}

async function evaluate(model: GPT, data: TextDataset): Promise<number> {
  const trainer = new Trainer({ model, optimizer: new SGD([]), schedule: () => 0, data: data.train, evalData: data.validation, steps: 1 })
  return (await trainer.evaluate()).loss
}

/** Numbers that the model computes with: a packed matrix counts as what it stands for. */
function logicalSize(model: GPT): number {
  const packed = model.namedModules().flatMap(([at, module]) => ('bytes' in module ? [[at, module] as const] : []))
  const inside = (name: string) => packed.some(([at]) => name.startsWith(`${at}.`))
  const plain = [...model.state()].reduce((n, [name, { size }]) => n + (inside(name) ? 0 : size), 0)
  return packed.reduce((n, [, module]) => {
    const { shape } = module as unknown as { shape: readonly [number, number] }
    return n + shape[0] * shape[1]
  }, plain)
}

export const defaults: DistilRecipe = {
  text: 'moby-dick', steps: 300, out: 'runs/distil', teacher: { layers: 6, width: 128, heads: 4 }, studentLayers: 2, context: 128, batch: 8, evalTokens: 20_000,
}

/** The command. */
export async function main(): Promise<void> {
  const { values } = parseArgs({ options: { text: { type: 'string' }, steps: { type: 'string' }, out: { type: 'string' } } })
  const steps = Number(values.steps ?? defaults.steps)
  if (!Number.isInteger(steps) || steps < 1) throw new Error(`--steps ${values.steps}: give a whole number above 0`)
  console.log(`${'model'.padEnd(26)}${'parameters'.padStart(12)}${'kB'.padStart(9)}${'loss'.padStart(9)}${'bits per byte'.padStart(15)}`)
  await runDistil({ ...defaults, ...values, steps }, ({ name, parameters, bytes, loss, bitsPerByte: bits }) =>
    console.log(`${name.padEnd(26)}${parameters.toLocaleString('en').padStart(12)}${(bytes / 1000).toFixed(0).padStart(9)}${loss.toFixed(4).padStart(9)}${bits.toFixed(4).padStart(15)}`),
  )
}
