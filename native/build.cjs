'use strict'
// Builds the native code with CMake (through cmake-js, which downloads nothing). npm's install script, binding.gyp and
// `npm run build:native` all come here. Names what is missing, and how to install it, before CMake is started.
//   --config=Release|Debug  --out=FOLDER
//   WITH_CUDA=AUTO|ON|OFF  CUDA_ARCHS=80;90  CUDA_RUNTIME=Static|Shared  CUDA_STACK_ROOT=FOLDERS  JOBS=N  CMAKE_CXX_COMPILER_LAUNCHER=ccache
//   LEANFORMER_WERROR=1 makes warnings errors; LEANFORMER_SANITIZE=1 builds build/Sanitize with ASan and UBSan
const { spawnSync } = require('node:child_process')
const fs = require('node:fs')
const os = require('node:os')
const path = require('node:path')
const { missingPrerequisites } = require('./prerequisites.cjs')

const root = path.resolve(__dirname, '..')
const env = { ...process.env }
for (const key of ['MAKEFLAGS', 'MFLAGS', 'MAKELEVEL']) delete env[key] // node-gyp's make job server is not ours

const option = (name, fallback) => {
  const given = process.argv.find((argument) => argument.startsWith(`--${name}=`))
  return given === undefined ? fallback : given.slice(name.length + 3)
}
const isSet = (name) => ![undefined, '', '0'].includes(env[name])
const sanitize = isSet('LEANFORMER_SANITIZE')
const config = option('config', 'Release')
const out = path.resolve(root, option('out', path.join('build', sanitize ? 'Sanitize' : config)))
const work = path.join(root, 'build', sanitize ? 'cmake-sanitize' : config === 'Release' ? 'cmake' : `cmake-${config}`)

const missing = missingPrerequisites(env)
if (missing) {
  console.error(missing)
  process.exit(1)
}
forgetMovedCache()

const defines = {
  CMAKE_LIBRARY_OUTPUT_DIRECTORY: out,
  SANITIZE: sanitize ? 'ON' : 'OFF',
  WERROR: isSet('LEANFORMER_WERROR') ? 'ON' : 'OFF',
  WITH_CUDA: env.WITH_CUDA || 'AUTO',
}
if (env.CUDA_ARCHS) defines.CMAKE_CUDA_ARCHITECTURES = env.CUDA_ARCHS
if (env.CUDA_RUNTIME) defines.CUDA_RUNTIME = env.CUDA_RUNTIME
if (env.CMAKE_CUDA_COMPILER_LAUNCHER) defines.CMAKE_CUDA_COMPILER_LAUNCHER = env.CMAKE_CUDA_COMPILER_LAUNCHER
if (env.CMAKE_CXX_COMPILER_LAUNCHER) defines.CMAKE_CXX_COMPILER_LAUNCHER = env.CMAKE_CXX_COMPILER_LAUNCHER

const common = ['-d', root, '-O', work, '-B', config, '-l', 'warn']
for (const [name, value] of Object.entries(defines)) common.push(`--CD${name}=${value}`)
const cachedGenerator = cacheEntry('CMAKE_GENERATOR')
if (cachedGenerator) common.push('-G', cachedGenerator) // installing ninja later must not break the next build

// `configure` first: cmake-js' own `build` configures only once, and its `compile` answers an error by starting over.
const jobs = env.JOBS || String(os.availableParallelism())
let status = cmakeJs('configure') || cmakeJs('build', '-p', jobs, '-T', 'addon')
// The optional parts: their failure does not take the install down.
if (!status && cmakeJs('build', '-p', jobs)) {
  if (defines.WITH_CUDA === 'ON') status = 1
  else console.warn('leanformer: the CUDA backend was NOT built, see above. The CPU backend is ready.')
}
if (status) console.error('leanformer: building the native code failed, see above.')
process.exit(status ? 1 : 0)

function cmakeJs(command, ...more) {
  const script = require.resolve('cmake-js/bin/cmake-js')
  const run = spawnSync(process.execPath, [script, command, ...common, ...more], { cwd: root, env, stdio: 'inherit' })
  return run.status ?? 1
}

function cacheEntry(name) {
  const file = path.join(work, 'CMakeCache.txt')
  if (!fs.existsSync(file)) return undefined
  return fs.readFileSync(file, 'utf8').match(new RegExp(`^${name}:[A-Z]+=(.*)$`, 'm'))?.[1]
}

// CMake refuses a cache from another folder, and one whose build tool or compiler is gone.
function forgetMovedCache() {
  const home = cacheEntry('CMAKE_HOME_DIRECTORY')
  if (home === undefined) return
  const gone = ['CMAKE_MAKE_PROGRAM', 'CMAKE_CXX_COMPILER'].some((name) => {
    const program = cacheEntry(name)
    return program && path.isAbsolute(program) && !fs.existsSync(program)
  })
  const headers = (cacheEntry('NODE_API_INCLUDE_DIRS') ?? '').split(';').filter(Boolean)
  if (path.relative(home, root) || gone || headers.some((folder) => !fs.existsSync(folder))) {
    fs.rmSync(work, { recursive: true, force: true })
  }
}
