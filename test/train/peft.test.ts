// Adapters in peft's files, against that library (test/goldens/peft_models.py): its files give its logits here, are written
// again byte for byte, and what is missing, left over or not implemented is refused by name. That our own folders load
// there: `python test/goldens/peft_models.py --verify FOLDER` with LEANFORMER_KEEP_PEFT=FOLDER set for this test.
import { cp, mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { noGrad } from '../../lib/autograd/tape'
import { bertFromForeign } from '../../lib/models/bert_names'
import type { Bert } from '../../lib/models/bert'
import { Llama } from '../../lib/models/llama'
import { scope } from '../../lib/tensor/scope'
import { tensor } from '../../lib/tensor/tensor'
import { loadPeft, savePeft } from '../../lib/train/peft'
import { decodeSafetensors, encodeSafetensors } from '../../lib/train/safetensors'
import { foreignTensors, goldenFacts, goldenTensors, relative } from '../support/goldens'

const root = path.join(__dirname, '..', 'goldens', 'peft')
let folder: string
beforeEach(async () => {
  folder = process.env.LEANFORMER_KEEP_PEFT ?? (await mkdtemp(path.join(tmpdir(), 'peft-')))
})
afterEach(async () => {
  if (!process.env.LEANFORMER_KEEP_PEFT) await rm(folder, { recursive: true })
})

async function base(stem: string, dtype: 'f32' | 'f64') {
  const goldens = await goldenTensors(stem)
  const build = stem === 'llama' ? Llama.fromForeign : bertFromForeign
  const model: Llama | Bert = scope(() => build(goldenFacts(stem).config, foreignTensors(goldens), { dtype }))
  const ids = tensor(goldens.ints('ids'), goldens.shape('ids'))
  const segments = goldens.tensors.mask ? tensor(goldens.ints('mask').map((real) => real - 1), goldens.shape('mask')) : null
  const logits = () => noGrad(() => (model instanceof Llama ? model.logits(ids) : model.classLogits(ids, { segments })))
  return { model, logits }
}

const cases = ['lora', 'rslora', 'dora', 'ia3', 'prompt', 'prefix', 'lora_classes']
const stemOf = (name: string) => (name === 'lora_classes' ? 'bert_classes' : 'llama')

// transformers computes norms and angles of LLaMA in f32.
test.each(cases)('%s: the logits of peft', async (name) => {
  const { model, logits } = await base(stemOf(name), 'f64')
  await loadPeft(path.join(root, name), model)
  const expected = (await goldenTensors('peft')).numbers(`${name}.logits`)
  expect(relative(await logits().toFloat64(), expected)).toBeLessThan(5e-6)
})

test.each(cases)('%s: written again byte for byte', async (name) => {
  const { model } = await base(stemOf(name), 'f32')
  const warnings: string[] = []
  await loadPeft(path.join(root, name), model, { onWarning: (text) => warnings.push(text) })
  const taskType = name === 'lora_classes' ? 'SEQ_CLS' : 'CAUSAL_LM'
  const modulesToSave = name === 'lora_classes' ? ['classifier'] : []
  const target = path.join(folder, name)
  await savePeft(target, model, { taskType, modulesToSave })
  const read = (at: string, file: string) => readFile(path.join(at, file))
  const tensors = async (at: string) => (await decodeSafetensors(await read(at, 'adapter_model.safetensors'))).tensors
  const theirs = await tensors(path.join(root, name))
  // The library adds the other name of the classifier that it saves; every other tensor is there, bit for bit.
  expect(await tensors(target)).toEqual(theirs)
  const ours = JSON.parse(String(await read(target, 'adapter_config.json')))
  const reference = JSON.parse(String(await read(path.join(root, name), 'adapter_config.json')))
  for (const [key, value] of Object.entries(ours)) {
    const known = reference[key]
    if (key !== 'prompt_tuning_init' && !/_pattern$|^modules_to_save$/.test(key)) expect([key, value]).toEqual([key, known])
  }
})

test('warns of unknown keys; refuses what is missing, left over or not implemented', async () => {
  const target = path.join(folder, 'broken')
  await mkdir(target, { recursive: true })
  await cp(path.join(root, 'lora'), target, { recursive: true })
  const config = JSON.parse(await readFile(path.join(target, 'adapter_config.json'), 'utf8'))
  const file = path.join(target, 'adapter_model.safetensors')
  const { tensors } = await decodeSafetensors(await readFile(file))
  const attempt = async (changed: object, change: (names: typeof tensors) => void = () => {}) => {
    await writeFile(path.join(target, 'adapter_config.json'), JSON.stringify({ ...config, ...changed }))
    const copy = { ...tensors }
    change(copy)
    await writeFile(file, encodeSafetensors(copy))
    const warnings: string[] = []
    await loadPeft(target, (await base('llama', 'f32')).model, { onWarning: (text) => warnings.push(text) })
    return warnings
  }
  const [name] = Object.keys(tensors)
  expect(await attempt({ shininess: 3 })).toEqual(['peft: shininess in adapter_config.json is not known here and was ignored'])
  await expect(attempt({}, (copy) => delete copy[name])).rejects.toMatchObject({ code: 'ERR_CHECKPOINT', message: expect.stringContaining(`missing ${name}`) })
  await expect(attempt({}, (copy) => (copy.extra = copy[name]))).rejects.toMatchObject({ code: 'ERR_CHECKPOINT', message: expect.stringContaining('unknown extra') })
  await expect(attempt({ r: 3 })).rejects.toMatchObject({ code: 'ERR_CHECKPOINT', message: expect.stringContaining('needs [3, 32]') })
  await expect(attempt({ bias: 'all' })).rejects.toMatchObject({ code: 'ERR_ARGUMENT', message: expect.stringContaining('bias "all"') })
  await expect(attempt({ peft_type: 'VERA' })).rejects.toMatchObject({ code: 'ERR_ARGUMENT', message: expect.stringContaining('VERA') })
  await expect(attempt({ target_modules: ['c_attn'] })).rejects.toMatchObject({ code: 'ERR_CHECKPOINT', hint: expect.stringContaining('q_proj') })
  await expect(attempt({ target_modules: '.*self_attn\\.(q|v)_proj' })).resolves.toEqual([])
})
