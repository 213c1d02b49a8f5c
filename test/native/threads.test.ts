// How many threads compute where nobody says so: as many as there are cores that the process may use.
import { spawnSync } from 'node:child_process'
import os from 'node:os'
import path from 'node:path'

const addon = path.resolve(__dirname, '../../build/Release/addon.node')

/** The number of threads of a new process, started by `command`. */
function threadsUnder(...command: string[]): number {
  const { LEANFORMER_THREADS: _, ...env } = process.env
  const program = `console.log(require(${JSON.stringify(process.env.LEANFORMER_ADDON ?? addon)}).threads())`
  const [first, ...rest] = [...command, process.execPath, '-e', program]
  const { stdout, stderr } = spawnSync(first, rest, { encoding: 'utf8', env })
  if (!/^\d+$/.test(stdout.trim())) throw new Error(`no number of threads: ${stdout}${stderr}`)
  return Number(stdout)
}

// taskset comes with every Linux system that has util-linux; elsewhere there is no affinity to set.
const withAffinity = process.platform === 'linux' && spawnSync('taskset', ['--version']).status === 0 ? test : test.skip

withAffinity('one that may run on a single processor has one thread', () => {
  expect(threadsUnder('taskset', '-c', '0')).toBe(1)
})

test('a process has at least one, and at most one for each processor', () => {
  const threads = threadsUnder()
  expect(threads).toBeGreaterThanOrEqual(1)
  expect(threads).toBeLessThanOrEqual(os.cpus().length)
})
