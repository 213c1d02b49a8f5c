import { readFileSync } from 'node:fs'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

import fc from 'fast-check'

import {
  decodeSafetensors,
  encodeSafetensors,
  hostDTypeBytes,
  hostTensorBytes,
  readSafetensors,
  writeSafetensors,
  type HostDType,
  type HostTensor,
} from '../../lib/train/safetensors'

let dir: string
beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'leanformer-safetensors-'))
})
afterAll(() => rm(dir, { recursive: true }))

const golden = join(__dirname, 'golden', 'python.safetensors')

/** A file from a header and the number of its data bytes. */
const fileOf = (header: unknown, dataBytes: number): Uint8Array => {
  const json = Buffer.from(typeof header === 'string' ? header : JSON.stringify(header))
  const out = Buffer.alloc(8 + json.length + dataBytes)
  out.writeBigUInt64LE(BigInt(json.length))
  json.copy(out, 8)
  return out
}

const tensorsArbitrary = fc.dictionary(
  fc.string({ minLength: 1, maxLength: 12 }).filter((name) => name !== '__metadata__'),
  fc
    .record({
      dtype: fc.constantFrom(...(Object.keys(hostDTypeBytes) as HostDType[])),
      shape: fc.array(fc.integer({ min: 0, max: 4 }), { maxLength: 4 }),
    })
    .chain(({ dtype, shape }) => {
      const length = hostTensorBytes(dtype, shape)
      return fc.uint8Array({ minLength: length, maxLength: length }).map((data): HostTensor => ({ dtype, shape, data }))
    }),
  { maxKeys: 8, noNullPrototype: true },
)

test('what is encoded decodes to the same tensors and metadata', async () => {
  await fc.assert(
    fc.asyncProperty(
      tensorsArbitrary,
      fc.dictionary(fc.string(), fc.string(), { noNullPrototype: true }),
      async (tensors, metadata) => {
        const bytes = encodeSafetensors(tensors, metadata)
        expect(new DataView(bytes.buffer, bytes.byteOffset).getUint32(0, true) % 8).toBe(0)
        const decoded = await decodeSafetensors(bytes)
        expect(decoded).toEqual({ tensors, metadata })
        for (const { data } of Object.values(decoded.tensors)) expect(data.byteOffset % 8).toBe(0)
      },
    ),
  )
})

test('reads a file that Python wrote', async () => {
  const { tensors, metadata } = await readSafetensors(golden)
  expect(metadata).toEqual({ format: 'np', note: 'written by Python' })
  const view = (name: string, Type: new (b: ArrayBufferLike) => ArrayLike<number | bigint>) =>
    Array.from(new Type(tensors[name]!.data.buffer) as ArrayLike<number>)
  const shapes = Object.fromEntries(Object.entries(tensors).map(([k, t]) => [k, [t.dtype, ...t.shape]]))
  expect(shapes).toEqual({
    weight: ['f32', 2, 3],
    half: ['f16', 2],
    double: ['f64'],
    bytes: ['u8', 5],
    signed: ['i8', 2],
    counts: ['i32', 2, 1],
    big: ['i64', 2],
    mask: ['bool', 3],
    none: ['f32', 0, 3],
    brain: ['bf16', 2],
  })
  expect(view('weight', Float32Array)).toEqual([1.5, -2, 0.25, 3, Math.fround(1e-8), Infinity])
  expect(view('half', Uint16Array)).toEqual([0x3c00, 0xb800])
  expect(view('brain', Uint16Array)).toEqual([0x3f80, 0xc040])
  expect(view('double', Float64Array)).toEqual([Math.PI])
  expect(view('bytes', Uint8Array)).toEqual([0, 1, 2, 3, 4])
  expect(view('signed', Int8Array)).toEqual([-1, 2])
  expect(view('counts', Int32Array)).toEqual([-7, 2 ** 31 - 1])
  expect(view('big', BigInt64Array)).toEqual([2n ** 53n + 1n, -5n])
  expect(view('mask', Uint8Array)).toEqual([1, 0, 1])
})

test('writes what Python wrote back, byte for byte', async () => {
  const { tensors, metadata } = await readSafetensors(golden)
  const path = join(dir, 'back.safetensors')
  await writeSafetensors(path, tensors, metadata)
  expect(readFileSync(path)).toEqual(readFileSync(golden))
})

test('refuses damaged headers, naming the file and the tensor', async () => {
  const f32 = (begin: number, end: number, shape = [1]) => ({ dtype: 'F32', shape, data_offsets: [begin, end] })
  const huge = fileOf({}, 0)
  new DataView(huge.buffer, huge.byteOffset).setBigUint64(0, 100_000_001n, true)
  const beyond = fileOf({}, 0)
  new DataView(beyond.buffer, beyond.byteOffset).setBigUint64(0, 99n, true)
  const cases: [Uint8Array, RegExp][] = [
    [new Uint8Array(7), /too few/],
    [huge, /at most 100000000/],
    [beyond, /header has 99 bytes/],
    [fileOf('{"a":', 0), /not JSON/],
    [fileOf('[1]', 0), /not a JSON object/],
    [fileOf({ a: f32(0, 4) }, 3), /need 4 bytes of data, the file has 3/],
    [fileOf({ a: f32(0, 4) }, 5), /need 4 bytes of data, the file has 5/],
    [fileOf({ a: f32(0, 4), b: f32(2, 6) }, 6), /tensor b at \[2, 6\) overlaps/],
    [fileOf({ a: f32(0, 4), b: f32(0, 4) }, 4), /tensor b at \[0, 4\) overlaps/],
    [fileOf({ a: f32(0, 4), b: f32(8, 12) }, 12), /leaves a gap/],
    [fileOf({ a: f32(0, 8) }, 8), /tensor a: F32 of shape \[1\] needs 4 bytes/],
    [fileOf({ a: f32(4, 0) }, 4), /tensor a/],
    [fileOf({ a: f32(0, 4, [2 ** 53]) }, 4), /malformed/],
    [fileOf({ a: f32(0, 4, [-1]) }, 4), /malformed/],
    [fileOf({ a: { dtype: 'F32', shape: [1] } }, 4), /malformed/],
    [fileOf({ a: null }, 4), /malformed/],
    [fileOf({ a: { ...f32(0, 4), dtype: 'C64' } }, 4), /dtype C64; supported are I64/],
    [fileOf({ __metadata__: { a: 1 } }, 0), /not a map of strings/],
  ]
  for (const [i, [bytes, message]] of cases.entries()) {
    const path = join(dir, `bad${i}.safetensors`)
    await writeFile(path, bytes)
    for (const result of [decodeSafetensors(bytes, path), readSafetensors(path)]) {
      await expect(result).rejects.toMatchObject({ code: 'ERR_CHECKPOINT', message: expect.stringMatching(message) })
      await expect(result).rejects.toThrow(path)
    }
  }
  await expect(readSafetensors(join(dir, 'none'))).rejects.toMatchObject({ code: 'ERR_IO' })
})

test('refuses to write a tensor whose bytes do not fit its shape, and the reserved name', () => {
  const tensor: HostTensor = { dtype: 'f32', shape: [2], data: new Uint8Array(7) }
  expect(() => encodeSafetensors({ w: tensor })).toThrow('safetensors: tensor w: f32 of shape [2] with 7 bytes')
  expect(() => encodeSafetensors({ __metadata__: { ...tensor, shape: [], data: new Uint8Array(4) } })).toThrow(
    /__metadata__/,
  )
})
