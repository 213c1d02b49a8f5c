// `npm run bench` times every operator (bench/ops); `npm run bench -- NAME` runs one of the others, and further arguments go
// to it.
const benchmarks: Readonly<Partial<Record<string, () => Promise<unknown>>>> = {
  // Whole training steps, against PyTorch where LEANFORMER_PYTHON names a Python that has it.
  step: () => import('./step/run'),
  // Matrix products, against the machine's ceiling and PyTorch.
  matmul: () => import('./matmul/run'),
  // Steps with checkpointing and offloading.
  memory: () => import('./memory/run'),
  // Offloading beside a GPU's work, and against what the bandwidth says.
  offload: () => import('./offload/run'),
  // The baselines of a GPU, its kernels one by one, and what the compiler made of them.
  gpu: () => import('./gpu/run'),
  'gpu-report': () => import('./gpu/report'),
  'gpu-static': () => import('./gpu/static'),
  // Dense, block-sparse and CSR attention and where they cross.
  attention: () => import('./attention/run'),
  // From which density on products with sparse matrices are faster.
  sparse: () => import('./sparse/run'),
  // Importing the library in a fresh process.
  import: () => import('./import/run'),
  // Products of int8 codes.
  'low-precision': () => import('./low_precision/run'),
}
const chosen = benchmarks[process.argv[2]]
if (chosen) process.argv.splice(2, 1)
await (chosen ? chosen() : import('./ops/run'))
export {}
