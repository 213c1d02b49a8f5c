// Tests run the TypeScript sources; swc strips the types and lowers `using`. Type errors are for `npm run typecheck`.
module.exports = {
  testEnvironment: 'node',
  roots: ['<rootDir>/test'],
  testMatch: ['**/*.test.ts'],
  // Times want a machine of their own, one test at a time: npm run test:timing.
  testPathIgnorePatterns: ['/node_modules/', '<rootDir>/test/timing/'],
  maxWorkers: 2,
  // Forces worker processes, so that a crash of native code is pinned on its test file.
  workerIdleMemoryLimit: '2GB',
  // For what hangs; a machine that others keep busy may be slow.
  testTimeout: 180_000,
  // Another device for what tests make without naming one; scripts/test_gpusim.mjs sets it.
  setupFiles: process.env.LEANFORMER_TEST_DEFAULT_DEVICE ? ['<rootDir>/test/support/default_device.ts'] : [],
  transform: {
    '^.+\\.ts$': [
      '@swc/jest',
      {
        jsc: { target: 'es2022', parser: { syntax: 'typescript' } },
        module: { type: 'commonjs' },
        sourceMaps: 'inline',
      },
    ],
  },
}
