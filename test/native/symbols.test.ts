// Code for AVX2 and AVX-512 must not reach a machine without them. Two ways it could: the linker keeps one copy of a
// shared inline function, and it may be the AVX-512 one; and static constructors run on load, whatever the machine.
// So the objects compiled for an instruction set define no weak, vague or unique symbol, and their start-up code uses
// no vector extension.
import { execFileSync, spawnSync } from 'node:child_process'
import { existsSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'

const root = path.resolve(__dirname, '../..')
const built = path.join(root, 'build/cmake/CMakeFiles')
const onLinux = process.platform === 'linux' ? test : test.skip
const onLinuxX64 = process.platform === 'linux' && process.arch === 'x64' ? test : test.skip

function objects(library: string): string[] {
  const folder = path.join(built, `${library}.dir`)
  const files = existsSync(folder) ? readdirSync(folder, { recursive: true, encoding: 'utf8' }) : []
  // An object whose source was removed stays behind and is linked no more.
  const current = files.filter((file) => file.endsWith('.o') && existsSync(path.join(root, file.slice(0, -2))))
  const found = current.map((file) => path.join(folder, file))
  if (found.length === 0) throw new Error(`no objects in ${folder}: run \`npm run build:native\` in the checkout`)
  return found
}

// Symbols that another object could share. DW.ref.* is data, a pointer to the exception personality.
function sharedSymbols(object: string): string[] {
  return execFileSync('nm', ['-C', '--defined-only', object], { encoding: 'utf8', maxBuffer: 1 << 28 })
    .split('\n')
    .filter((line) => /^\s*[0-9a-f]*\s+[WVu] /.test(line) && !line.includes(' DW.ref.'))
    .map((line) => `${path.basename(object)}: ${line.trim().replace(/^[0-9a-f]+ /, '')}`)
}

// VEX and EVEX instructions (they begin with v) and mask registers in the code that runs when the addon is loaded.
function vectorStartUp(object: string): string[] {
  const args = ['-d', '--no-show-raw-insn', '-j', '.text.startup', object]
  const { stdout } = spawnSync('objdump', args, { encoding: 'utf8', maxBuffer: 1 << 28 })
  return stdout
    .split('\n')
    .map((line) => line.match(/^\s*[0-9a-f]+:\s+(\S.*)$/)?.[1].trim() ?? '')
    .filter((instruction) => /^v|%[yz]mm|%k[0-7]/.test(instruction))
    .map((instruction) => `${path.basename(object)}: ${instruction}`)
}

onLinux('no kernel object defines a symbol that the linker could share', () => {
  const wide = process.arch === 'x64' ? ['kernels_avx2', 'kernels_avx512'].flatMap(objects) : []
  const all = [...objects('kernels_plain'), ...wide, ...bf16Objects()]
  expect(all.flatMap(sharedSymbols)).toEqual([])
})

onLinuxX64('start-up code uses no vector extension', () => {
  const wide = [...['kernels_avx2', 'kernels_avx512'].flatMap(objects), ...bf16Objects()]
  expect(wide.flatMap(vectorStartUp)).toEqual([])
})

onLinuxX64('a planted shared function and a planted vector constructor are found', () => {
  const folder = mkdtempSync(path.join(os.tmpdir(), 'leanformer-symbols-'))
  try {
    const source = path.join(folder, 'planted.cpp')
    const object = path.join(folder, 'planted.o')
    writeFileSync(source, [
      'float next(float);',
      'inline __attribute__((noinline)) float shared(float x) { return next(x) * 2; }',
      'float use(float x) { return shared(x); }',
      'namespace { struct Start { float v[16]; Start() { for (float& x : v) x = next(0.5f); } } const start; }',
    ].join('\n'))
    execFileSync(process.env.CXX ?? 'c++', ['-std=c++20', '-O3', '-fPIC', '-mavx512f', '-c', source, '-o', object])
    expect(sharedSymbols(object)).toEqual(['planted.o: W shared(float)'])
    expect(vectorStartUp(object).length).toBeGreaterThan(0)
  } finally {
    rmSync(folder, { recursive: true })
  }
})

function bf16Objects(): string[] {
  return ['kernels_avx512bf16', 'kernels_amx'].filter((name) => existsSync(path.join(built, `${name}.dir`))).flatMap(objects)
}
