// Runs a TypeScript program of this repository: `node scripts/run_ts.mjs bench/run.ts [arguments]`. It is bundled into
// build/ts, npm packages stay outside.
import { build } from 'esbuild'
import { spawn } from 'node:child_process'
import path from 'node:path'
import { fileURLToPath } from 'node:url'

const root = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '..')
const [source, ...rest] = process.argv.slice(2)
if (!source) {
  console.error('usage: node scripts/run_ts.mjs FILE.ts [arguments]')
  process.exit(2)
}
const relative = path.relative(root, path.resolve(source))
const outfile = path.join(root, 'build', 'ts', relative.replace(/\.ts$/, '.mjs'))
await build({
  entryPoints: [path.resolve(source)], outfile, bundle: true, platform: 'node', format: 'esm', target: 'node20',
  packages: 'external', sourcemap: true, logLevel: 'warning',
})
const child = spawn(process.execPath, ['--enable-source-maps', outfile, ...rest], { stdio: 'inherit' })
process.on('SIGINT', () => {}) // the child got it too
child.on('exit', (code, signal) => process.exit(signal ? 1 : code))
