// Builds dist/: one ESM, one CJS and one declaration file for each file of lib/, so that deep imports such as
// `leanformer/nn/linear` work. Splitting keeps module state shared among the files of one format. The command line is
// ESM alone. `shims` gives CJS its `import.meta.url`. Cleaning is up to scripts/build.mjs, since the three builds run
// side by side.
import { defineConfig, type Options } from 'tsup'

const sources = ['lib/**/*.ts', '!lib/**/*.d.ts']
const library = [...sources, '!lib/cli/**']
const common: Options = { target: 'node20', platform: 'node', splitting: true, silent: true }

export default defineConfig([
  { ...common, entry: sources, format: 'esm', sourcemap: true },
  { ...common, entry: library, format: 'cjs', sourcemap: true, shims: true },
  { ...common, entry: library, format: ['esm', 'cjs'], dts: { only: true } },
])
