// `npm run test:gpusim -- [--seeds 10] [PATTERN ...]`: tests on a simulated GPU under its strict checks (memory, races, reads of
// what was never written, memory of the device and page-locked memory that is still allocated when the process ends), with the
// seeds 1 .. N of its adversarial order of execution. LEANFORMER_GPUSIM names the simulator's folder. Each pair of file and seed
// becomes a line of build/reports/gpusim.jsonl; `--resume` leaves out the pairs that passed there before. The exit status tells
// whether all passed.
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
const refuse = (why) => {
  console.error(`test:gpusim: ${why}`)
  process.exit(2)
}
const simulator = process.env.LEANFORMER_GPUSIM
if (!simulator) refuse('LEANFORMER_GPUSIM is not set: it names the folder of the simulator')
const [first, last, together] = ['from', 'seeds', 'together'].map((name) => {
  const number = Number(values[name])
  if (!Number.isInteger(number) || number < 1) refuse(`--${name} is ${values[name]}, and must be a whole number from 1 on`)
  return number
})
if (first > last) refuse(`--from ${first} is beyond --seeds ${last}, so there is nothing to run`)
const log = path.join(root, 'build', 'reports', 'gpusim.jsonl')
mkdirSync(path.dirname(log), { recursive: true })
const known = values.resume && existsSync(log) ? readFileSync(log, 'utf8').trim().split('\n').map((line) => JSON.parse(line)) : []
const passed = new Set(known.filter((line) => line.passed).map((line) => `${line.file} ${line.seed}`))

// One pattern at a time, so that none is left out without a word.
const filesOf = (pattern) => {
  const { status, stdout, stderr } = spawnSync(process.execPath, [jest, '--listTests', pattern], { cwd: root, encoding: 'utf8' })
  if (status !== 0) refuse(`jest could not list the test files of ${pattern}:\n${stderr}`)
  const found = stdout.split('\n').filter(Boolean)
  if (!found.length) refuse(`no test file matches ${pattern}`)
  return found.map((file) => path.relative(root, file))
}
const files = [...new Set((positionals.length ? positionals : suites).flatMap(filesOf))].sort()
const scratch = mkdtempSync(path.join(os.tmpdir(), 'leanformer-gpusim-'))
const [reports, summary] = ['reports.jsonl', 'summary.json'].map((name) => path.join(scratch, name))

/** Runs files in one process: its exit status, what it printed, and by file whether it passed and how many tests did. */
function run(group, seed, sweep) {
  for (const file of [reports, summary]) rmSync(file, { force: true })
  const started = Date.now()
  const env = {
    ...process.env, GPUSIM_STRICT: '1', GPUSIM_LEAKCHECK: '1', GPUSIM_SEED: String(seed), GPUSIM_DEVICES: '2', GPUSIM_REPORT: reports, GPUSIM_LAUNCH_TIMEOUT: '1200',
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
for (let seed = first; seed <= last; ++seed) {
  const waiting = files.filter((file) => !passed.has(`${file} ${seed}`))
  const sweep = seed > 1 && !values.whole
  for (const size = sweep ? together : 1; waiting.length; ) {
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
