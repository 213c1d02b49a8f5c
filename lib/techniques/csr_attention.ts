// Attention over a pattern's pairs, element by element, in every layer: a list of pairs (on CUDA through cuSPARSE), or blocks
// where they take less time (lib/attention/crossover.ts). Patterns that are not causal are made so; random blocks are a
// function of the seed. Patterns and sources: lib/attention/patterns.ts.
import type { AttentionForecast } from '../attention/crossover'
import { csrKernel, sparseKernel } from '../attention/kernels'
import { bigbird, causal, localCausal, longformer, strided } from '../attention/patterns'
import type { Pattern } from '../ops/block_sparse_attention'
import { attentionLayers } from './layers'
import { defineTechnique } from './technique'

export const csrAttention = defineTechnique({
  name: 'csr_attention',
  title: 'Element-sparse attention over CSR pairs: local, strided, dilated Longformer, BigBird',
  category: 'attention',
  source: 'Child et al., arXiv 1904.10509; Beltagy et al., arXiv 2004.05150; Zaheer et al., arXiv 2007.14062; NVIDIA cuSPARSE',
  settings: {
    pattern: { default: 'longformer', choices: ['local', 'strided', 'longformer', 'bigbird'], help: 'which pairs are seen' },
    window: { default: 128, min: 0, integer: true, help: 'tokens seen before (local, longformer), stride (strided); 0: off' },
    dilation: { default: 2, min: 1, integer: true, help: 'every so many-th token of the window, in every second head (longformer)' },
    globals: { default: 1, min: 0, integer: true, help: 'first tokens that all see (longformer)' },
    random: { default: 3, min: 0, integer: true, help: 'random blocks a row (bigbird)' },
    block: { default: '64', choices: ['16', '32', '64', '128'], help: 'tokens of a block (bigbird, and where blocks are chosen)' },
    seed: { default: 0, min: 0, integer: true, help: 'of the random blocks' },
    by: { default: 'auto', choices: ['auto', 'list'], help: 'auto: by blocks where they are forecast to take less time' },
  },
  decides: ['attention_kernel'],
  neutral: { settings: { window: 0 } },
  make: ({ pattern, window, dilation, globals, random, block, seed, by }) => {
    const size = Number(block)
    const make: Record<string, (heads: number) => Pattern> = {
      local: () => localCausal(window),
      strided: (heads) => strided(window, heads),
      longformer: (heads) =>
        causal(longformer(2 * window, Array.from({ length: heads }, (_, h) => (h % 2 ? dilation : 1)), Array.from({ length: globals }, (_, i) => i))),
      bigbird: () => causal(bigbird({ random, seed, block: size })),
    }
    const forecasts = new Map<string, AttentionForecast>()
    return {
      adapt(model) {
        if (window === 0) return
        for (const attention of attentionLayers(model, 'csr_attention')) {
          const chosen = make[pattern](attention.heads)
          attention.kernel = by === 'list' ? csrKernel(chosen, size) : sparseKernel(chosen, size, (forecast) => forecasts.set(forecast.reason, forecast))
        }
      },
      summary: () =>
        Promise.resolve(
          [...forecasts.values()].map(({ reason, way, seconds }) => {
            const taken = seconds.csr < seconds.block_sparse ? 'csr' : 'block_sparse'
            return way === taken ? `csr_attention: ${reason}` : `csr_attention: by ${taken}, as dense attention sees other pairs, but: ${reason}`
          }),
        ),
    }
  },
})
