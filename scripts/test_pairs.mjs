// `npm run test:pairs`: every pair of test/techniques/combinations.test.ts, of which `npm test` takes a third. With --swapped every
// two techniques in the order that the other run leaves out; beside optimisers and initialisers a technique has no order.
import { spawnSync } from 'node:child_process'
import path from 'node:path'
import { fileURLToPath } from 'node:url'

const root = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '..')
const jest = path.join(root, 'node_modules', 'jest', 'bin', 'jest.js')
const swapped = process.argv.includes('--swapped')
const env = { ...process.env, LEANFORMER_ALL_PAIRS: '1', ...(swapped && { LEANFORMER_SWAPPED_PAIRS: '1' }) }
const only = swapped ? ['-t', 'each two techniques'] : []
const { status } = spawnSync(process.execPath, [jest, 'test/techniques/combinations', '--verbose', ...only], { cwd: root, stdio: 'inherit', env })
process.exitCode = status ?? 1
