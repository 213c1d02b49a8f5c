// Constants of lib/attention/crossover.ts, in seconds. Written by `npm run bench -- attention --fit` for the device that it
// ran on; what no benchmark has measured yet says so.
import type { DeviceCosts } from './crossover'

export const costs: Record<'cpu' | 'cuda', DeviceCosts> = {
  cpu: {
    source: 'measured on Intel(R) Xeon(R) Processor, 2 threads',
    f32: {
      dense: { forward: { call: 0.00014, pair: 4.18e-10, pairWidth: 2.6e-11 }, backward: { call: 0.00014, pair: 0, pairWidth: 6.79e-11 } },
      block_sparse: { forward: { call: 0.000166, pair: 1.02e-10, pairWidth: 2.65e-11 }, backward: { call: 0.000132, pair: 0, pairWidth: 7.15e-11 } },
      csr: { forward: { call: 0.000189, pair: 1.64e-9, pairWidth: 6.05e-11 }, backward: { call: 0.000308, pair: 2.49e-9, pairWidth: 1.97e-10 } },
    },
    bf16: {
      dense: { forward: { call: 0.00018, pair: 0, pairWidth: 9.81e-12 }, backward: { call: 0.000269, pair: 0, pairWidth: 2.27e-11 } },
      block_sparse: { forward: { call: 0.0000743, pair: 3.21e-10, pairWidth: 8.17e-12 }, backward: { call: 0.000173, pair: 0, pairWidth: 2.39e-11 } },
      csr: { forward: { call: 0.00026, pair: 1.61e-10, pairWidth: 1.32e-10 }, backward: { call: 0.000422, pair: 0, pairWidth: 3.76e-10 } },
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
