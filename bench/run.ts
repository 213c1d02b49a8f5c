// `npm run bench` times every operator (bench/ops); `npm run bench -- step` times whole training steps, against PyTorch
// where LEANFORMER_PYTHON names a Python that has it (bench/step). Further arguments go to either.
if (process.argv[2] === 'step') {
  process.argv.splice(2, 1)
  await import('./step/run')
} else {
  await import('./ops/run')
}
export {}
