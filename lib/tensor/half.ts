// f16 and bf16 bit patterns to and from numbers, rounding to nearest, ties to even.
const float = new Float32Array(1)
const bits = new Uint32Array(float.buffer)

export function bf16ToNumber(pattern: number): number {
  bits[0] = pattern << 16
  return float[0]
}

export function numberToBf16(value: number): number {
  float[0] = value
  const b = bits[0]
  if (value !== value) return ((b >>> 16) | 0x40) & 0xffff
  return ((b + 0x7fff + ((b >>> 16) & 1)) >>> 16) & 0xffff
}

export function f16ToNumber(pattern: number): number {
  const sign = pattern & 0x8000 ? -1 : 1
  const exponent = (pattern >> 10) & 31
  const fraction = pattern & 1023
  if (exponent === 31) return fraction ? NaN : sign * Infinity
  if (exponent === 0) return sign * fraction * 2 ** -24
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15)
}

export function numberToF16(value: number): number {
  const sign = value < 0 || Object.is(value, -0) ? 0x8000 : 0
  const size = Math.abs(value)
  if (size !== size) return 0x7e00
  if (size >= 65520) return sign | 0x7c00
  if (size < 2 ** -14) return sign | roundEven(size * 2 ** 24)
  const exponent = Math.min(15, Math.floor(Math.log2(size)))
  const shifted = size < 2 ** exponent ? exponent - 1 : size >= 2 ** (exponent + 1) ? exponent + 1 : exponent
  // A carry out of the fraction moves into the exponent by itself.
  return sign | (((shifted + 15) << 10) + roundEven((size / 2 ** shifted - 1) * 1024))
}

function roundEven(x: number): number {
  const floor = Math.floor(x)
  const rest = x - floor
  return rest > 0.5 || (rest === 0.5 && floor % 2 === 1) ? floor + 1 : floor
}
