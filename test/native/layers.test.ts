// Who may import whom, read off the sources: every arrow points down, so that a folder can be understood, and replaced,
// with nothing but what lies below it.
import { readdirSync, readFileSync } from 'node:fs'
import path from 'node:path'

const root = path.resolve(__dirname, '../..')

// From the bottom up. A folder may import itself, the lines below it, and what `sideways` names on its own line.
const libraryLayers = [
  ['native'],
  ['catalog'],
  ['tensor'],
  ['autograd'],
  ['ops'],
  ['attention'],
  ['init', 'nn'],
  ['data', 'models', 'optim'],
  ['techniques'],
  ['train'],
  ['energy', 'parallel', 'plan'],
  ['cli'],
]
// models: growing a model grows the state of its optimiser.
const sideways: Record<string, string[]> = { nn: ['init'], models: ['optim'], parallel: ['plan'] }

const nativeIncludes: Record<string, string[]> = {
  api: [],
  core: ['api'],
  cpu: ['api'],
  cuda: ['api'],
  ops: ['core', 'cpu', 'api'],
  napi: ['core', 'cpu', 'api'],
}

function sources(folder: string, extension: RegExp): string[] {
  return readdirSync(path.join(root, folder), { recursive: true, encoding: 'utf8' })
    .filter((file) => extension.test(file))
    .map((file) => path.join(folder, file))
}

function libraryProblems(files: string[], read: (file: string) => string): string[] {
  const rank = new Map(libraryLayers.flatMap((layer, i) => layer.map((name) => [name, i] as const)))
  const problems: string[] = []
  for (const file of files) {
    const from = path.relative('lib', file).split(path.sep)
    if (from.length === 1) continue // lib/index.ts is the sum of everything
    if (!rank.has(from[0])) problems.push(`${file}: lib/${from[0]} has no place in libraryLayers`)
    for (const [, , specifier] of read(file).matchAll(/(\bfrom|\bimport)\s*\(?\s*['"](\.[^'"]*)['"]/g)) {
      const target = path.join(path.dirname(file), specifier)
      const [to, ...inside] = path.relative('lib', target).split(path.sep)
      if (to === from[0]) continue
      const allowed = inside.length > 0 && (rank.get(to)! < rank.get(from[0])! || sideways[from[0]]?.includes(to))
      if (!allowed) problems.push(`${file}: must not import ${specifier}`)
    }
  }
  return problems
}

function nativeProblems(files: string[], read: (file: string) => string): string[] {
  const problems: string[] = []
  for (const file of files) {
    const from = path.relative('native', file).split(path.sep)[0]
    if (!nativeIncludes[from]) problems.push(`${file}: native/${from} has no place in nativeIncludes`)
    for (const [, header] of read(file).matchAll(/^\s*#\s*include\s*"([^"]+)"/gm)) {
      const to = header.split('/')[0]
      const generated = header === 'build_info.h' && ['core', 'cuda', 'napi'].includes(from)
      if (to === from || nativeIncludes[from]?.includes(to) || generated) continue
      problems.push(`${file}: must not include "${header}"`)
    }
    const nodeApi = /^\s*#\s*include\s*<(napi|node_api|js_native_api|uv)/m.test(read(file))
    if (nodeApi && from !== 'napi') problems.push(`${file}: only native/napi may include Node's headers`)
  }
  return problems
}

const readSource = (file: string) => readFileSync(path.join(root, file), 'utf8')

test('lib/ imports point down', () => {
  const files = sources('lib', /\.ts$/)
  expect(files.length).toBeGreaterThan(3)
  expect(libraryProblems(files, readSource)).toEqual([])
})

test('native/ includes point down', () => {
  const files = sources('native', /\.(cpp|h|inl|cu|cuh)$/)
  expect(files.length).toBeGreaterThan(3)
  expect(nativeProblems(files, readSource)).toEqual([])
})

test('an arrow that points up is found', () => {
  const library = { 'lib/ops/a.ts': "import { x } from '../train/trainer'", 'lib/new/b.ts': "import('../index')" }
  expect(libraryProblems(Object.keys(library), (file) => library[file as keyof typeof library])).toEqual([
    'lib/ops/a.ts: must not import ../train/trainer',
    'lib/new/b.ts: lib/new has no place in libraryLayers',
    'lib/new/b.ts: must not import ../index',
  ])
  const native = { 'native/cpu/a.cpp': '#include "core/op.h"\n#include <napi.h>\n' }
  expect(nativeProblems(Object.keys(native), (file) => native[file as keyof typeof native])).toEqual([
    'native/cpu/a.cpp: must not include "core/op.h"',
    "native/cpu/a.cpp: only native/napi may include Node's headers",
  ])
})
