// The one error class of the library. `code` says what kind of failure it is, `hint` what would be right.

// What native code answers with, in the order of `enum Code` in native/api/kernel.h, and ERR_IO of native/core/pager.h.
export const errorCodes = [
  'OK',
  'ERR_SHAPE',
  'ERR_DTYPE',
  'ERR_DEVICE',
  'ERR_ARGUMENT',
  'ERR_DISPOSED',
  'ERR_NO_KERNEL',
  'ERR_OUT_OF_MEMORY',
  'ERR_KERNEL',
  'ERR_STREAM_FAILED',
  'ERR_BACKEND_LOAD',
  'ERR_IO',
] as const

export type NativeErrorCode = (typeof errorCodes)[number]

export type ErrorCode =
  | NativeErrorCode
  | 'ERR_OPTION'
  | 'ERR_DATA'
  | 'ERR_CHECKPOINT'
  | 'ERR_NON_FINITE'
  | 'ERR_ABORTED'

export class LeanformerError extends Error {
  override readonly name = 'LeanformerError'
  readonly code: ErrorCode
  readonly hint?: string

  constructor(code: ErrorCode, message: string, hint?: string, options?: ErrorOptions) {
    super(message, options)
    this.code = code
    if (hint !== undefined) this.hint = hint
  }
}
