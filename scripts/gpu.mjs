// `npm run gpu`, on a machine with a GPU: all tests of operators, autograd, optimisers, models and training on it, then the
// baselines (bench/results/gpu.json), then every kernel's time into docs/gpu.json and docs/gpu.md. Goes on after a failure;
// the exit status tells.
import { spawnSync } from 'node:child_process'
import path from 'node:path'
import { fileURLToPath } from 'node:url'

const root = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '..')
const workers = Math.max(1, Math.min(14, (await import('node:os')).availableParallelism() - 2))
let failed = 0
function step(name, args, env = {}) {
  console.log(`=== ${name}`)
  const { status } = spawnSync(process.execPath, args, { cwd: root, stdio: 'inherit', env: { ...process.env, ...env } })
  if (status !== 0) failed++
  console.log(`=== ${name}: ${status === 0 ? 'ok' : 'FAILED'}`)
}
const suites = ['test/ops', 'test/autograd', 'test/optim', 'test/models', 'test/train/graph', 'test/train/allocation_failure']
step('tests', ['node_modules/jest/bin/jest.js', '-w', String(workers), ...suites], { LEANFORMER_TEST_DEVICES: 'cuda:0' })
step('baselines', ['scripts/run_ts.mjs', 'bench/run.ts', 'gpu'])
step('kernels', ['scripts/run_ts.mjs', 'bench/run.ts', 'gpu-report', '--measure'])
process.exit(failed ? 1 : 0)
