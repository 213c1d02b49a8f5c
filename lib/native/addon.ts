// Finds and loads the native addon. `bindings` looks in the folders where builds end up; when that fails, the error
// says what was tried and what to do. LEANFORMER_ADDON names another build of it (such as one with sanitizers).
import type Bindings from 'bindings'
import { createRequire } from 'node:module'
import path from 'node:path'
import { LeanformerError } from './errors'

interface Attempt {
  path: string
  problem: string
}

let loaded: object | undefined

/** The addon, loaded on the first call. */
export function loadAddon<T extends object>(): T {
  return (loaded ??= load()) as T
}

// The addon reads these itself, where it could only ignore what it does not understand.
const mostThreads = 256
const lesserSets = ['plain', 'avx2', 'avx512-nobf16', 'avx512-bf16']

function checkEnvironment(): void {
  const { LEANFORMER_ISA: isa, LEANFORMER_THREADS: threads } = process.env
  if (isa && !lesserSets.includes(isa)) {
    const hint = 'unset it for the best instruction set that the processor has'
    throw new LeanformerError('ERR_ARGUMENT', `LEANFORMER_ISA is '${isa}', needs ${lesserSets.slice(0, -1).join(', ')} or ${lesserSets.at(-1)}`, hint)
  }
  if (threads && !(/^\d+$/.test(threads) && Number(threads) >= 1 && Number(threads) <= mostThreads)) {
    const hint = 'unset it for one thread a core'
    throw new LeanformerError('ERR_ARGUMENT', `LEANFORMER_THREADS is '${threads}', needs a whole number from 1 to ${mostThreads}`, hint)
  }
}

function load(): object {
  checkEnvironment()
  const attempts: Attempt[] = []
  const given = process.env.LEANFORMER_ADDON
  const addon = given ? loadFile(path.resolve(given), attempts) : loadBuilt(attempts)
  if (addon) return addon
  const notFound = attempts.every((attempt) => attempt.problem === 'not found')
  const tried = attempts.map((attempt) => `  ${attempt.path}: ${attempt.problem}`).join('\n')
  const message = `the native addon could not be loaded; tried\n${tried}`
  throw new LeanformerError('ERR_BACKEND_LOAD', message, hint(given, notFound))
}

function hint(given: string | undefined, notFound: boolean): string {
  if (given) return `LEANFORMER_ADDON is set to ${given}: correct it or unset it`
  const rebuild = 'run `npm rebuild leanformer`, or in a checkout `npm run build:native`'
  if (!notFound) return `${rebuild}: the addon was built for another system or by a build that failed`
  return (
    `${rebuild}. If npm blocked the install script of leanformer, approve it. It needs a C++20 compiler, ` +
    'cmake >= 3.20 and ninja or make, and says which one is missing. If you bundle your program, ' +
    'keep leanformer out of the bundle (external)'
  )
}

function loadFile(file: string, attempts: Attempt[]): object | undefined {
  try {
    return createRequire(file)(file) as object
  } catch (error) {
    attempts.push({ path: file, problem: describe(error) })
    return undefined
  }
}

function loadBuilt(attempts: Attempt[]): object | undefined {
  // Takes a fraction of the time of an import of a CommonJS package.
  const bindings = createRequire(import.meta.url)('bindings') as typeof Bindings
  try {
    return bindings('addon') as object
  } catch (error) {
    const tries = (error as { tries?: string[] }).tries
    if (tries) attempts.push(...tries.map((file) => ({ path: file, problem: 'not found' })))
    else attempts.push({ path: 'build/Release/addon.node', problem: describe(error) })
    return undefined
  }
}

function describe(error: unknown): string {
  const { code, message } = error as NodeJS.ErrnoException
  return code === 'MODULE_NOT_FOUND' ? 'not found' : message.split('\n')[0]
}
