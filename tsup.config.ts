// One declaration file of each format for each file of the library. scripts/build.mjs builds the JavaScript.
import { defineConfig } from 'tsup'

export default defineConfig({
  entry: ['lib/**/*.ts', '!lib/**/*.d.ts', '!lib/cli/**'],
  target: 'node20',
  platform: 'node',
  format: ['esm', 'cjs'],
  dts: { only: true },
  silent: true,
})
