// What the build decides about CUDA on three machines: without nvcc, with nvcc alone, with everything. CMake configures a
// project that only asks cmake/CudaStack.cmake, with the pieces hidden or shown.
import { execFileSync, spawnSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'

const root = path.resolve(__dirname, '../..')
const work = mkdtempSync(path.join(os.tmpdir(), 'leanformer-cuda-stack-'))
afterAll(() => rmSync(work, { recursive: true, force: true }))

/** Configures a project that only includes cmake/CudaStack.cmake; resolves to the reason it gives. */
function skipReason(name: string, options: { path?: string; stackRoot?: string; withCuda?: string }): { reason: string; status: number; output: string } {
  const source = path.join(work, name)
  mkdirSync(source)
  writeFileSync(
    path.join(source, 'CMakeLists.txt'),
    'cmake_minimum_required(VERSION 3.20)\nproject(stack LANGUAGES CXX)\n' +
      `include("${root}/cmake/CudaStack.cmake")\nfile(WRITE "${source}/reason.txt" "\${CUDA_SKIP_REASON}")\n`,
  )
  mkdirSync(path.join(source, 'native/cuda'), { recursive: true })
  writeFileSync(path.join(source, 'native/cuda/any.cu'), '')
  const env: Record<string, string | undefined> = { ...process.env, CUDACXX: '', CUDA_HOME: '', CUDA_PATH: '', CUDA_STACK_ROOT: options.stackRoot ?? '' }
  if (options.path) env.PATH = options.path
  const cmake = execFileSync('which', ['cmake'], { encoding: 'utf8' }).trim()
  const flags = [`-DWITH_CUDA=${options.withCuda ?? 'AUTO'}`]
  if (options.path) flags.push('-DCMAKE_IGNORE_PATH=/usr/local/cuda/bin;/opt/cuda/bin;/usr/local/bin')
  const run = spawnSync(cmake, ['-S', source, '-B', path.join(source, 'build'), ...flags], { env, encoding: 'utf8' })
  const reason = run.status === 0 ? readFileSync(path.join(source, 'reason.txt'), 'utf8') : ''
  return { reason, status: run.status ?? 1, output: run.stdout + run.stderr }
}

/** A nvcc that answers the one question the build asks of it. */
function pretendedNvcc(): string {
  const bin = path.join(work, 'bin')
  mkdirSync(bin)
  writeFileSync(path.join(bin, 'nvcc'), `#!/bin/sh\necho '#$ TOP=${work}/toolkit' >&2\n`, { mode: 0o755 })
  return bin
}

/** A folder as `pip install --target` leaves it. */
function pretendedWheels(): string {
  const folder = path.join(work, 'wheels/nvidia/cu13')
  for (const [file, text] of [
    ['include/cublasLt.h', ''],
    ['include/cusparse.h', ''],
    ['lib/libcublasLt.so.13', ''],
    ['lib/libcusparse.so.12', ''],
  ]) {
    mkdirSync(path.dirname(path.join(folder, file)), { recursive: true })
    writeFileSync(path.join(folder, file), text)
  }
  return path.join(work, 'wheels')
}

const bare = '/usr/bin:/bin'

test('without nvcc, with nvcc alone, with everything', () => {
  const without = skipReason('without', { path: bare })
  expect(without.reason).toContain('nvcc was not found')
  expect(without.reason).toContain('CUDA_STACK_ROOT')

  const nvcc = pretendedNvcc()
  const alone = skipReason('alone', { path: `${nvcc}:${bare}` })
  expect(alone.reason).toMatch(/nvcc was found but the toolkit is incomplete: missing cublasLt headers, cublasLt library, cusparse headers, cusparse library/)
  expect(alone.reason).toContain('set CUDA_STACK_ROOT')

  const whole = skipReason('whole', { path: `${nvcc}:${bare}`, stackRoot: pretendedWheels() })
  expect(whole.reason).toBe('')
}, 60_000)

test('WITH_CUDA=ON makes what is missing an error, OFF asks nothing', () => {
  const on = skipReason('on', { path: bare, withCuda: 'ON' })
  expect(on.status).not.toBe(0)
  expect(on.output).toContain('WITH_CUDA=ON, but nvcc was not found')
  expect(skipReason('off', { path: bare, withCuda: 'OFF' }).reason).toBe('switched off at build time (WITH_CUDA=OFF)')
}, 60_000)
