// Builds dist/ with tsup. With --if-stale only when a source is newer than the last build.
import { spawnSync } from 'node:child_process'
import { existsSync, readdirSync, rmSync, statSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { fileURLToPath } from 'node:url'

const root = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '..')
const stamp = path.join(root, 'dist', '.built')

function newest(entry) {
  const stat = statSync(entry)
  if (!stat.isDirectory()) return stat.mtimeMs
  // The folder's own time counts too: it changes when a file is removed.
  return Math.max(stat.mtimeMs, ...readdirSync(entry).map((name) => newest(path.join(entry, name))))
}

export function buildIfStale() {
  const inputs = ['lib', 'package.json', 'tsconfig.json', 'tsup.config.ts'].map((name) => path.join(root, name))
  if (existsSync(stamp) && Math.max(...inputs.map(newest)) < statSync(stamp).mtimeMs) return
  build()
}

export function build() {
  const started = Date.now()
  rmSync(path.join(root, 'dist'), { recursive: true, force: true })
  const tsup = path.join(root, 'node_modules', 'tsup', 'dist', 'cli-default.js')
  const run = spawnSync(process.execPath, [tsup], { cwd: root, stdio: ['ignore', 2, 2] })
  if (run.status !== 0) {
    console.error('leanformer: building dist/ failed, see above.')
    process.exit(1)
  }
  writeFileSync(stamp, new Date(started).toISOString() + '\n')
  console.error(`Built dist/ in ${((Date.now() - started) / 1000).toFixed(1)} s`)
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  if (process.argv.includes('--if-stale')) buildIfStale()
  else build()
}
