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
    source: 'measured on NVIDIA H100 80GB HBM3',
    f32: {
      dense: { forward: { call: 0.000117, pair: 0, pairWidth: 1.15e-13 }, backward: { call: 0.000529, pair: 0, pairWidth: 3.93e-13 } },
      block_sparse: { forward: { call: 0.0000821, pair: 2.96e-13, pairWidth: 1.67e-13 }, backward: { call: 0.000104, pair: 0, pairWidth: 6.19e-13 } },
      csr: { forward: { call: 0.000644, pair: 0, pairWidth: 8e-13 }, backward: { call: 0.00117, pair: 0, pairWidth: 2.46e-12 } },
    },
    bf16: {
      dense: { forward: { call: 0.0000489, pair: 0, pairWidth: 1.14e-14 }, backward: { call: 0.000126, pair: 0, pairWidth: 3.86e-14 } },
      block_sparse: { forward: { call: 0.000206, pair: 2.83e-12, pairWidth: 5.09e-14 }, backward: { call: 0.000248, pair: 9.95e-12, pairWidth: 8.08e-14 } },
      csr: { forward: { call: 0.000661, pair: 0, pairWidth: 7.52e-13 }, backward: { call: 0.00127, pair: 0, pairWidth: 2.11e-12 } },
    },
  },
}
