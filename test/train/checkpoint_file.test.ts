import { spawn } from 'node:child_process'
import * as fs from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

import { buildSync } from 'esbuild'

import {
  decodeState,
  encodeState,
  listCheckpoints,
  loadCheckpoint,
  saveCheckpoint,
  type Checkpoint,
} from '../../lib/train/checkpoint_file'
import { readSafetensors } from '../../lib/train/safetensors'

let dir: string
let programs: string
beforeAll(async () => {
  programs = await fs.mkdtemp(join(tmpdir(), 'leanformer-programs-'))
})
afterAll(() => fs.rm(programs, { recursive: true }))
beforeEach(async () => {
  dir = await fs.mkdtemp(join(tmpdir(), 'leanformer-checkpoint-'))
})
afterEach(() => fs.rm(dir, { recursive: true }))

/** Tensors whose bytes depend on the step. */
const checkpointOf = (step: number): Checkpoint => {
  const bytes = (length: number, salt: number) =>
    Uint8Array.from({ length }, (_, i) => (i * 31 + step * 7 + salt) & 255)
  return {
    tensors: {
      'model.wte': { dtype: 'f32', shape: [3, 5], data: bytes(60, 1) },
      'model.h.0.ln.weight': { dtype: 'bf16', shape: [5], data: bytes(10, 2) },
      'optimizer.wte.m': { dtype: 'f32', shape: [3, 5], data: bytes(60, 3) },
      'technique.ema': { dtype: 'u8', shape: [], data: bytes(1, 4) },
    },
    state: { step, cursor: { batch: 2 ** 40 }, scale: Infinity, list: [NaN, -0, 0.1, null], seed: 2n ** 63n },
  }
}

const names = async () => (await fs.readdir(dir)).sort()

test('loads what it saved, tensors and state, to the bit', async () => {
  const path = await saveCheckpoint(dir, 123, checkpointOf(123))
  expect(path).toBe(join(dir, 'step-000123'))
  const loaded = await loadCheckpoint(dir)
  expect(loaded).toEqual({ ...checkpointOf(123), step: 123, path })
  expect(Object.is((loaded.state as { list: number[] }).list[1], -0)).toBe(true)
})

test('the model file stands alone, its tensors without the prefix', async () => {
  const path = await saveCheckpoint(dir, 1, checkpointOf(1))
  expect(Object.keys((await readSafetensors(join(path, 'model.safetensors'))).tensors).sort()).toEqual([
    'h.0.ln.weight',
    'wte',
  ])
})

test('keeps the newest, two unless told otherwise', async () => {
  for (const step of [1, 2, 10, 9_999_999]) await saveCheckpoint(dir, step, checkpointOf(step))
  expect(await names()).toEqual(['step-000010', 'step-9999999'])
  for (const step of [10_000_000, 10_000_001, 10_000_002])
    await saveCheckpoint(dir, step, checkpointOf(step), { keep: 3 })
  expect((await listCheckpoints(dir)).map((c) => c.step)).toEqual([10_000_002, 10_000_001, 10_000_000])
  await saveCheckpoint(dir, 10_000_003, checkpointOf(3), { keep: 1 })
  expect(await names()).toEqual(['step-10000003'])
})

test('saving a step again replaces it; saving an earlier one drops the line that was left', async () => {
  await saveCheckpoint(dir, 10, checkpointOf(1))
  await saveCheckpoint(dir, 10, checkpointOf(10))
  expect(await names()).toEqual(['step-000010'])
  expect((await loadCheckpoint(dir)).state).toEqual(checkpointOf(10).state)
  await saveCheckpoint(dir, 20, checkpointOf(20))
  await saveCheckpoint(dir, 15, checkpointOf(15))
  expect(await names()).toEqual(['step-000010', 'step-000015'])
})

test('loads a given step', async () => {
  for (const step of [1, 2]) await saveCheckpoint(dir, step, checkpointOf(step))
  expect((await loadCheckpoint(dir, { step: 1 })).step).toBe(1)
  await expect(loadCheckpoint(dir, { step: 3 })).rejects.toMatchObject({
    code: 'ERR_CHECKPOINT',
    message: expect.stringContaining('no checkpoint of step 3'),
  })
})

test('every kind of damage to any file is refused by name, and the checkpoint before it is used', async () => {
  await saveCheckpoint(dir, 1, checkpointOf(1))
  const path = await saveCheckpoint(dir, 2, checkpointOf(2))
  const files = (await fs.readdir(path)).sort()
  expect(files).toEqual(['manifest.json', 'model.safetensors', 'optimizer.safetensors', 'state.json'])
  for (const file of files) {
    const whole = await fs.readFile(join(path, file))
    const flip = (at: number) => {
      const bytes = Buffer.from(whole)
      bytes[at]! ^= 1
      return bytes
    }
    const damaged = [
      whole.subarray(0, 0),
      whole.subarray(0, whole.length - 1),
      Buffer.concat([whole, Buffer.from('x')]),
      ...[0, 9, whole.length >> 1, whole.length - 2].map(flip),
    ]
    for (const bytes of damaged) {
      await fs.writeFile(join(path, file), bytes)
      const warnings: string[] = []
      const loaded = await loadCheckpoint(dir, { onWarning: (w) => warnings.push(w) })
      expect(loaded).toMatchObject(checkpointOf(1))
      expect(warnings).toHaveLength(1)
      expect(warnings[0]).toContain(path)
      expect(warnings[0]).toContain(file)
    }
    await fs.rm(join(path, file))
    expect((await loadCheckpoint(dir)).step).toBe(1)
    await fs.writeFile(join(path, file), whole)
    expect((await loadCheckpoint(dir)).step).toBe(2)
  }
})

test('a bit flipped anywhere in the manifest never changes what is loaded', async () => {
  const path = await saveCheckpoint(dir, 1, checkpointOf(1))
  const whole = await fs.readFile(join(path, 'manifest.json'))
  let refused = 0
  for (let at = 0; at < whole.length; at++) {
    const bytes = Buffer.from(whole)
    bytes[at]! ^= 1 << (at % 8)
    await fs.writeFile(join(path, 'manifest.json'), bytes)
    await loadCheckpoint(dir).then(
      (loaded) => expect(loaded).toMatchObject(checkpointOf(1)),
      () => refused++,
    )
  }
  expect(refused).toBeGreaterThan(whole.length / 2)
})

test('with none left it is a coded error that lists every reason', async () => {
  await expect(loadCheckpoint(join(dir, 'none'))).rejects.toMatchObject({
    code: 'ERR_CHECKPOINT',
    hint: expect.any(String),
  })
  for (const step of [1, 2]) {
    const path = await saveCheckpoint(dir, step, checkpointOf(step))
    await fs.writeFile(join(path, 'state.json'), '{}')
  }
  await expect(loadCheckpoint(dir)).rejects.toMatchObject({
    code: 'ERR_CHECKPOINT',
    message: expect.stringMatching(/step-000002 is refused: state.json.*step-000001 is refused: state.json/),
  })
})

/** File operations of which number `at` fails. */
function failing(
  at: number,
  code: string,
): { io: NonNullable<NonNullable<Parameters<typeof saveCheckpoint>[3]>['io']>; calls: () => number } {
  let count = 0
  const step = (): void => {
    if (++count === at) throw Object.assign(new Error(`${code}: injected`), { code })
  }
  const guard =
    <A extends unknown[], R>(fn: (...args: A) => Promise<R>) =>
    async (...args: A): Promise<R> => {
      step()
      return fn(...args)
    }
  const open = async (...args: Parameters<typeof fs.open>) => {
    step()
    const handle = await fs.open(...args)
    return {
      writeFile: guard((data: Uint8Array) => handle.writeFile(data)),
      sync: guard(() => handle.sync()),
      close: () => handle.close(),
    }
  }
  const { mkdir, rename, readdir } = fs
  return {
    io: { open, mkdir: guard(mkdir), rename: guard(rename), readdir: guard(readdir), rm: fs.rm } as never,
    calls: () => count,
  }
}

test('a disk that is full at any write leaves the earlier checkpoints and no temporary files', async () => {
  for (const step of [1, 2]) await saveCheckpoint(dir, step, checkpointOf(step))
  const { io, calls } = failing(Infinity, '')
  await saveCheckpoint(dir, 3, checkpointOf(3), { io, keep: 3 })
  const total = calls()
  expect(total).toBeGreaterThan(15)
  await fs.rm(join(dir, 'step-000003'), { recursive: true })
  for (let at = 1; at <= total; at++) {
    const save = saveCheckpoint(dir, 3, checkpointOf(3), { io: failing(at, 'ENOSPC').io, keep: 3 })
    await expect(save).rejects.toMatchObject({
      code: 'ERR_IO',
      message: expect.stringMatching(/step-000003 cannot be written: no space left on the disk/),
      hint: expect.stringContaining('--out'),
    })
    expect((await names()).filter((name) => name !== 'step-000003')).toEqual(['step-000001', 'step-000002'])
    expect((await loadCheckpoint(dir, { step: 2 })).state).toEqual(checkpointOf(2).state)
    // Only a failure after the rename may leave the new one, and then it is whole.
    if ((await names()).includes('step-000003')) {
      expect(await loadCheckpoint(dir)).toMatchObject(checkpointOf(3))
      await fs.rm(join(dir, 'step-000003'), { recursive: true })
    }
  }
  await expect(saveCheckpoint(dir, 3, checkpointOf(3), { io: failing(3, 'EACCES').io })).rejects.toMatchObject({
    code: 'ERR_IO',
  })
})

test('replacing a checkpoint and failing at any point still leaves a sound one of that step', async () => {
  const { io, calls } = failing(Infinity, '')
  await saveCheckpoint(dir, 5, checkpointOf(5))
  await saveCheckpoint(dir, 5, checkpointOf(5), { io })
  for (let at = 1; at <= calls(); at++) {
    await saveCheckpoint(dir, 5, checkpointOf(5), { io: failing(at, 'EIO').io }).catch(() => {})
    expect(await loadCheckpoint(dir)).toMatchObject({ ...checkpointOf(5), step: 5 })
    await saveCheckpoint(dir, 5, checkpointOf(5))
    expect(await names()).toEqual(['step-000005'])
  }
})

test('a file that cannot grow is an error of the save, not the end of the process', async () => {
  if (process.platform === 'win32') return
  const { code, stdout } = await runSaver(`ulimit -f 8; exec node "$0" "$1" 1 400000`)
  expect(stdout).toContain('ERR_IO')
  expect(stdout).toContain('no space left on the disk')
  expect(code).toBe(0)
  expect(await names()).not.toContainEqual(expect.stringContaining('writing'))
})

test('kill -9 at any moment leaves a sound checkpoint, and the next run clears up', async () => {
  if (process.platform === 'win32') return
  const script = buildSaver()
  let saved = 0
  for (let round = 0; round < 8; round++) {
    const child = spawn(process.execPath, [script, dir, '100000', '200000'], { stdio: ['ignore', 'pipe', 'inherit'] })
    let lastReported = -1
    let buffered = ''
    child.stdout.on('data', (chunk: Buffer) => {
      buffered += chunk.toString()
      const lines = buffered.split('\n')
      buffered = lines.pop()!
      for (const line of lines) lastReported = Number(line)
    })
    const closed = new Promise((resolve) => child.on('close', resolve))
    await new Promise((resolve) => child.stdout.once('data', resolve))
    await new Promise((resolve) => setTimeout(resolve, 7 * round))
    child.kill('SIGKILL')
    await closed
    const warnings: string[] = []
    const loaded = await loadCheckpoint(dir, { onWarning: (w) => warnings.push(w) })
    expect(warnings).toEqual([])
    expect(loaded.step).toBeGreaterThanOrEqual(lastReported)
    expect(loaded.state).toEqual({ step: loaded.step })
    expect(loaded.tensors['model.w']!.data.every((byte) => byte === loaded.step % 251)).toBe(true)
    saved = Math.max(saved, loaded.step)
  }
  expect(saved).toBeGreaterThan(0)
  await saveCheckpoint(dir, saved + 1, checkpointOf(1), { keep: 1 })
  expect(await names()).toHaveLength(1)
})

/** A program that saves `count` checkpoints of `size` bytes and prints the step after each. */
function buildSaver(): string {
  const outfile = join(programs, 'saver.mjs')
  buildSync({
    stdin: {
      contents: `
        import { saveCheckpoint, listCheckpoints } from './lib/train/checkpoint_file'
        const [dir, count, size] = [process.argv[2], Number(process.argv[3]), Number(process.argv[4])]
        const first = (await listCheckpoints(dir))[0]?.step ?? 0
        for (let step = first + 1; step <= first + count; step++) {
          const data = new Uint8Array(size).fill(step % 251)
          const tensor = { dtype: 'u8', shape: [size], data }
          const tensors = { 'model.w': tensor, 'optimizer.m': tensor }
          try {
            await saveCheckpoint(dir, step, { tensors, state: { step } })
          } catch (error) {
            process.stdout.write(error.code + ' ' + error.message + '\\n')
            continue
          }
          process.stdout.write(step + '\\n')
        }`,
      resolveDir: join(__dirname, '..', '..'),
      loader: 'ts',
    },
    bundle: true,
    platform: 'node',
    format: 'esm',
    outfile,
    logLevel: 'error',
  })
  return outfile
}

async function runSaver(command: string): Promise<{ code: number | null; stdout: string }> {
  const child = spawn('sh', ['-c', command, buildSaver(), dir], { stdio: ['ignore', 'pipe', 'inherit'] })
  let stdout = ''
  child.stdout.on('data', (chunk: Buffer) => (stdout += chunk.toString()))
  const code = await new Promise<number | null>((resolve) => child.on('close', resolve))
  return { code, stdout }
}

test('state keeps what JSON loses, and refuses what is not data', () => {
  const state = { a: [NaN, Infinity, -Infinity, -0, 5e-324, 2 ** 53], b: { c: 12n, d: 'x', e: null, f: true } }
  expect(decodeState(encodeState(state))).toEqual(state)
  expect(decodeState(encodeState({ a: undefined, b: 1 }))).toEqual({ b: 1 })
  expect(() => encodeState({ a: { b: [new Float32Array(2)] } })).toThrow(
    'checkpoint: state.a.b[0] is [object Float32Array]',
  )
  expect(() => encodeState([new Map()])).toThrow(/state\[0\]/)
  expect(() => encodeState(undefined)).toThrow(/state is undefined/)
})
