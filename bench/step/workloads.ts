// The workloads of `npm run bench -- step`, as both sides take them: shape of the model, of a batch, and the dtype.
export interface Workload {
  model: 'gpt' | 'llama' | 'bert'
  layers: number
  width: number
  heads: number
  kv_heads?: number
  hidden?: number
  context: number
  batch: number
  vocab: number
  /** Steps a turn; the first of them is not counted. */
  steps: number
  /** Tokens generated in a turn after a prompt of as many, instead of training. */
  generate?: number
}

const gpt2 = { model: 'gpt', layers: 12, width: 768, heads: 12, context: 256, vocab: 50257 } as const

export const workloads: Record<string, Workload> = {
  gpt6x384: { model: 'gpt', layers: 6, width: 384, heads: 6, context: 256, batch: 8, vocab: 256, steps: 3 },
  gpt2_124m: { ...gpt2, batch: 2, steps: 4 },
  gpt4x128: { model: 'gpt', layers: 4, width: 128, heads: 4, context: 64, batch: 12, vocab: 65, steps: 10 },
  bert_base: { model: 'bert', layers: 12, width: 768, heads: 12, context: 128, batch: 8, vocab: 30522, steps: 4 },
  llama8x512: {
    model: 'llama', layers: 8, width: 512, heads: 8, kv_heads: 2, hidden: 1376, context: 512, batch: 4, vocab: 256, steps: 4,
  },
  generate_124m: { ...gpt2, batch: 1, steps: 4, generate: 32 },
}
