// The one error class. `code` is stable (ERR_SHAPE, ERR_DATA, ...), `hint` says what would be right.

export class LeanformerError extends Error {
  readonly code: string
  readonly hint?: string

  constructor(code: string, message: string, hint?: string, options?: { cause?: unknown }) {
    super(message, options)
    this.name = 'LeanformerError'
    this.code = code
    if (hint !== undefined) this.hint = hint
  }
}
