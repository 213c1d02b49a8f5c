// The table of operators of `leanformer bench` and `npm run bench -- step --profile`.
import { operatorRows, operatorTable } from '../../lib/cli/operator_table'

const profile = [
  { op: 'add', calls: 4, seconds: 0.002, flops: 1e6, bytesRead: 2e7, bytesWritten: 1e7 },
  { op: 'matmul', calls: 8, seconds: 0.04, flops: 4e9, bytesRead: 1e6, bytesWritten: 1e6 },
  { op: 'copy', calls: 0, seconds: 0, flops: 0, bytesRead: 0, bytesWritten: 0 },
]

test('rates per step and shares of the nearer ceiling', () => {
  const rows = operatorRows(profile, 2, { gflops: 200, gbs: 30 })
  expect(rows.map(({ op }) => op)).toEqual(['matmul', 'add'])
  // 4 GFLOP at 200 GFLOP/s are 20 ms of 40; 30 MB at 30 GB/s are 1 ms of 2.
  expect(rows[0]).toMatchObject({ calls: 4, ms: 20, ceiling: 0.5, lostMs: 10 })
  expect(rows[1]).toMatchObject({ calls: 2, ms: 1, ceiling: 0.5, lostMs: 0.5 })
  expect(rows[0].gflops).toBeCloseTo(100)
  expect(rows[1].gbs).toBeCloseTo(15)
})

test('the text says how much of the step is explained, and what loses the most', () => {
  const text = operatorTable(operatorRows(profile, 2, { gflops: 200, gbs: 30 }), 21.2, 0.106)
  expect(text).toContain('named operators explain 99.1 % of the wall time, waiting for JavaScript 0.5 %')
  expect(text).toContain('worst first: matmul 10.00 ms, add 0.50 ms')
})

test('without ceilings there is nothing to lose against', () => {
  const rows = operatorRows(profile, 2)
  expect(rows[0]).toMatchObject({ ceiling: null, lostMs: null })
  expect(operatorTable(rows, 21, 0)).not.toContain('worst')
})
