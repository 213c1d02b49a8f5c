// Block-sparse attention in every layer, by one of the known patterns, made causal where it is not. Blocks that are not seen
// cost nothing; random blocks are a function of the seed. Patterns and sources: lib/attention/patterns.ts.
import { blockSparseKernel } from '../attention/kernels'
import { bigbird, causal, fixed, localCausal, longformer, strided } from '../attention/patterns'
import type { Pattern } from '../ops/block_sparse_attention'
import { attentionLayers } from './layers'
import { defineTechnique } from './technique'

export const blockSparse = defineTechnique({
  name: 'block_sparse',
  title: 'Block-sparse attention: local, strided, fixed, Longformer, BigBird',
  category: 'attention',
  source: 'Child et al., arXiv 1904.10509; Beltagy et al., arXiv 2004.05150; Zaheer et al., arXiv 2007.14062',
  settings: {
    pattern: { default: 'local', choices: ['local', 'strided', 'fixed', 'longformer', 'bigbird'], help: 'which blocks are seen' },
    window: { default: 256, min: 0, integer: true, help: 'tokens seen before (local, longformer), stride or stretch (strided, fixed); 0: off' },
    summary: { default: 8, min: 1, integer: true, help: 'last tokens of a stretch that later ones see (fixed)' },
    globals: { default: 1, min: 0, integer: true, help: 'first tokens that all see (longformer)' },
    random: { default: 3, min: 0, integer: true, help: 'random blocks a row (bigbird)' },
    block: { default: '64', choices: ['16', '32', '64', '128'], help: 'tokens of a block' },
    seed: { default: 0, min: 0, integer: true, help: 'of the random blocks' },
  },
  decides: ['attention_kernel'],
  neutral: { settings: { window: 0 } },
  make: ({ pattern, window, summary, globals, random, block, seed }) => {
    const size = Number(block)
    const make: Record<string, (heads: number) => Pattern> = {
      local: () => localCausal(window),
      strided: (heads) => strided(window, heads),
      fixed: () => fixed(window, summary),
      longformer: () => causal(longformer(2 * window, [1], Array.from({ length: globals }, (_, i) => i))),
      bigbird: () => causal(bigbird({ random, seed, block: size })),
    }
    return {
      adapt(model) {
        if (window === 0) return
        for (const attention of attentionLayers(model, 'block_sparse')) attention.kernel = blockSparseKernel(make[pattern](attention.heads), size)
      },
    }
  },
})
