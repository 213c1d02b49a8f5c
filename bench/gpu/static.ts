// What the compiler made of the CUDA kernels: registers, stack and spills of every one, by architecture, from `ptxas -v`, and
// whether those that multiply matrices do so on tensor cores (mma.sync in their PTX, which ptxas turns into one instruction).
//
//   npm run bench -- gpu-static                   compiles native/cuda for sm_80 and sm_90; the table goes into docs/gpu.json and docs/gpu.md
//   npm run bench -- gpu-static --check           changes nothing; fails where a hot kernel has a stack or spills, or no tensor cores
//   npm run bench -- gpu-static --only attention --arch 75,120
//
// It needs nvcc, no GPU; where cuBLASLt and cuSPARSE came from pip, CUDA_STACK_ROOT names their folder.
import { spawn } from 'node:child_process'
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { parseArgs } from 'node:util'
import { renderReport, type Compiled, type Report } from './report_page'

const { values } = parseArgs({
  allowPositionals: true,
  options: {
    check: { type: 'boolean', default: false },
    only: { type: 'string', default: '' },
    arch: { type: 'string', default: '80,90' },
    jobs: { type: 'string', default: '2' },
  },
})
const archs = values.arch.split(',')
const sources = path.join('native', 'cuda')
const scratch = mkdtempSync(path.join(os.tmpdir(), 'leanformer-gpu-static-'))

/** Folders with the headers of the libraries. */
function includes(): string[] {
  const root = process.env.CUDA_STACK_ROOT
  const wheels = root && existsSync(path.join(root, 'nvidia')) ? readdirSync(path.join(root, 'nvidia')).map((name) => path.join(root, 'nvidia', name, 'include')) : []
  return ['native', path.join('build', 'cmake', 'generated'), ...(root ? [path.join(root, 'include')] : []), ...wheels].filter((folder) => existsSync(folder))
}

interface Kernel {
  arch: string
  mangled: string
  registers: number
  stack: number
  spills: number
  tensor: boolean
}

/** Kernels of a folder of PTX files that multiply on tensor cores. */
function onTensorCores(folder: string): Set<string> {
  const found = new Set<string>()
  for (const name of readdirSync(folder).filter((each) => each.endsWith('.ptx'))) {
    for (const part of readFileSync(path.join(folder, name), 'utf8').split('.entry ').slice(1)) {
      if (part.includes('mma.sync')) found.add(/^\w+/.exec(part)![0])
    }
  }
  return found
}

/** The kernels of one file. */
async function compile(file: string): Promise<Kernel[]> {
  const kept = mkdtempSync(path.join(scratch, 'kept-'))
  const args = ['--keep', '--keep-dir', kept, '-std=c++17', '-O3', '--expt-relaxed-constexpr', '--extended-lambda', '-Xptxas', '-v', '-fatbin', path.join(sources, file), '-o', path.join(scratch, `${file}.fatbin`)]
  for (const arch of archs) args.push(`-gencode=arch=compute_${arch},code=sm_${arch}`)
  for (const folder of includes()) args.push(`-I${folder}`)
  const child = spawn('nvcc', args, { stdio: ['ignore', 'ignore', 'pipe'] })
  let text = ''
  child.stderr.on('data', (chunk) => (text += chunk))
  const code = await new Promise((resolve, reject) => child.on('error', reject).on('close', resolve))
  if (code !== 0) throw new Error(`nvcc ${args.join(' ')}\n${text}`)
  const kernels: Kernel[] = []
  for (const line of text.split('\n')) {
    const entry = /Compiling entry function '(\S+)' for '(sm_\w+)'/.exec(line)
    if (entry) kernels.push({ arch: entry[2], mangled: entry[1], registers: 0, stack: 0, spills: 0, tensor: false })
    const last = kernels.at(-1)
    const frame = /(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads/.exec(line)
    if (last && frame) Object.assign(last, { stack: last.stack + Number(frame[1]), spills: last.spills + Number(frame[2]) + Number(frame[3]) })
    const used = /Used (\d+) registers/.exec(line)
    if (last && used) last.registers = Number(used[1])
  }
  const tensor = onTensorCores(kept)
  for (const kernel of kernels) kernel.tensor = tensor.has(kernel.mangled)
  rmSync(kept, { recursive: true, force: true })
  return kernels
}

// Kernels of f64 are for checks of gradients: their parameters or their functions' arguments are doubles. Sine and cosine of f32
// keep a stack for arguments above 105615 that they do not touch below, and the plan of a block-sparse pattern is made once.
const cold = /(sin|cos)_(gradient_)?of|block_sparse_plan_kernel/
const wide = /(Id|IdL|dE|Kd|Pd)/
const hot = ({ mangled }: Kernel) => !cold.test(mangled) && !wide.test(mangled.replace(/^_ZN2lf4cuda\d+_GLOBAL__N__\w*?_cu_[0-9a-f]+_\d+/, ''))

// Products that are not in cuBLASLt or cuSPARSE. The plain attention kernels are for formats and widths without tensor cores (f64,
// heads above 256 columns, f32 features or values narrower than 32) and for chips before sm_80; sparse_kernel gathers single numbers.
const multiplies = /attention_mma_|feature_mma_|int8_matmul.*product_kernel/

const files = readdirSync(sources).filter((name) => name.endsWith('.cu') && name.includes(values.only))
const compiled: Compiled[] = []
const misses: string[] = []
try {
  const waiting = [...files]
  const worker = async () => {
    for (let file = waiting.shift(); file; file = waiting.shift()) {
      const kernels = await compile(file)
      for (const arch of archs.map((name) => `sm_${name}`)) {
        const own = kernels.filter((kernel) => kernel.arch === arch)
        if (!own.length) continue
        const bad = own.filter((kernel) => kernel.stack > 0 || kernel.spills > 0)
        const registers = Math.max(...own.filter(hot).map((kernel) => kernel.registers), 0)
        compiled.push({ file, arch, kernels: own.length, registers, hot: bad.filter(hot).length, cold: bad.filter((kernel) => !hot(kernel)).length, tensor: own.filter(({ tensor }) => tensor).length })
        for (const kernel of bad.filter(hot)) misses.push(`${file} ${arch} ${kernel.mangled}: ${kernel.stack} bytes of stack, ${kernel.spills} of spills`)
        for (const { mangled } of own.filter((kernel) => multiplies.test(kernel.mangled) && !kernel.tensor)) misses.push(`${file} ${arch} ${mangled}: no tensor-core instruction`)
        console.log(`${file.padEnd(28)} ${arch} ${String(own.length).padStart(4)} kernels, at most ${registers} registers, ${bad.length} with stack or spills, ${own.filter(({ tensor }) => tensor).length} on tensor cores`)
      }
    }
  }
  await Promise.all(Array.from({ length: Number(values.jobs) }, worker))
} finally {
  rmSync(scratch, { recursive: true, force: true })
}
for (const miss of misses) console.log(miss)
console.log(`${files.length} files, ${compiled.reduce((n, each) => n + each.kernels, 0)} kernels, ${misses.length} misses`)
if (values.check) {
  process.exitCode = misses.length ? 1 : 0
} else {
  const reportFile = path.join('docs', 'gpu.json')
  const known = JSON.parse(readFileSync(reportFile, 'utf8')) as Report
  const fresh = new Set(compiled.map(({ file, arch }) => `${file} ${arch}`))
  known.compiled = [...(known.compiled ?? []).filter(({ file, arch }) => !fresh.has(`${file} ${arch}`)), ...compiled].sort((a, b) =>
    `${a.file} ${a.arch}`.localeCompare(`${b.file} ${b.arch}`),
  )
  writeFileSync(reportFile, JSON.stringify(known, null, 1) + '\n')
  writeFileSync(path.join('docs', 'gpu.md'), renderReport(known))
}
