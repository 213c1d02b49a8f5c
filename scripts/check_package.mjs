// Packs the package, installs the tarball in a fresh folder (which builds the native code there), and uses it as a user
// would: ESM, CJS, a deep import, every module in both formats, a strict NodeNext type check of the declarations, and the
// README's TypeScript, type-checked and run.
import { transformSync } from 'esbuild'
import { execFileSync } from 'node:child_process'
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { fileURLToPath } from 'node:url'

const root = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '..')
const folder = mkdtempSync(path.join(os.tmpdir(), 'leanformer-package-'))
const npm = process.platform === 'win32' ? 'npm.cmd' : 'npm'
let passed = 0

function check(name, body) {
  const started = Date.now()
  body()
  passed++
  console.log(`ok   ${name} (${((Date.now() - started) / 1000).toFixed(1)} s)`)
}
function run(program, ...args) {
  const stdio = ['ignore', 'pipe', 'inherit']
  // A compiler cache must see the same relative paths as in the checkout, see .ci/run.
  const env = process.env.CCACHE_BASEDIR ? { ...process.env, CCACHE_BASEDIR: folder } : process.env
  return execFileSync(program, args, { cwd: folder, env, encoding: 'utf8', stdio, maxBuffer: 1 << 28 })
}
function write(name, text) {
  writeFileSync(path.join(folder, name), text)
}

// Node runs the program given as text; its output must be `expected`.
function expectOutput(name, text, expected) {
  write(name, text)
  const output = run(process.execPath, name).trim()
  if (output !== expected) throw new Error(`${name} printed:\n${output}\nexpected:\n${expected}`)
}

// The declarations of Node itself are the only ones that a user of TypeScript brings along.
function typecheck(...files) {
  const compilerOptions = {
    module: 'NodeNext', target: 'ES2022', lib: ['ES2023', 'ESNext.Disposable'], strict: true, noEmit: true,
    types: ['node'], typeRoots: [path.join(root, 'node_modules', '@types')],
  }
  write('tsconfig.json', JSON.stringify({ compilerOptions, files }))
  try {
    run(process.execPath, path.join(root, 'node_modules', 'typescript', 'bin', 'tsc'), '-p', '.')
  } catch (error) {
    throw new Error(`tsc refuses ${files.join(', ')}:\n${error.stdout}`)
  }
}

try {
  let tarball
  check('npm pack', () => {
    const [{ filename, files }] = JSON.parse(run(npm, 'pack', root, '--json', '--pack-destination', folder))
    tarball = filename
    const stray = files.map((file) => file.path).filter((file) => /^(test|bench|scripts|build|lib|\.ci)\//.test(file))
    if (stray.length) throw new Error(`these files do not belong in the package: ${stray.join(', ')}`)
  })

  check('npm install of the tarball builds the native code', () => {
    write('package.json', JSON.stringify({ name: 'user', private: true }))
    run(npm, 'install', `./${tarball}`, '--no-audit', '--no-fund')
  })

  const installed = path.join(folder, 'node_modules', 'leanformer')
  const dist = path.join(installed, 'dist')
  const modules = readdirSync(dist, { recursive: true, encoding: 'utf8' })
    .filter((file) => file.endsWith('.d.ts') && !path.basename(file).includes('-'))
    .map((file) => file.slice(0, -'.d.ts'.length).split(path.sep).join('/'))
    .sort()

  check('ESM, CJS and deep imports', () => {
    const values = "new LeanformerError('ERR_SHAPE', 'x').code, loadAddon() === loadAddon(), typeof loadAddon()"
    const use = `console.log(${values})`
    const names = [['LeanformerError', 'leanformer'], ['loadAddon', 'leanformer/native/addon']]
    const esm = names.map(([name, from]) => `import { ${name} } from '${from}'`)
    const cjs = names.map(([name, from]) => `const { ${name} } = require('${from}')`)
    expectOutput('use.mjs', [...esm, use].join('\n'), 'ERR_SHAPE true object')
    expectOutput('use.cjs', [...cjs, use].join('\n'), 'ERR_SHAPE true object')
  })

  check('a class is the same through the index and through its own file', () => {
    const lines = ["import * as all from 'leanformer'", "import { LeanformerError } from 'leanformer/native/errors'"]
    expectOutput('same.mjs', [...lines, 'console.log(all.LeanformerError === LeanformerError)'].join('\n'), 'true')
  })

  check(`all ${modules.length} modules load in both formats with the same exports`, () => {
    expectOutput('every.mjs', [
      "import { createRequire } from 'node:module'",
      'const require = createRequire(import.meta.url)',
      `for (const name of ${JSON.stringify(modules)}) {`,
      "  const specifier = name === 'index' ? 'leanformer' : `leanformer/${name}`",
      '  const esm = Object.keys(await import(specifier)).sort().join()',
      '  const cjs = Object.keys(require(specifier)).sort().join()',
      '  if (esm !== cjs) console.log(`${specifier}: ${esm} against ${cjs}`)',
      '}',
    ].join('\n'), '')
  })

  check('declarations hold under strict NodeNext without skipLibCheck', () => {
    const specifiers = modules.map((name) => (name === 'index' ? 'leanformer' : `leanformer/${name}`))
    const imports = specifiers.map((specifier, i) => `import * as m${i} from '${specifier}'`)
    const text = [...imports, `export const all: object[] = [${modules.map((_, i) => `m${i}`).join(', ')}]`].join('\n')
    write('types.mts', text)
    write('types.cts', text)
    typecheck('types.mts', 'types.cts')
  })

  const examples = [...readFileSync(path.join(root, 'README.md'), 'utf8').matchAll(/^```ts\n(.*?)^```/gms)].map(([, code]) => code)
  check(`the README's ${examples.length} TypeScript examples hold and run`, () => {
    examples.forEach((code, i) => write(`example${i}.mts`, code))
    typecheck(...examples.map((_, i) => `example${i}.mts`))
    for (const [i, code] of examples.entries()) {
      write(`example${i}.mjs`, transformSync(code, { loader: 'ts', target: 'node20' }).code)
      if (!run(process.execPath, `example${i}.mjs`).trim()) throw new Error(`example ${i + 1} printed nothing`)
    }
  })

  const { bin } = JSON.parse(readFileSync(path.join(installed, 'package.json'), 'utf8'))
  check('the command line starts', () => {
    const output = run(process.execPath, path.join(installed, bin.leanformer), '--help')
    if (!/usage/i.test(output)) throw new Error(`leanformer --help printed:\n${output}`)
  })
  console.log(`package: ${passed} passed, 0 failed`)
} catch (error) {
  console.error(`package: ${passed} passed, 1 failed\n${error.message}`)
  process.exitCode = 1
} finally {
  rmSync(folder, { recursive: true, force: true })
}
