import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

import { readConfigFile, resolveTrainConfig, trainSchema } from '../../lib/cli/config'
import { describeOptions, nearest } from '../../lib/cli/options'

const resolve = (flags: Record<string, unknown>, more = {}) => resolveTrainConfig({ flags, ...more })
const file = (values: Record<string, unknown>) => ({ file: { name: 'my.json', values } })
const run = (values: Record<string, unknown>) => ({ run: { name: 'runs/a', values } })

const refusal = (call: () => unknown): { message: string; hint: string } => {
  try {
    call()
  } catch (error) {
    expect(error).toMatchObject({ name: 'LeanformerError', code: 'ERR_OPTION', hint: expect.stringMatching(/./) })
    return error as { message: string; hint: string }
  }
  throw new Error('was not refused')
}

test('defaults are complete and consistent, and derived ones follow what they depend on', () => {
  const { values, origins } = resolve({}, { now: new Date('2026-01-02T03:04:05Z') })
  expect(values).toMatchObject({
    text: 'moby-dick',
    layers: 4,
    kvHeads: 4,
    minLr: 1e-4,
    warmup: 100,
    saveEvery: 250,
    technique: [],
  })
  expect(values.out).toBe('runs/20260102-030405')
  expect(new Set(Object.values(origins))).toEqual(new Set(['default']))
  expect(resolve({ steps: 40, lr: 0.5, heads: 8, evalEvery: 7 }).values).toMatchObject({
    warmup: 2,
    minLr: 0.05,
    kvHeads: 8,
    saveEvery: 7,
  })
})

test('flags win over the file, the file over the resumed run, and origins say so', () => {
  const { values, origins } = resolve(
    { steps: 30 },
    { ...file({ steps: 20, evalEvery: 5 }), ...run({ steps: 10, evalEvery: 1, width: 64 }) },
  )
  expect(values).toMatchObject({ steps: 30, evalEvery: 5, width: 64 })
  expect(origins).toMatchObject({ steps: 'flag', evalEvery: 'file', width: 'run', layers: 'default' })
})

test('every option has help, a range, and a default that is stated or described', () => {
  const options = describeOptions(trainSchema)
  expect(options.length).toBeGreaterThan(38)
  for (const option of options) {
    expect(option.flag).toMatch(/^--[a-z0-9]+(-[a-z0-9]+)*$/)
    expect(option.range).toMatch(/./)
    const stated = option.default !== undefined || /default/.test(option.help) || option.flagOnly
    expect([option.key, option.help.length > 3, stated]).toEqual([option.key, true, true])
  }
  const find = (key: string) => options.find((o) => o.key === key)!
  expect(find('minLr')).toMatchObject({ flag: '--min-lr', kind: 'number', range: 'number from 0' })
  expect(find('layers')).toMatchObject({ range: 'integer from 1 to 10000', default: 4 })
  expect(find('lr').range).toBe('number above 0')
  expect(find('dropout').range).toBe('number from 0 to below 1')
  expect(find('norm').range).toBe('layer_norm | rms_norm')
})

test('an unknown option is refused with the one that was meant', () => {
  expect(refusal(() => resolve({}, file({ wdith: 64 })))).toMatchObject({
    message: 'wdith (my.json) is not an option',
    hint: 'did you mean width?',
  })
  expect(refusal(() => resolve({}, file({ min_lr: 0 }))).hint).toBe('did you mean minLr?')
  expect(refusal(() => resolve({ evalEveri: 1 })).hint).toBe('did you mean --eval-every?')
  expect(refusal(() => resolve({}, file({ xylophone: 1 }))).hint).not.toContain('did you mean')
  expect(refusal(() => resolve({}, file({ resume: 'x' }))).message).toBe('resume (my.json) is a flag only')
})

test('a value out of range is refused with its name, its origin and the range', () => {
  const cases: [Record<string, unknown>, string, RegExp][] = [
    [{ layers: 0 }, '--layers is 0', /integer from 1 to 10000/],
    [{ layers: 1.5 }, '--layers is 1.5', /an integer/],
    [{ lr: 0 }, '--lr is 0', /number above 0/],
    [{ dropout: 1 }, '--dropout is 1', /below 1/],
    [{ norm: 'rmsnorm' }, '--norm is "rmsnorm"', /layer_norm \| rms_norm; did you mean rms_norm/],
    [{ precision: 'fp16' }, '--precision is "fp16"', /f32 \| bf16 \| f16/],
    [{ device: 'gpu' }, '--device is "gpu"', /./],
    [{ seed: -1 }, '--seed is -1', /integer from 0/],
    [{ memoryLimit: 'lots' }, '--memory-limit is "lots"', /./],
    [{ technique: [''] }, '--technique is [""]', /list/],
  ]
  for (const [flags, message, hint] of cases) {
    const error = refusal(() => resolve(flags))
    expect(error.message).toBe(message)
    expect(error.hint).toMatch(hint)
  }
  expect(refusal(() => resolve({}, file({ steps: '10' }))).message).toBe('steps (my.json) is "10"')
})

test('contradictions name both options', () => {
  const cases: [Record<string, unknown>, string[]][] = [
    [{ width: 100, heads: 3 }, ['--width 100', '--heads 3']],
    [{ heads: 4, kvHeads: 3 }, ['--heads 4', '--kv-heads 3']],
    [{ warmup: 11, steps: 10 }, ['--warmup 11', '--steps 10']],
    [{ minLr: 0.2, lr: 0.1 }, ['--min-lr 0.2', '--lr 0.1']],
    [{ positions: 'rotary', width: 12, heads: 4 }, ['--positions rotary', '--width 12']],
  ]
  for (const [flags, parts] of cases) {
    const { message } = refusal(() => resolve(flags))
    for (const part of parts) expect(message).toContain(part)
  }
  expect(refusal(() => resolve({ steps: 5 }, file({ warmup: 6 }))).message).toContain(
    'warmup (my.json) 6 and --steps 5',
  )
})

test('a resumed run keeps its shape, data and seed; what does not decide its numbers may change', () => {
  const before = { ...resolve({ width: 64 }).values }
  for (const [key, value] of Object.entries({
    width: 128,
    seed: 2,
    text: 'x',
    batch: 3,
    out: 'elsewhere',
    technique: ['sam'],
  })) {
    const { message } = refusal(() => resolve({ [key]: value, resume: 'runs/a' }, run(before)))
    expect(message).toContain(`--${key} ${String(value)} and --resume runs/a`)
  }
  const { values } = resolve({ width: 64, steps: 9000, threads: 1, json: true, resume: 'runs/a' }, run(before))
  expect(values).toMatchObject({ width: 64, steps: 9000, threads: 1, json: true, out: before.out })
})

test('memory limits take units', () => {
  for (const [given, bytes] of [
    [1024, 1024],
    ['1024', 1024],
    ['1.5GiB', 1.5 * 2 ** 30],
    ['500 MB', 5e8],
    ['2k', 2000],
  ] as const) {
    expect(resolve({ memoryLimit: given }).values.memoryLimit).toBe(bytes)
  }
})

test('devices', () => {
  for (const device of ['auto', 'cpu', 'cuda', 'cuda:3', 'meta']) expect(resolve({ device }).values.device).toBe(device)
})

test('a config file that is no JSON object is refused by name', async () => {
  const dir = await mkdtemp(join(tmpdir(), 'leanformer-config-'))
  try {
    const path = join(dir, 'c.json')
    await expect(readConfigFile(path)).rejects.toMatchObject({
      code: 'ERR_OPTION',
      message: expect.stringContaining(path),
    })
    for (const content of ['{', '[]', '3', 'null']) {
      await writeFile(path, content)
      await expect(readConfigFile(path)).rejects.toMatchObject({ code: 'ERR_OPTION' })
    }
    await writeFile(path, '{"layers": 2}')
    expect((await readConfigFile(path)).values).toEqual({ layers: 2 })
  } finally {
    await rm(dir, { recursive: true })
  }
})

test('nearest', () => {
  expect(nearest('stpes', ['steps', 'seed'])).toBe('steps')
  expect(nearest('zzz', ['steps', 'seed'])).toBeUndefined()
})
