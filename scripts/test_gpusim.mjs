// `npm run test:gpusim -- [--seeds 10] [PATTERN ...]`: tests on a simulated GPU under its strict checks (memory, races, reads of
// what was never written), one test file after the other with the seeds 1 .. N of its adversarial order of execution.
// LEANFORMER_GPUSIM names the simulator's folder. Each pair of file and seed becomes a line of build/reports/gpusim.jsonl;
// `--resume` leaves out the pairs that passed there before. The exit status tells whether all passed.
//
// Operators are tested on cuda:0, and what a test makes without naming a device is there too. The simulator shows two
// devices, so copies between them are tested as well.
import { spawnSync } from 'node:child_process'
import { appendFileSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'

const root = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '..')
const jest = path.join(root, 'node_modules', 'jest', 'bin', 'jest.js')
const suites = ['test/ops', 'test/goldens', 'test/autograd', 'test/nn', 'test/optim', 'test/models', 'test/tensor', 'test/train', 'test/init', 'test/techniques']
const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { seeds: { type: 'string', default: '1' }, from: { type: 'string', default: '1' }, resume: { type: 'boolean', default: false } },
})
const simulator = process.env.LEANFORMER_GPUSIM
if (!simulator) {
  console.error('LEANFORMER_GPUSIM is not set: it names the folder of the simulator')
  process.exit(2)
}
const log = path.join(root, 'build', 'reports', 'gpusim.jsonl')
mkdirSync(path.dirname(log), { recursive: true })
const known = values.resume && existsSync(log) ? readFileSync(log, 'utf8').trim().split('\n').map((line) => JSON.parse(line)) : []
const passed = new Set(known.filter((line) => line.passed).map((line) => `${line.file} ${line.seed}`))

const listed = spawnSync(process.execPath, [jest, '--listTests', ...(positionals.length ? positionals : suites)], { cwd: root, encoding: 'utf8' })
const files = listed.stdout.trim().split('\n').map((file) => path.relative(root, file)).sort()
const scratch = mkdtempSync(path.join(os.tmpdir(), 'leanformer-gpusim-'))
let failed = 0
for (let seed = Number(values.from); seed <= Number(values.seeds); ++seed) {
  for (const file of files) {
    if (passed.has(`${file} ${seed}`)) continue
    const reports = path.join(scratch, 'reports.jsonl')
    rmSync(reports, { force: true })
    const started = Date.now()
    const env = {
      ...process.env, GPUSIM_STRICT: '1', GPUSIM_SEED: String(seed), GPUSIM_DEVICES: '2', GPUSIM_REPORT: reports, GPUSIM_LAUNCH_TIMEOUT: '1200',
      LEANFORMER_TEST_DEVICES: 'cuda:0', LEANFORMER_TEST_DEFAULT_DEVICE: 'cuda:0',
    }
    // Slow is no failure here; a kernel that hangs is ended by the simulator.
    const args = ['run', '--', process.execPath, jest, '-i', '--testTimeout=3600000', file]
    const { status, stdout, stderr } = spawnSync(path.join(simulator, 'bin', 'gpusim'), args, { cwd: root, env, encoding: 'utf8', maxBuffer: 1 << 28 })
    const found = existsSync(reports) ? readFileSync(reports, 'utf8').split('\n').filter(Boolean).length : 0
    const tests = Number(/Tests:.*?(\d+) passed/.exec(stderr)?.[1] ?? 0)
    const seconds = Math.round((Date.now() - started) / 1000)
    appendFileSync(log, JSON.stringify({ file, seed, passed: status === 0, tests, reports: found, seconds }) + '\n')
    console.log(`${status === 0 ? 'ok    ' : 'FAILED'} seed ${seed} ${file}: ${tests} tests, ${found} reports, ${seconds} s`)
    if (status !== 0) {
      ++failed
      console.log((stdout + stderr).split('\n').slice(-200).join('\n'))
    }
  }
}
rmSync(scratch, { recursive: true, force: true })
console.log(failed ? `${failed} failed` : 'all passed')
process.exit(failed ? 1 : 0)
