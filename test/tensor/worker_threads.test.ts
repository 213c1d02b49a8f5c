// A worker thread of Node has streams of its own. When it ends they end with it: their threads, their memory, on the device and
// page-locked, whatever the worker still held or had just asked for. Runs dist/, which `npm test` builds first.
import { readdirSync } from 'node:fs'
import path from 'node:path'
import { Worker } from 'node:worker_threads'

import { testDevices } from '../support/devices'

const library = path.join(__dirname, '..', '..', 'dist', 'index.cjs')
const elements = 1 << 24

const program = `
const { parentPort, workerData } = require('node:worker_threads')
const lf = require(workerData.library)
const { device, elements } = workerData
const held = lf.keep(lf.ones([elements], { device }))
const read = lf.keep(lf.sum(held)).item()
read.then((value) => {
  parentPort.postMessage(value)
  for (let i = 0; i < 3; i++) lf.keep(lf.add(held, held)) // nobody waits for these
})
`

function runWorker(device: string): Promise<number> {
  return new Promise((resolve, reject) => {
    let value = NaN
    const worker = new Worker(program, { eval: true, workerData: { library, device, elements } })
    worker.on('message', (message: number) => (value = message))
    worker.on('error', reject)
    worker.on('exit', () => resolve(value))
  })
}

const threads = (): number => readdirSync('/proc/self/task').length
const onLinux = process.platform === 'linux' ? test.each : test.skip.each

onLinux(testDevices().map((device) => device.name))('%s: nothing of a worker stays', async (device) => {
  expect(await runWorker(device)).toBe(elements) // the first one starts what the process has once: the pool, the plug-in
  const before = { threads: threads(), bytes: process.memoryUsage().rss }
  for (let i = 0; i < 4; i++) expect(await runWorker(device)).toBe(elements)
  expect(threads()).toBe(before.threads)
  // Each held four tensors of 64 MiB.
  expect(process.memoryUsage().rss - before.bytes).toBeLessThan(256 << 20)
})
