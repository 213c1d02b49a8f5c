// Builds dist/. With --if-stale only when a source is newer than the last build.
// The files that lib/index.ts imports, and those they import, become one bundle in each format: reading it takes a
// fraction of the time that a file for each of them takes. Deep imports such as `leanformer/nn/linear` are thin files
// that re-export from the bundle, so that module state is shared with the index. Every other file (the command line,
// what is imported when it is needed) is compiled by itself and imports its neighbours in dist/. The command line is
// ESM alone. Declarations: tsup.config.ts.
import { build as esbuild } from 'esbuild'
import { spawnSync } from 'node:child_process'
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { fileURLToPath } from 'node:url'

const root = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '..')
const lib = path.join(root, 'lib')
const dist = path.join(root, 'dist')
const stamp = path.join(dist, '.built')
const extensions = { esm: '.js', cjs: '.cjs' }

function newest(entry) {
  const stat = statSync(entry)
  if (!stat.isDirectory()) return stat.mtimeMs
  // The folder's own time counts too: it changes when a file is removed.
  return Math.max(stat.mtimeMs, ...readdirSync(entry).map((name) => newest(path.join(entry, name))))
}

export async function buildIfStale() {
  const names = ['lib', 'package.json', 'scripts/build.mjs', 'tsconfig.json', 'tsup.config.ts']
  const inputs = names.map((name) => path.join(root, name))
  if (existsSync(stamp) && Math.max(...inputs.map(newest)) < statSync(stamp).mtimeMs) return
  await build()
}

export async function build() {
  const started = Date.now()
  rmSync(dist, { recursive: true, force: true })
  try {
    const { bundled, single, exportsOf } = await survey()
    for (const format of ['esm', 'cjs']) {
      await buildBundle(format, bundled, exportsOf)
      for (const stem of bundled) writeThinFile(format, stem, exportsOf[stem])
      await buildSingleFiles(format, single.filter((stem) => format === 'esm' || !stem.startsWith('cli/')))
    }
    buildDeclarations()
  } catch (error) {
    // esbuild has printed what its errors are.
    console.error(`leanformer: building dist/ failed: ${error.message}`)
    process.exit(1)
  }
  writeFileSync(stamp, new Date(started).toISOString() + '\n')
  console.error(`Built dist/ in ${((Date.now() - started) / 1000).toFixed(1)} s`)
}

// A file of lib/ goes by its stem: 'nn/linear' is lib/nn/linear.ts.
const stemOf = (file) => path.relative(lib, path.resolve(root, file)).slice(0, -'.ts'.length).split(path.sep).join('/')
const sourceOf = (stem) => path.join(lib, `${stem}.ts`)
/** The name under which the bundle exports `name` of the file. */
const aliasOf = (stem, name) => `${stem.replace(/\W/g, '_')}__${name}`

/** Which files the bundle holds, index first, which stand by themselves, and the names that each exports at run time. */
async function survey() {
  const files = readdirSync(lib, { recursive: true, encoding: 'utf8' }).filter((file) => /(?<!\.d)\.ts$/.test(file))
  const entryPoints = files.map((file) => path.join(lib, file))
  const options = { ...common('esm'), entryPoints, outdir: dist, splitting: true, write: false, metafile: true }
  const { metafile } = await esbuild(options)
  const bundled = new Set(['index'])
  for (const stem of bundled) {
    const { imports } = metafile.inputs[`lib/${stem}.ts`]
    const within = imports.filter((each) => each.kind === 'import-statement' && !each.external)
    for (const each of within) if (each.path.startsWith('lib/')) bundled.add(stemOf(each.path))
  }
  const outputs = Object.values(metafile.outputs).filter((output) => output.entryPoint)
  const exportsOf = Object.fromEntries(outputs.map((output) => [stemOf(output.entryPoint), output.exports.sort()]))
  return { bundled: [...bundled], single: Object.keys(exportsOf).filter((stem) => !bundled.has(stem)), exportsOf }
}

function common(format) {
  const cjs = {
    // import() of a file of dist/ has to reach the CJS one.
    supported: { 'dynamic-import': false },
    define: { 'import.meta.url': 'importMetaUrl' },
    banner: { js: "const importMetaUrl = require('node:url').pathToFileURL(__filename).href" },
  }
  return {
    absWorkingDir: root, bundle: true, format, platform: 'node', target: 'node20', packages: 'external',
    outExtension: { '.js': extensions[format] }, ...(format === 'cjs' && cjs),
  }
}

/** Turns imports of files of lib/ for which `isExternal` holds into imports of the file in dist/, seen from `folderOf(importer)`. */
function importFromDist(format, isExternal, folderOf) {
  return {
    name: 'import from dist',
    setup({ onLoad, onResolve, resolve }) {
      onResolve({ filter: /^\./ }, async ({ path: specifier, importer, resolveDir, kind, pluginData }) => {
        if (kind === 'entry-point' || pluginData === 'seen') return undefined
        const resolved = await resolve(specifier, { importer, resolveDir, kind, pluginData: 'seen' })
        if (resolved.errors.length || !isExternal(kind)) return resolved
        const relative = path.posix.relative(folderOf(importer), stemOf(resolved.path)) + extensions[format]
        return { path: relative.startsWith('.') ? relative : `./${relative}`, external: true }
      })
      // A template stands for the files of dist/; esbuild would compile all that it can name into this one. String() hides it.
      onLoad({ filter: /\.ts$/ }, ({ path: file }) => ({
        contents: readFileSync(file, 'utf8').replace(/import\((`[^`]*)\.ts`\)/g, `import(String($1${extensions[format]}\`))`),
        loader: 'ts',
      }))
    },
  }
}

async function buildBundle(format, stems, exportsOf) {
  const list = (stem, each) => exportsOf[stem].map((name) => each(name, aliasOf(stem, name))).join(', ')
  const esm = (stem) => `export { ${list(stem, (name, alias) => `${name} as ${alias}`)} } from './${stem}'`
  // An object for each file: esbuild's own CommonJS exports are getters, which take long to make.
  const cjs = (stem) => `import { ${list(stem, (name, alias) => `${name} as ${alias}`)} } from './${stem}'\n` +
    `exports['${stem}'] = { ${list(stem, (name, alias) => `${name}: ${alias}`)} }`
  const file = `bundle${extensions[format]}`
  await esbuild({
    ...common(format), sourcemap: true, outfile: path.join(dist, file), outExtension: undefined,
    stdin: { contents: stems.map(format === 'esm' ? esm : cjs).join('\n'), resolveDir: lib, sourcefile: file },
    plugins: [importFromDist(format, (kind) => kind === 'dynamic-import', () => '')],
  })
}

function writeThinFile(format, stem, names) {
  const file = path.join(dist, stem + extensions[format])
  const bundle = `${'../'.repeat(stem.split('/').length - 1) || './'}bundle${extensions[format]}`
  const list = names.map((name) => `${aliasOf(stem, name)} as ${name}`).join(', ')
  const cjs = `module.exports = Object.defineProperty(require('${bundle}')['${stem}'], '__esModule', { value: true })\n`
  mkdirSync(path.dirname(file), { recursive: true })
  writeFileSync(file, format === 'esm' ? `export { ${list} } from '${bundle}'\n` : cjs)
}

async function buildSingleFiles(format, stems) {
  await esbuild({
    ...common(format), sourcemap: true, entryPoints: stems.map(sourceOf), outdir: dist, outbase: lib,
    plugins: [importFromDist(format, () => true, (importer) => path.posix.dirname(stemOf(importer)))],
  })
}

function buildDeclarations() {
  const tsup = path.join(root, 'node_modules', 'tsup', 'dist', 'cli-default.js')
  const run = spawnSync(process.execPath, [tsup], { cwd: root, stdio: ['ignore', 2, 2] })
  if (run.status !== 0) throw new Error('tsup refuses the declarations, see above')
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  if (process.argv.includes('--if-stale')) await buildIfStale()
  else await build()
}
