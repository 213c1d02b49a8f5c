// `npm start`: brings dist/ and the native code up to date, then runs the command line's demonstration. Further
// arguments go to it: `npm start -- --steps 50`.
import { spawn, spawnSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import path from 'node:path'
import { fileURLToPath } from 'node:url'
import { buildIfStale } from './build.mjs'

const root = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '..')
if (!existsSync(path.join(root, 'build', 'Release', 'addon.node'))) {
  const native = spawnSync(process.execPath, [path.join(root, 'native', 'build.cjs')], { stdio: 'inherit' })
  if (native.status !== 0) process.exit(1)
}
await buildIfStale()
const main = path.join(root, 'dist', 'cli', 'main.js')
const child = spawn(process.execPath, [main, 'demo', ...process.argv.slice(2)], { stdio: 'inherit' })
// ^C reaches the child as well, which saves and stops by itself; this process waits for it.
for (const signal of ['SIGINT', 'SIGTERM']) process.on(signal, () => { if (signal === 'SIGTERM') child.kill(signal) })
child.on('exit', (code, signal) => process.exit(signal ? 1 : code))
