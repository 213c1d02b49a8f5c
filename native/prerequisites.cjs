'use strict'
// What the native build needs besides npm packages: a C++20 compiler, cmake >= 3.20, and ninja or make. Each missing
// one is named together with the command that installs it.
const { spawnSync } = require('node:child_process')
const fs = require('node:fs')
const path = require('node:path')

const minimumCmake = [3, 20]

const installCommands = {
  compiler: {
    debian: 'sudo apt-get install g++',
    fedora: 'sudo dnf install gcc-c++',
    darwin: 'xcode-select --install',
    win32: 'winget install Microsoft.VisualStudio.2022.BuildTools ' +
      '--override "--add Microsoft.VisualStudio.Workload.VCTools"',
  },
  cmake: {
    debian: 'sudo apt-get install cmake',
    fedora: 'sudo dnf install cmake',
    darwin: 'brew install cmake',
    win32: 'winget install Kitware.CMake',
  },
  buildTool: {
    debian: 'sudo apt-get install ninja-build',
    fedora: 'sudo dnf install ninja-build',
    darwin: 'brew install ninja',
    win32: 'winget install Ninja-build.Ninja',
  },
}
const systems = { debian: 'Debian, Ubuntu', fedora: 'Fedora', darwin: 'macOS', win32: 'Windows' }

// The command for this system; all of them when it is a Linux we do not know.
function howToInstall(what) {
  const commands = installCommands[what]
  let known = process.platform
  if (known === 'linux') {
    const release = fs.existsSync('/etc/os-release') ? fs.readFileSync('/etc/os-release', 'utf8') : ''
    const names = (release.match(/^ID(_LIKE)?=.*$/gm) ?? []).join(' ')
    known = /debian|ubuntu/.test(names) ? 'debian' : /fedora|rhel|centos/.test(names) ? 'fedora' : ''
  }
  if (commands[known]) return `    ${systems[known]}: ${commands[known]}`
  return Object.keys(systems).map((name) => `    ${systems[name]}: ${commands[name]}`).join('\n')
}

function compilerProblem(env) {
  if (process.platform === 'win32') {
    const programs = env['ProgramFiles(x86)'] ?? 'C:\\Program Files (x86)'
    const installer = path.join(programs, 'Microsoft Visual Studio', 'Installer')
    return fs.existsSync(path.join(installer, 'vswhere.exe')) ? '' : 'a C++20 compiler: Visual Studio was not found'
  }
  const candidates = env.CXX ? [env.CXX] : ['c++', 'g++', 'clang++']
  const tooOld = []
  for (const candidate of candidates) {
    const [program, ...flags] = candidate.split(/\s+/)
    const input = '#include <bit>\n#include <span>\nint main() { return std::countr_zero(1u); }\n'
    const args = [...flags, '-std=c++20', '-fsyntax-only', '-x', 'c++', '-']
    const run = spawnSync(program, args, { env, input, encoding: 'utf8' })
    if (run.status === 0) return ''
    if (!run.error) tooOld.push(`${candidate} cannot compile C++20: ${run.stderr.trim().split('\n')[0]}`)
  }
  const found = tooOld.join('; ') || `none of ${candidates.join(', ')} was found`
  return `a C++20 compiler (g++ >= 10 or clang++ >= 12): ${found}`
}

function cmakeProblem(env) {
  const needed = `cmake >= ${minimumCmake.join('.')}`
  const run = spawnSync('cmake', ['--version'], { env, encoding: 'utf8' })
  if (run.error || run.status !== 0) return `${needed}: cmake was not found`
  const [major, minor] = (run.stdout.match(/(\d+)\.(\d+)/) ?? ['', '0', '0']).slice(1).map(Number)
  const enough = major > minimumCmake[0] || (major === minimumCmake[0] && minor >= minimumCmake[1])
  return enough ? '' : `${needed}: found ${major}.${minor}`
}

function buildToolProblem(env) {
  if (process.platform === 'win32') return '' // comes with Visual Studio
  const found = ['ninja', 'make'].some((tool) => !spawnSync(tool, ['--version'], { env }).error)
  return found ? '' : 'ninja or make: neither was found'
}

// A text that names everything missing, or '' when nothing is.
function missingPrerequisites(env) {
  const problems = { compiler: compilerProblem(env), cmake: cmakeProblem(env), buildTool: buildToolProblem(env) }
  const lines = Object.entries(problems)
    .filter(([, problem]) => problem)
    .map(([what, problem]) => `  - ${problem}\n${howToInstall(what)}`)
  if (lines.length === 0) return ''
  return ['leanformer: its native code is compiled during the install, and this is missing:', ...lines,
    'Then run the install again (npm ci, or npm rebuild leanformer).'].join('\n')
}

module.exports = { missingPrerequisites }
