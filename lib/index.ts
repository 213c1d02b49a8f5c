// The public API.
export { LeanformerError, errorCodes, type ErrorCode, type NativeErrorCode } from './native/errors'
