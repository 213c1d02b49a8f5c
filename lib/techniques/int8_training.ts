// Forward products of int8: every matrix of attention and feed-forward multiplies codes, of each token and of each output,
// with sums in i32; gradients are products in the run's own format, of the numbers before rounding, and masters stay f32.
// What it saves is the time of forward products on machines that multiply int8 faster (`npm run bench -- low-precision`).
// Source: Wortsman et al., arXiv 2304.13013; Dettmers et al., arXiv 2208.07339.
import { Int8Product } from '../nn/integer_linear'
import { hiddenProducts, productExcludes } from './products'
import { defineTechnique } from './technique'

export const int8Training = defineTechnique({
  name: 'int8_training',
  title: 'Forward products of int8 codes, gradients in full',
  category: 'low precision',
  source: 'Wortsman et al., arXiv 2304.13013',
  settings: {},
  excludes: productExcludes('int8_training'),
  neutral: 'none: rounding to 8 bits has no strength',
  make: () => ({
    adapt(model) {
      for (const layer of hiddenProducts(model, 'int8_training')) layer.adapter = new Int8Product()
    },
  }),
})
