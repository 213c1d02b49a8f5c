// `npm run bench` times every operator (bench/ops); `npm run bench -- step` times whole training steps, against PyTorch
// where LEANFORMER_PYTHON names a Python that has it (bench/step);
// `npm run bench -- memory` steps with checkpointing and offloading (bench/memory);
// `npm run bench -- gpu` the baselines of a GPU, `gpu-report` its kernels one by one (bench/gpu); `npm run bench -- attention`
// dense, block-sparse and CSR attention and where they cross (bench/attention). Further arguments go to each.
if (process.argv[2] === 'step') {
  process.argv.splice(2, 1)
  await import('./step/run')
} else if (process.argv[2] === 'memory') {
  process.argv.splice(2, 1)
  await import('./memory/run')
} else if (process.argv[2] === 'gpu') {
  process.argv.splice(2, 1)
  await import('./gpu/run')
} else if (process.argv[2] === 'gpu-report') {
  process.argv.splice(2, 1)
  await import('./gpu/report')
} else if (process.argv[2] === 'attention') {
  process.argv.splice(2, 1)
  await import('./attention/run')
} else {
  await import('./ops/run')
}
export {}
