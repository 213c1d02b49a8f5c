// The loader finds the addon, and says what to do when it cannot.
import { loadAddon } from '../../lib/native/addon'
import { LeanformerError } from '../../lib/native/errors'

test('the addon loads, once', () => {
  expect(loadAddon()).toBe(loadAddon())
  expect(Object.keys(loadAddon()).length).toBeGreaterThan(0)
})

/** What loading fails with where an environment variable has that value. */
async function refusal(variable: string, value: string): Promise<unknown> {
  const before = process.env[variable]
  process.env[variable] = value
  let error: unknown
  await jest.isolateModulesAsync(async () => {
    const { loadAddon: load } = await import('../../lib/native/addon')
    try {
      load()
    } catch (thrown) {
      error = thrown
    }
  })
  if (before === undefined) delete process.env[variable]
  else process.env[variable] = before
  return error
}

test('a file that is not there is an error with a code, the path and a hint', async () => {
  const error = await refusal('LEANFORMER_ADDON', '/nowhere/addon.node')
  expect(error).toMatchObject({ code: 'ERR_BACKEND_LOAD', hint: expect.stringContaining('LEANFORMER_ADDON') })
  expect((error as Error).message).toContain('/nowhere/addon.node: not found')
})

test.each([
  ['LEANFORMER_ISA', 'avx3', 'avx512-bf16'],
  ['LEANFORMER_THREADS', '0', 'from 1 to'],
  ['LEANFORMER_THREADS', 'two', 'from 1 to'],
])('%s=%s is refused with what would be right', async (variable, value, right) => {
  const error = await refusal(variable, value)
  expect(error).toMatchObject({ code: 'ERR_ARGUMENT', hint: expect.stringContaining('unset') })
  expect((error as Error).message).toContain(`${variable} is '${value}'`)
  expect((error as Error).message).toContain(right)
})

test('using is lowered for Node 20', () => {
  const order: string[] = []
  {
    using _resource = { [Symbol.dispose]: () => void order.push('disposed') }
    order.push('body')
  }
  expect(order).toEqual(['body', 'disposed'])
  expect(new LeanformerError('ERR_SHAPE', 'x')).toHaveProperty('name', 'LeanformerError')
})
