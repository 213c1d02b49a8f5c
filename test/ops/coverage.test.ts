// Every native operator is in the `ops` of some case (which checks that it really ran), or in the list below with the test
// file that covers it; and every device has a kernel for it.
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
  const files = readdirSync(__dirname).filter((file) => file.endsWith('.test.ts') && file !== path.basename(__filename))
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
