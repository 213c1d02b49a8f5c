// Writes lib/native/ops.gen.ts from the operator table that the built addon prints. `--check` only compares.
import { readFileSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { fileURLToPath } from 'node:url'

const require = createRequire(import.meta.url)
const addon = require('../build/Release/addon.node')
const file = fileURLToPath(new URL('../lib/native/ops.gen.ts', import.meta.url))

const types = { number: 'number', integer: 'number', flag: 'boolean', integers: 'readonly number[]', numbers: 'readonly number[]' }

function attrType(attr) {
  if (attr.type === 'dtype') return 'DType'
  return attr.choices ? attr.choices.split('|').map((c) => `'${c}'`).join(' | ') : types[attr.type]
}

const ops = JSON.parse(addon.ops())
let hash = 2166136261
for (const byte of Buffer.from(addon.ops())) hash = Math.imul(hash ^ byte, 16777619)
const lines = [
  '// Generated from the addon by `npm run generate:ops`; do not edit. One entry per native operator, sorted by name.',
  "import { dtypes, type DType } from './dtype'",
  '',
  'export interface OpAttrs {',
]
for (const op of ops) {
  const attrs = op.attrs.map((attr) => `${attr.name}: ${attrType(attr)}`).join('; ')
  lines.push(`  ${op.name}: ${attrs ? `{ ${attrs} }` : 'Record<string, never>'}`)
}
lines.push('}', '', 'export type OpName = keyof OpAttrs', '')
lines.push(
  'export interface OpDescription {',
  '  name: OpName',
  '  inputs: { name: string; optional: boolean; variadic: boolean; mutated: boolean }[]',
  '  attrs: { name: string; type: string; choices?: readonly string[] }[]',
  '}',
  '',
  'const input = (name: string, flags = \'\') => ({',
  '  name,',
  "  optional: flags.includes('?'),",
  "  variadic: flags.includes('*'),",
  "  mutated: flags.includes('!'),",
  '})',
  '',
  'export const opTable: OpDescription[] = [',
)
for (const op of ops) {
  const inputs = op.inputs.map((i) => {
    const flags = (i.optional ? '?' : '') + (i.variadic ? '*' : '') + (i.mutated ? '!' : '')
    return `input('${i.name}'${flags ? `, '${flags}'` : ''})`
  })
  const attrs = op.attrs.map((attr) => {
    if (attr.type === 'dtype') return `{ name: '${attr.name}', type: 'choice', choices: dtypes }`
    const choices = attr.choices ? `, choices: [${attr.choices.split('|').map((c) => `'${c}'`).join(', ')}]` : ''
    return `{ name: '${attr.name}', type: '${attr.type}'${choices} }`
  })
  lines.push(`  {`, `    name: '${op.name}',`, `    inputs: [${inputs.join(', ')}],`, `    attrs: [${attrs.join(', ')}],`, '  },')
}
lines.push(']', '', '/** Of the table that the addon must have; see addon.opsHash(). */', `export const opTableHash = ${hash >>> 0}`, '')
const text = lines.join('\n')

if (process.argv.includes('--check')) {
  if (readFileSync(file, 'utf8') !== text) {
    console.error('lib/native/ops.gen.ts is not what the addon prints: run `npm run generate:ops` and commit it')
    process.exit(1)
  }
} else {
  writeFileSync(file, text)
}
