// A GPU whose memory others have taken: sentences with a code, never a crash, and the process goes on. Only a simulated GPU can
// be made that small. Runs dist/, which `npm test` builds first.
import { execFile } from 'node:child_process'
import path from 'node:path'
import { promisify } from 'node:util'

const library = path.join(__dirname, '..', '..', 'dist', 'index.cjs')
const onSimulator = process.env.GPUSIM_HOME ? test : test.skip

/** What a program prints as JSON on a GPU with so much memory. */
async function onDeviceOf(mebibytes: number, program: string): Promise<unknown> {
  const text = `const lf = require(${JSON.stringify(library)})
const device = lf.getDevice('cuda:0')
const caught = (promise) => promise.then(() => null, ({ code, message, hint }) => ({ code, message, hint }))
;(async () => console.log(JSON.stringify(await (async () => { ${program} })())))()`
  const env = { ...process.env, GPUSIM_MEM_MB: String(mebibytes) }
  const { stdout } = await promisify(execFile)(process.execPath, ['-e', text], { env })
  return JSON.parse(stdout) as unknown
}

onSimulator('no room for what a device always needs: every use says so, and the CPU goes on', async () => {
  const found = await onDeviceOf(
    2,
    `const first = await caught(lf.ones([4], { device }).data())
    device.clearError() // tries again
    const second = await caught(lf.ones([4], { device }).data())
    return { first, second, cpu: Array.from(await lf.ones([2], { device: 'cpu' }).data()) }`,
  )
  const full = { code: 'ERR_OUT_OF_MEMORY', message: expect.stringContaining('cuda:0: stream: CUDA error 2'), hint: expect.stringContaining('nvidia-smi') }
  expect(found).toEqual({ first: full, second: full, cpu: [1, 1] })
})

onSimulator('no room for a graph: a step that repeats itself runs launch by launch, with the same numbers', async () => {
  // A slab of 64 MiB, 4 MiB of staging and less than 1 MiB more; a graph keeps what the step writes three times.
  const found = await onDeviceOf(
    69,
    `const sums = []
    for (let i = 0; i < 4; i++) {
      const sum = device.repeating(() => lf.scope(() => lf.keep(lf.sum(lf.tensor(new Float32Array(1 << 17).fill(i), [1 << 17], { device })))))
      sums.push(await sum.item())
      sum.dispose()
    }
    return { sums, replays: (await device.synchronize()).graphReplays }`,
  )
  expect(found).toEqual({ sums: [0, 1, 2, 3].map((i) => i * (1 << 17)), replays: 0 })
})
