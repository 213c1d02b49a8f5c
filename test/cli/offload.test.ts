// Offloading from the real command line: kill -9 in the middle of a step and --resume; a disk that is full. Runs dist/, which
// `npm test` builds first.
import { spawn } from 'node:child_process'
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'

const main = path.join(__dirname, '..', '..', 'dist', 'cli', 'main.js')
let folder: string
beforeAll(() => {
  folder = mkdtempSync(path.join(os.tmpdir(), 'leanformer-offload-'))
})
afterAll(() => rmSync(folder, { recursive: true, force: true }))

const options =
  '--layers 2 --width 64 --heads 2 --context 32 --batch 2 --steps 30 --dropout 0.1 --eval-tokens 256 --save-every 10 --seed 5 --json'.split(' ')
const away = ['--technique', 'offload:gradients=disk,activations=disk,piece=64KiB', '--technique', 'checkpointing']

/** Ends with code and stderr; killed with SIGKILL once step `killAt` is reported. `fileBlocks`: limit of file sizes in KiB. */
function train(args: string[], { killAt = Infinity, fileBlocks = 'unlimited' }: { killAt?: number; fileBlocks?: number | 'unlimited' } = {}) {
  return new Promise<{ code: number | null; err: string }>((resolve) => {
    const child = spawn('bash', ['-c', 'ulimit -f "$0"; exec "$@"', String(fileBlocks), process.execPath, main, 'train', ...args], { stdio: ['ignore', 'pipe', 'pipe'] })
    let err = ''
    child.stderr.on('data', (chunk) => (err += chunk))
    child.stdout.on('data', (chunk) => {
      const step = Number(/"step":(\d+)/.exec(String(chunk))?.[1] ?? 0)
      if (step >= killAt) child.kill('SIGKILL')
    })
    child.on('exit', (code) => setTimeout(() => resolve({ code, err }), 20))
  })
}

const weights = (run: string) => {
  const checkpoints = path.join(folder, run, 'checkpoints')
  const last = readdirSync(checkpoints).sort().at(-1)!
  return readFileSync(path.join(checkpoints, last, 'model.safetensors'))
}

test('killed in the middle of a step and resumed, the weights are those of a run in memory', async () => {
  const out = (run: string) => ['--out', path.join(folder, run)]
  expect((await train([...options, ...out('plain')])).code).toBe(0)
  expect((await train([...options, ...out('killed'), ...away], { killAt: 15 })).code).toBeNull()
  const resumed = await train(['--resume', path.join(folder, 'killed'), '--json'])
  expect(resumed).toEqual({ code: 0, err: expect.stringMatching(/^resumed +\S+step-0000\d\d\n$/) })
  expect(weights('killed').equals(weights('plain'))).toBe(true)
}, 240_000)

test('a file that cannot grow ends the run with the reason', async () => {
  const { code, err } = await train([...options, '--out', path.join(folder, 'full'), '--technique', `offload:folder=${folder}`], { fileBlocks: 300 })
  expect(code).toBe(1)
  expect(err).toContain(`bytes could not be written in the folder ${folder}: File too large`)
  expect(err).toContain('free some space on that disk')
}, 240_000)
