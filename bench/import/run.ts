// How long it takes to import the library in a fresh process, from dist/: ESM and CJS take turns.
import { execFileSync } from 'node:child_process'
import { median } from '../../lib/train/format'

const kRounds = 15
const formats = [
  { name: 'ESM', flag: '--input-type=module', load: "await import('leanformer')", times: [] as number[] },
  { name: 'CJS', flag: '--input-type=commonjs', load: "require('leanformer')", times: [] as number[] },
]
for (let round = 0; round < kRounds; round++) {
  for (const { flag, load, times } of formats) {
    const text = `const start = performance.now(); ${load}; console.log(performance.now() - start)`
    times.push(Number(execFileSync(process.execPath, [flag, '-e', text], { encoding: 'utf8' })))
  }
}
for (const { name, times } of formats) {
  console.log(`${name}: median ${median(times).toFixed(1)} ms, minimum ${Math.min(...times).toFixed(1)} ms of ${kRounds} processes`)
}
