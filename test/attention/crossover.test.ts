// Which attention is forecast to be right: the model's own arithmetic, its direction, and what it says.
import { attentionSeconds, attentionWays, chooseAttention, forecastPattern } from '../../lib/attention/crossover'
import { costs } from '../../lib/attention/costs.gen'
import { custom, localCausal } from '../../lib/attention/patterns'
import { getDevice, type Device } from '../../lib/tensor/device'

const cpu = getDevice('cpu')
const problem = { device: cpu, dtype: 'f32', batch: 2, heads: 4, width: 64 } as const

test('a call costs its overhead and a price for each pair and number', () => {
  const { forward, backward } = costs.cpu.f32.csr
  const one = forward.call + 8 * 1000 * (forward.pair + 64 * forward.pairWidth)
  expect(attentionSeconds('csr', 1000, { ...problem, backward: false })).toBeCloseTo(one, 12)
  const both = one + backward.call + 8 * 1000 * (backward.pair + 64 * backward.pairWidth)
  expect(attentionSeconds('csr', 1000, problem)).toBeCloseTo(both, 12)
})

test('constants say where they are from, none is below zero, and lists cost more a pair than dense products', () => {
  for (const device of Object.values(costs)) {
    expect(device.source).toMatch(/measured|roofline/)
    for (const format of [device.f32, device.bf16]) {
      for (const way of attentionWays) for (const cost of [format[way].forward, format[way].backward]) expect(Object.values(cost).every((x) => x >= 0)).toBe(true)
      const price = (way: (typeof attentionWays)[number]) => format[way].forward.pair + 64 * format[way].forward.pairWidth
      expect(price('csr')).toBeGreaterThan(price('dense'))
    }
  }
})

test.each([cpu, { name: 'cuda:0' } as Device])('few pairs far apart go by the list, full blocks by blocks, everything dense: %s', (device) => {
  const n = 16384
  const choose = (dense: number, blocks: number, csr: number) => chooseAttention({ ...problem, device, dtype: 'bf16', pairs: { dense, block_sparse: blocks, csr } }).way
  expect(choose((n * n) / 2, (n * n) / 2, n)).toBe('csr')
  expect(choose((n * n) / 2, n * 512, n * 480)).toBe('block_sparse')
  expect(choose((n * n) / 2, n * n, (n * n) / 2)).toBe('dense')
  expect(chooseAttention({ ...problem, device, pairs: { dense: null, block_sparse: null, csr: 5 } }).way).toBe('csr')
})

test('the reason names the device, the share of the pairs, how full the blocks are, and every time', () => {
  const diagonal = Array.from({ length: 4 }, (_, i) => Array.from({ length: 4 }, (_, j) => i === j))
  const forecast = forecastPattern(custom([diagonal], 16), { queries: 64, keys: 64, block: 16 }, { ...problem, causal: false })
  expect(forecast.reason).toMatch(/on cpu for 25\.0 % of the pairs, whose blocks are 100 % full: dense .* ms, block_sparse .* ms, csr .* ms a call \(.*\)/)
  const window = forecastPattern(localCausal(8), { queries: 64, keys: 64, block: 16 }, { ...problem, causal: true })
  expect([window.csr.columns.length, window.blocks.columns.length]).toEqual([8 * 64 - 28, 7])
  window.csr.dispose()
})
