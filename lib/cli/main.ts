#!/usr/bin/env node
// The executable. Each command's module is loaded when it is called for.

import { main } from './program'

// A reader that has seen enough, as `| head` does.
process.stdout.on('error', (error: NodeJS.ErrnoException) => {
  if (error.code !== 'EPIPE') throw error
  process.exit()
})

process.exitCode = await main(process.argv.slice(2), process.stderr, {
  train: async (flags) => {
    const [{ trainCommand }, { startTraining }] = await Promise.all([import('./train'), import('./training_run')])
    return trainCommand(flags, startTraining)
  },
  sample: async (flags) => (await import('./sample')).sampleCommand(flags),
  prune: async (flags) => (await import('./compress')).pruneCommand(flags),
  quantise: async (flags) => (await import('./compress')).quantiseCommand(flags),
  kernels: async (flags) => (await import('./kernels')).kernelsCommand(flags),
  techniques: async (flags) => (await import('./techniques')).techniquesCommand(flags),
  info: async (flags) => (await import('./info')).infoCommand(flags),
  bench: async (flags) => (await import('./bench')).benchCommand(flags),
  demo: async (flags) => (await import('./demo')).demoCommand(flags),
})
