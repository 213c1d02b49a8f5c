// A tensor in host memory as plain bytes, little-endian: what checkpoints read and write.

export type HostDType = 'f32' | 'f16' | 'bf16' | 'f64' | 'i8' | 'u8' | 'i32' | 'i64' | 'bool'

export interface HostTensor {
  dtype: HostDType
  shape: number[]
  data: Uint8Array
}

export const hostDTypeBytes: Readonly<Record<HostDType, number>> = {
  f32: 4, f16: 2, bf16: 2, f64: 8, i8: 1, u8: 1, i32: 4, i64: 8, bool: 1
}

/** Bytes that a tensor of that dtype and shape has. */
export function hostTensorBytes(dtype: HostDType, shape: readonly number[]): number {
  return shape.reduce((product, size) => product * size, hostDTypeBytes[dtype])
}
