// The real command line: kill -9 at any moment and --resume give the weights of a run that was never stopped; ^C saves and
// stops; a damaged checkpoint is refused by name. Runs dist/, which `npm test` builds first.
import { spawn, type ChildProcess } from 'node:child_process'
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'

const main = path.join(__dirname, '..', '..', 'dist', 'cli', 'main.js')
let folder: string
beforeAll(() => {
  folder = mkdtempSync(path.join(os.tmpdir(), 'leanformer-resume-'))
})
afterAll(() => rmSync(folder, { recursive: true, force: true }))

const options =
  '--layers 2 --width 32 --heads 2 --context 32 --batch 4 --steps 60 --dropout 0.1 --eval-tokens 256 --save-every 10 --seed 5 --json'.split(' ')

interface Outcome {
  code: number | null
  signal: NodeJS.Signals | null
  out: string
  err: string
}

/** Runs the command line; `onStep` may act on the process when a step is reported. */
function leanformer(args: string[], onStep?: (step: number, child: ChildProcess) => void): Promise<Outcome> {
  return new Promise((resolve) => {
    const child = spawn(process.execPath, [main, ...args], { stdio: ['ignore', 'pipe', 'pipe'] })
    let out = ''
    let err = ''
    child.stderr.on('data', (chunk) => (err += chunk))
    child.stdout.on('data', (chunk) => {
      out += chunk
      const steps = out.match(/"step":(\d+)/g)
      if (onStep && steps) onStep(Number(steps[steps.length - 1].slice(7)), child)
    })
    child.on('exit', (code, signal) => setTimeout(() => resolve({ code, signal, out, err }), 20))
  })
}

const lastCheckpoint = (run: string) => {
  const steps = readdirSync(path.join(run, 'checkpoints')).filter((name) => name.startsWith('step-')).sort()
  return path.join(run, 'checkpoints', steps[steps.length - 1])
}
const weights = (run: string) => readFileSync(path.join(lastCheckpoint(run), 'model.safetensors'))

test('kill -9 at several moments, then resume: the same weights bit for bit', async () => {
  const whole = path.join(folder, 'whole')
  const straight = await leanformer(['train', ...options, '--out', whole])
  expect(straight.code).toBe(0)
  const done = JSON.parse(straight.out.trim().split('\n').pop()!)
  expect(done).toMatchObject({ event: 'done', train_loss: expect.any(Number), val_bits_per_byte: expect.any(Number) })

  const run = path.join(folder, 'killed')
  const killAt = (step: number) => (seen: number, child: ChildProcess) => void (seen >= step && child.kill('SIGKILL'))
  expect((await leanformer(['train', ...options, '--out', run], killAt(13))).signal).toBe('SIGKILL')
  expect((await leanformer(['train', '--resume', run, '--json'], killAt(37))).signal).toBe('SIGKILL')
  const resumed = await leanformer(['train', '--resume', run, '--json'])
  expect(resumed.code).toBe(0)
  expect(JSON.parse(resumed.out.trim().split('\n').pop()!)).toMatchObject({ train_loss: done.train_loss, val_loss: done.val_loss })
  expect(weights(run).equals(weights(whole))).toBe(true)
}, 120_000)

test('^C saves at the step boundary, and the run can go on; a flipped bit is refused by name', async () => {
  const run = path.join(folder, 'stopped')
  let sent = false
  const stopped = await leanformer(['train', ...options, '--out', run], (step, child) => {
    if (step >= 25 && !sent) sent = child.kill('SIGINT')
  })
  expect(stopped.code).toBe(130)
  const saved = lastCheckpoint(run)
  expect(Number(saved.slice(-6))).toBeGreaterThanOrEqual(25)

  const file = path.join(saved, 'model.safetensors')
  const bytes = readFileSync(file)
  bytes[bytes.length - 100] ^= 4
  writeFileSync(file, bytes)
  const resumed = await leanformer(['train', '--resume', run, '--json'])
  expect(resumed.code).toBe(0)
  expect(resumed.err).toContain(path.basename(saved))
  expect(resumed.err).toContain('model.safetensors')
  expect(weights(run).equals(weights(path.join(folder, 'whole')))).toBe(true)
}, 120_000)

test.each([
  [['--text', 'no-such-file.txt'], 'ERR_DATA', 'no-such-file.txt'],
  [['--width', '30', '--heads', '4'], 'ERR_OPTION', '--heads'],
  [['--widht', '30'], 'ERR_OPTION', '--width'],
  [['--device', 'cuda'], 'ERR_DEVICE', 'cuda'],
  [['--optimizer', 'adamww'], 'ERR_OPTION', 'adamw'],
  [['--context', '2000000'], 'ERR_DATA', 'context'],
  [['--memory-limit', '100KiB'], 'ERR_OUT_OF_MEMORY', 'largest live tensors'],
  [['--lr', '1e30', '--clip', '0'], 'ERR_NON_FINITE', 'step'],
] as [string[], string, string][])('train %j is refused with %s', async (args, code, text) => {
  const outcome = await leanformer(['train', ...options, '--steps', '30', '--out', path.join(folder, 'bad'), ...args])
  expect([1, 2]).toContain(outcome.code)
  expect(outcome.out.split('\n').every((line) => line === '' || line.startsWith('{'))).toBe(true)
  expect(outcome.err).toContain(code)
  expect(outcome.err).toContain(text)
  rmSync(path.join(folder, 'bad'), { recursive: true, force: true })
}, 60_000)
