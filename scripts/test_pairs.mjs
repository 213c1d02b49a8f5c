// `npm run test:pairs`: every pair of test/techniques/combinations.test.ts, of which `npm test` takes a third.
import { spawnSync } from 'node:child_process'
import path from 'node:path'
import { fileURLToPath } from 'node:url'

const root = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '..')
const jest = path.join(root, 'node_modules', 'jest', 'bin', 'jest.js')
const env = { ...process.env, LEANFORMER_ALL_PAIRS: '1' }
const { status } = spawnSync(process.execPath, [jest, 'test/techniques/combinations', '--verbose'], { cwd: root, stdio: 'inherit', env })
process.exitCode = status ?? 1
