// Constants of lib/attention/crossover.ts, in seconds. Written by `npm run bench -- attention --fit` for the device that it
// ran on; what no benchmark has measured yet says so.
import type { DeviceCosts } from './crossover'

export const costs: Record<'cpu' | 'cuda', DeviceCosts> = {
  cpu: {
    source: 'measured on AMD EPYC, 2 threads',
    f32: {
      dense: { forward: { call: 0, pair: 7.37e-10, pairWidth: 1.59e-11 }, backward: { call: 0.000342, pair: 0, pairWidth: 3.44e-11 } },
      block_sparse: { forward: { call: 0.000192, pair: 1.24e-10, pairWidth: 1.6e-11 }, backward: { call: 0.00015, pair: 0, pairWidth: 4.12e-11 } },
      csr: { forward: { call: 0.000208, pair: 3.21e-10, pairWidth: 5.64e-11 }, backward: { call: 0.00028, pair: 0, pairWidth: 1.78e-10 } },
    },
    bf16: {
      dense: { forward: { call: 0.000186, pair: 0, pairWidth: 1.02e-11 }, backward: { call: 0.000178, pair: 0, pairWidth: 2.05e-11 } },
      block_sparse: { forward: { call: 0.000141, pair: 2.36e-10, pairWidth: 1.93e-11 }, backward: { call: 0.0000132, pair: 6.72e-10, pairWidth: 3.99e-11 } },
      csr: { forward: { call: 0.00024, pair: 0, pairWidth: 8.17e-11 }, backward: { call: 0.000319, pair: 5.55e-11, pairWidth: 2.04e-10 } },
    },
  },
  cuda: {
    source: 'measured on NVIDIA H200',
    f32: {
      dense: { forward: { call: 0.000111, pair: 0, pairWidth: 1.1e-13 }, backward: { call: 0.000353, pair: 0, pairWidth: 3.64e-13 } },
      block_sparse: { forward: { call: 0.000104, pair: 2.03e-12, pairWidth: 1.61e-13 }, backward: { call: 0.0000729, pair: 0, pairWidth: 5.99e-13 } },
      csr: { forward: { call: 0.000552, pair: 0, pairWidth: 7.46e-13 }, backward: { call: 0.00113, pair: 0, pairWidth: 2.07e-12 } },
    },
    bf16: {
      dense: { forward: { call: 0.0000451, pair: 0, pairWidth: 1.14e-14 }, backward: { call: 0.000113, pair: 0, pairWidth: 3.89e-14 } },
      block_sparse: { forward: { call: 0.00000593, pair: 4.01e-12, pairWidth: 5.91e-14 }, backward: { call: 0.000138, pair: 8.86e-12, pairWidth: 1.11e-13 } },
      csr: { forward: { call: 0.000542, pair: 0, pairWidth: 7.33e-13 }, backward: { call: 0.00112, pair: 0, pairWidth: 2.06e-12 } },
    },
  },
}
