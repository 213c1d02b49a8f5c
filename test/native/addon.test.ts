// The loader finds the addon, and says what to do when it cannot.
import { loadAddon } from '../../lib/native/addon'
import { LeanformerError } from '../../lib/native/errors'

test('the addon loads, once', () => {
  expect(loadAddon()).toBe(loadAddon())
  expect(Object.keys(loadAddon()).length).toBeGreaterThan(0)
})

test('a file that is not there is an error with a code, the path and a hint', async () => {
  const before = process.env.LEANFORMER_ADDON
  process.env.LEANFORMER_ADDON = '/nowhere/addon.node'
  let error: unknown
  await jest.isolateModulesAsync(async () => {
    const { loadAddon: load } = await import('../../lib/native/addon')
    try {
      load()
    } catch (thrown) {
      error = thrown
    }
  })
  if (before === undefined) delete process.env.LEANFORMER_ADDON
  else process.env.LEANFORMER_ADDON = before
  expect(error).toMatchObject({ code: 'ERR_BACKEND_LOAD', hint: expect.stringContaining('LEANFORMER_ADDON') })
  expect((error as Error).message).toContain('/nowhere/addon.node: not found')
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
