// Constants of lib/attention/crossover.ts, in seconds. Written by `npm run bench -- attention --fit` for the device that it
// ran on; what no benchmark has measured yet says so.
import type { DeviceCosts } from './crossover'

export const costs: Record<'cpu' | 'cuda', DeviceCosts> = {
  cpu: {
    source: 'measured on AMD EPYC, 2 threads',
    f32: {
      dense: { forward: { call: 0.000286, pair: 0, pairWidth: 3.21e-11 }, backward: { call: 0, pair: 0, pairWidth: 8.69e-11 } },
      block_sparse: { forward: { call: 0.00022, pair: 5.06e-10, pairWidth: 2.27e-11 }, backward: { call: 0.0000717, pair: 8.9e-10, pairWidth: 5.42e-11 } },
      csr: { forward: { call: 0.000488, pair: 9.6e-10, pairWidth: 7.25e-11 }, backward: { call: 0.000498, pair: 0, pairWidth: 4.38e-10 } },
    },
    bf16: {
      dense: { forward: { call: 0.000406, pair: 0, pairWidth: 1.19e-11 }, backward: { call: 0, pair: 9.65e-10, pairWidth: 2.77e-11 } },
      block_sparse: { forward: { call: 0.00038, pair: 2.27e-11, pairWidth: 2.22e-11 }, backward: { call: 0, pair: 2.38e-12, pairWidth: 6.98e-11 } },
      csr: { forward: { call: 0.000543, pair: 0, pairWidth: 8.69e-11 }, backward: { call: 0.000563, pair: 0, pairWidth: 4.03e-10 } },
    },
  },
  cuda: {
    source: 'roofline of an H100, not measured',
    f32: {
      dense: { forward: { call: 0.0000025, pair: 0, pairWidth: 6e-14 }, backward: { call: 0.0000075, pair: 0, pairWidth: 1.5e-13 } },
      block_sparse: { forward: { call: 0.000005, pair: 0, pairWidth: 6e-14 }, backward: { call: 0.0000125, pair: 0, pairWidth: 1.5e-13 } },
      csr: { forward: { call: 0.0000125, pair: 7.2e-12, pairWidth: 1.5e-12 }, backward: { call: 0.00002, pair: 1.9e-11, pairWidth: 3.6e-12 } },
    },
    bf16: {
      dense: { forward: { call: 0.0000025, pair: 0, pairWidth: 4e-15 }, backward: { call: 0.0000075, pair: 0, pairWidth: 1e-14 } },
      block_sparse: { forward: { call: 0.000005, pair: 0, pairWidth: 4e-15 }, backward: { call: 0.0000125, pair: 0, pairWidth: 1e-14 } },
      csr: { forward: { call: 0.0000125, pair: 7.2e-12, pairWidth: 1.5e-12 }, backward: { call: 0.00002, pair: 1.9e-11, pairWidth: 3.6e-12 } },
    },
  },
}
