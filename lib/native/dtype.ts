// Number formats of tensors. The order is that of `enum class DType` in native/api/kernel.h.
import { LeanformerError } from './errors'

export const dtypes = ['f32', 'f16', 'bf16', 'f64', 'i8', 'u8', 'i32', 'i64', 'bool'] as const
export type DType = (typeof dtypes)[number]

const bytesPerElement: Record<DType, number> = { f32: 4, f16: 2, bf16: 2, f64: 8, i8: 1, u8: 1, i32: 4, i64: 8, bool: 1 }

/** Bytes of one element. */
export function dtypeBytes(dtype: DType): number {
  return bytesPerElement[dtype]
}

/** Whether a format holds real numbers (and so can have gradients). */
export function isFloating(dtype: DType): boolean {
  return dtype === 'f32' || dtype === 'f16' || dtype === 'bf16' || dtype === 'f64'
}

/** The array that holds a format in JavaScript: f16 and bf16 are bit patterns in a Uint16Array. */
export interface HostArrays {
  f32: Float32Array
  f16: Uint16Array
  bf16: Uint16Array
  f64: Float64Array
  i8: Int8Array
  u8: Uint8Array
  i32: Int32Array
  i64: BigInt64Array
  bool: Uint8Array
}
export type HostArray = HostArrays[DType]

const arrayTypes = {
  f32: Float32Array,
  f16: Uint16Array,
  bf16: Uint16Array,
  f64: Float64Array,
  i8: Int8Array,
  u8: Uint8Array,
  i32: Int32Array,
  i64: BigInt64Array,
  bool: Uint8Array,
} as const

/** A fresh zeroed array for `length` elements. */
export function newHostArray<D extends DType>(dtype: D, length: number): HostArrays[D] {
  return new arrayTypes[dtype](length) as HostArrays[D]
}

export function checkDType(value: string): DType {
  if ((dtypes as readonly string[]).includes(value)) return value as DType
  throw new LeanformerError('ERR_DTYPE', `dtype '${value}' does not exist`, `one of ${dtypes.join(', ')}`)
}
