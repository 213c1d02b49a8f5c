// FP8: matrices of attention and feed-forward multiply numbers of 8-bit floating formats, E4M3 forward and E5M2 for gradients
// (nn/fp8_linear.ts). Embeddings, heads, norms, softmax and the optimiser stay as they are. The formats are emulated, exactly:
// what is saved here is the memory of activations kept for the backward pass, not time.
// Source: Micikevicius et al., arXiv 2209.05433.
import { Fp8Product, type Fp8Options } from '../nn/fp8_linear'
import { hiddenProducts, productExcludes } from './products'
import { defineTechnique } from './technique'

export const fp8 = defineTechnique({
  name: 'fp8',
  title: 'Products in 8-bit floating formats, with delayed or current scaling',
  category: 'low precision',
  source: 'Micikevicius et al., arXiv 2209.05433',
  settings: {
    scaling: { default: 'delayed', choices: ['delayed', 'current'], help: 'from the largest magnitudes of the last steps, or of each tensor itself' },
    history: { default: 1024, min: 1, integer: true, help: 'steps that a delayed scale looks back' },
    margin: { default: 0, min: 0, integer: true, help: 'powers of 2 left free above the largest magnitude' },
  },
  excludes: { ...productExcludes('fp8'), importance_sampling: 'norms of single gradients are not known for products of codes' },
  neutral: 'none: rounding to 8 bits has no strength',
  make: (settings) => {
    let products: Fp8Product[] = []
    return {
      adapt(model) {
        products = hiddenProducts(model, 'fp8').map((layer) => {
          const product = new Fp8Product(layer, settings as Fp8Options)
          layer.adapter = product
          return product
        })
      },
      step(next) {
        next()
        for (const product of products) product.fold()
      },
    }
  },
})
