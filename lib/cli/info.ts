// `leanformer info`: devices, instruction set, measured peaks, and why a backend is absent. With --json one JSON
// object.

import { availableParallelism } from 'node:os'
import type { Writable } from 'node:stream'

import { addon } from '../native/binding'
import { cudaAbsence, listDevices } from '../tensor/device'
import { formatBytes } from '../train/format'
import { infoSchema } from './config'
import { resolveOptions } from './options'

export function infoCommand(flags: Record<string, unknown>, stdout: Writable = process.stdout): Promise<number> {
  const { json } = resolveOptions(infoSchema, [{ origin: 'flag', values: flags }]).values
  const { build, isa } = addon.buildInfo()
  const { f32Gflops, bf16Gflops, bandwidthGbs } = addon.measurePeaks()
  const absence = cudaAbsence()
  const facts = {
    node: process.version,
    platform: `${process.platform} ${process.arch}`,
    cores: availableParallelism(),
    threads: addon.threads(),
    build,
    instruction_set: isa,
    devices: listDevices().map(({ name }) => name),
    gpus: listDevices()
      .filter(({ name }) => name.startsWith('cuda'))
      .map((device) => ({ name: device.name, ...device.facts() })),
    cuda_absent: absence === '' ? null : absence,
    peak_f32_gflops: f32Gflops,
    peak_bf16_gflops: bf16Gflops,
    bandwidth_gbs: bandwidthGbs,
  }
  if (json) {
    stdout.write(`${JSON.stringify(facts)}\n`)
    return Promise.resolve(0)
  }
  const rows: [string, string][] = [
    ['Node.js', `${facts.node}, ${facts.platform}`],
    ['CPU', `${facts.cores} cores, ${facts.threads} threads in use, instruction set ${isa}`],
    ['build', build],
    ['devices', facts.devices.join(', ')],
    ['CUDA', facts.cuda_absent === null ? 'ready' : `absent: ${facts.cuda_absent}`],
    ...facts.gpus.map(({ name, description, freeBytes, watts, celsius }): [string, string] => [
      name,
      `${description}; ${formatBytes(freeBytes)} free${watts < 0 ? '' : `, ${watts.toFixed(0)} W, ${celsius.toFixed(0)} degrees Celsius`}`,
    ]),
    [
      'measured',
      `${f32Gflops.toFixed(0)} GFLOP/s f32, ${bf16Gflops.toFixed(0)} GFLOP/s bf16, ${bandwidthGbs.toFixed(1)} GB/s`,
    ],
  ]
  for (const [name, value] of rows) stdout.write(`${name.padEnd(10)}${value}\n`)
  return Promise.resolve(0)
}
