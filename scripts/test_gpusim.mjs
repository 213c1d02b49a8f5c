// `npm run test:gpusim -- [--seeds 10] [PATTERN ...]`: tests on a simulated GPU under its strict checks (memory, races, reads of
// what was never written), with the seeds 1 .. N of its adversarial order of execution. LEANFORMER_GPUSIM names the simulator's
// folder. Each pair of file and seed becomes a line of build/reports/gpusim.jsonl; `--resume` leaves out the pairs that passed
// there before. The exit status tells whether all passed.
//
// Seed 1 runs everything, each file in a process of its own. A further seed changes the order of execution alone, so operator
// cases leave out what does not depend on it (LEANFORMER_TEST_SWEEP in test/support/op_case.ts), and `--together 8` (default)
// files share a process; where one of those fails or reports, its files run again one by one. `--whole` does without both.
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
  options: {
    seeds: { type: 'string', default: '1' },
    from: { type: 'string', default: '1' },
    together: { type: 'string', default: '8' },
    resume: { type: 'boolean', default: false },
    whole: { type: 'boolean', default: false },
  },
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
const [reports, summary] = ['reports.jsonl', 'summary.json'].map((name) => path.join(scratch, name))

/** Runs files in one process: its exit status, what it printed, and by file whether it passed and how many tests did. */
function run(group, seed, sweep) {
  for (const file of [reports, summary]) rmSync(file, { force: true })
  const started = Date.now()
  const env = {
    ...process.env, GPUSIM_STRICT: '1', GPUSIM_SEED: String(seed), GPUSIM_DEVICES: '2', GPUSIM_REPORT: reports, GPUSIM_LAUNCH_TIMEOUT: '1200',
    LEANFORMER_TEST_DEVICES: 'cuda:0', LEANFORMER_TEST_DEFAULT_DEVICE: 'cuda:0', LEANFORMER_TEST_SWEEP: sweep ? String(seed) : '',
  }
  // Slow is no failure here; a kernel that hangs is ended by the simulator.
  const args = ['run', '--', process.execPath, jest, '-i', '--testTimeout=3600000', '--json', `--outputFile=${summary}`, ...group]
  const { status, stderr } = spawnSync(path.join(simulator, 'bin', 'gpusim'), args, { cwd: root, env, encoding: 'utf8', maxBuffer: 1 << 28 })
  const found = existsSync(reports) ? readFileSync(reports, 'utf8').split('\n').filter(Boolean).length : 0
  const suites = existsSync(summary) ? JSON.parse(readFileSync(summary, 'utf8')).testResults : []
  const results = suites.map(({ name, assertionResults, startTime, endTime }) => ({
    file: path.relative(root, name),
    tests: assertionResults.filter((test) => test.status === 'passed').length,
    seconds: Math.round((group.length > 1 ? endTime - startTime : Date.now() - started) / 1000),
  }))
  return { status, stderr, found, results }
}

let failed = 0
const note = (file, seed, passed, tests, found, seconds) => {
  appendFileSync(log, JSON.stringify({ file, seed, passed, tests, reports: found, seconds }) + '\n')
  console.log(`${passed ? 'ok    ' : 'FAILED'} seed ${seed} ${file}: ${tests} tests, ${found} reports, ${seconds} s`)
}
for (let seed = Number(values.from); seed <= Number(values.seeds); ++seed) {
  const waiting = files.filter((file) => !passed.has(`${file} ${seed}`))
  const sweep = seed > 1 && !values.whole
  for (const size = sweep ? Number(values.together) : 1; waiting.length; ) {
    const group = waiting.splice(0, size)
    const all = run(group, seed, sweep)
    if (all.status === 0 && all.results.length === group.length) {
      for (const { file, tests, seconds } of all.results) note(file, seed, true, tests, 0, seconds)
      continue
    }
    for (const file of group) {
      const { status, stderr, found, results } = group.length > 1 ? run([file], seed, sweep) : all
      note(file, seed, status === 0, results[0]?.tests ?? 0, found, results[0]?.seconds ?? 0)
      if (status === 0) continue
      ++failed
      console.log(stderr.split('\n').slice(-200).join('\n'))
    }
  }
}
rmSync(scratch, { recursive: true, force: true })
console.log(failed ? `${failed} failed` : 'all passed')
process.exit(failed ? 1 : 0)
