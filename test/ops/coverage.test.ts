// Every native operator is in the `ops` of some case (which checks that it really ran), or in the list below with the test
// file that covers it; and every device has a kernel for it. Where there is no GPU, the files say so: each of native/ops that
// has kernels has one of the same stem in native/cuda, which registers the same operators.
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import path from 'node:path'
import { addon } from '../../lib/native/binding'
import { opTable } from '../../lib/native/ops.gen'
import { testDevices } from '../support/devices'
import { collectCases, type OpCase } from '../support/op_case'

const root = path.resolve(__dirname, '../..')

// Operators that change what they are given or draw random numbers, so that no float64 reference of one call says it all.
const elsewhere: Record<string, string> = {
  adam: 'test/optim/adam.test.ts',
  adamw: 'test/optim/adamw.test.ts',
  adamw_8bit: 'test/optim/adamw_8bit.test.ts',
  amsgrad: 'test/optim/amsgrad.test.ts',
  dequantize_blocks: 'test/optim/adamw_8bit.test.ts',
  lamb: 'test/optim/lamb.test.ts',
  lars: 'test/optim/lars.test.ts',
  lerp: 'test/techniques/ema.test.ts',
  lerp_square: 'test/optim/sophia.test.ts',
  lion: 'test/optim/lion.test.ts',
  nesterov: 'test/optim/nesterov.test.ts',
  quantize_blocks: 'test/optim/adamw_8bit.test.ts',
  sam_ascend: 'test/techniques/sam.test.ts',
  sam_restore: 'test/techniques/sam.test.ts',
  scaled_add: 'test/optim/muon.test.ts',
  schedule_free_adamw: 'test/optim/schedule_free.test.ts',
  sgd: 'test/optim/sgd.test.ts',
  sophia: 'test/optim/sophia.test.ts',
  grad_norm_clip: 'test/optim/clip.test.ts',
  random_normal: 'test/ops/random.test.ts',
  random_uniform: 'test/ops/random.test.ts',
}

let cases: readonly OpCase<unknown>[]
beforeAll(async () => {
  // Other files define tests of their own, which they may not while one is running.
  const files = readdirSync(__dirname).filter(
    (file) => file !== path.basename(__filename) && /\bopCase\b/.test(readFileSync(path.join(__dirname, file), 'utf8')),
  )
  cases = await collectCases(async () => {
    for (const file of files) await import(path.join(__dirname, file))
  })
})

test('every operator has a case', () => {
  const covered = new Set(cases.flatMap((spec) => spec.ops as readonly string[]))
  expect(opTable.map((op) => op.name).filter((name) => !covered.has(name) && !(name in elsewhere))).toEqual([])
})

test('what is tested elsewhere is there', () => {
  const names = new Set<string>(opTable.map((op) => op.name))
  const missing = Object.entries(elsewhere).filter(([name, file]) => {
    const full = path.join(root, file)
    return !names.has(name) || !existsSync(full) || readFileSync(full, 'utf8').length === 0
  })
  expect(missing).toEqual([])
})

test.each(testDevices().map((device) => device.name))('%s has a kernel for every operator', (name) => {
  const device = testDevices().find((candidate) => candidate.name === name)!
  const without = opTable.filter((_, id) => !addon.hasKernel(device.number, id)).map((op) => op.name)
  expect(without).toEqual([])
})

// Operators whose kernels a file registers by name; those that come from a list of native/api register the same list.
function registered(file: string, macro: string): string[] {
  const text = readFileSync(file, 'utf8')
  const names = [...text.matchAll(new RegExp(`^${macro}\\((\\w+)`, 'gm'))].map((match) => match[1])
  const lists = [...text.matchAll(/^(LF_[A-Z_]+_(?:OPS|RULES))\(/gm)].map((match) => match[1])
  return [...new Set([...names, ...lists])].sort()
}

test('each file of CPU kernels has CUDA kernels for the same operators', () => {
  const cpu = path.join(root, 'native/ops')
  const cuda = path.join(root, 'native/cuda')
  const differing = readdirSync(cpu)
    .filter((file) => file.endsWith('.cpp'))
    .map((file) => file.replace('.cpp', ''))
    .filter((stem) => {
      const own = path.join(cuda, `${stem}.cu`)
      const wanted = registered(path.join(cpu, `${stem}.cpp`), 'LF_CPU_KERNEL').join()
      if (wanted === '') return false // the part of another file for one instruction set
      return !existsSync(own) || registered(own, 'LF_CUDA_KERNEL').join() !== wanted
    })
  expect(differing).toEqual([])
})
