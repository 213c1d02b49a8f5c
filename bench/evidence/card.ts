// What an evidence card says: a technique and its baseline as options of `leanformer train`, and the budget that both get.
// One file a card in cards/, named like the document it makes; nothing lists them.
import type { EntryKind } from '../../lib/catalog/entry'
import type { TrainConfig } from '../../lib/cli/config'

/** Options of `leanformer train`, in camelCase. */
export type Options = Partial<TrainConfig>

export interface Arm {
  /** In the tables: a few words. */
  label: string
  /** Over the card's common options. */
  options: Options
  /** Where the search for the learning rate starts; it goes up and down by factors of 2 until the loss rises. */
  lr: number
}

export interface Card {
  title: string
  /** The entries of the catalogue whose verdict this card gives. */
  about?: readonly { kind: EntryKind; name: string }[]
  /** What is said for the technique, and by whom. */
  claim: string
  /**
   * What both arms may spend in training. 'flops': as many steps as the operators' declared FLOPs allow; 'steps': the same
   * steps and tokens.
   */
  budget: 'flops' | 'steps'
  /** Where the FLOPs of a run are counted beforehand; default 'meta', which computes nothing. */
  forecastOn?: 'meta' | 'cpu'
  /** What should improve: the loss, or a cost at a loss that is not worse. Default 'loss'. */
  improves?: 'loss' | 'peakBytes' | 'flops' | 'seconds'
  /** Of both arms, over the common ones. */
  options?: Options
  /** Both arms start from the weights of one run with these options, over the common ones. */
  pretrain?: Options
  /** A run with these options, over the common ones, is trained first; {teacher} in a technique's text is its folder. */
  teacher?: Options
  baseline: Arm
  technique: Arm
  /** A run with these options, over the common ones, is trained, and `leanformer kernels` measures its attention with these flags. */
  kernels?: { train: Options; flags: Readonly<Record<string, unknown>> }
  /** In a sentence or two, for a reader who has seen the verdict. */
  when: string
}

/**
 * Of every card: a GPT of 33 000 parameters on Moby-Dick as bytes, a cosine to a tenth of the highest rate. Xavier's weights,
 * since GPT-2's are too small for this width: they spend half of so short a run on a plateau of bigrams.
 */
export const commonOptions: Options = {
  text: 'moby-dick',
  tokenizer: 'bytes',
  layers: 2,
  width: 32,
  heads: 2,
  context: 32,
  positions: 'rotary',
  init: 'xavier',
  batch: 8,
  steps: 500,
  evalTokens: 16_384,
  threads: 1,
  device: 'cpu',
  json: true,
}

/** The plain run that most techniques are held against. */
export const adamw: Arm = { label: 'AdamW', options: {}, lr: 8e-3 }

/** Of the cards that tune a trained model: from Moby-Dick to declarations in TypeScript, all weights as the baseline. */
export const tuning = {
  budget: 'steps',
  improves: 'peakBytes',
  options: { bias: true, text: 'node_modules/typescript/lib/lib.dom.d.ts', steps: 300 },
  pretrain: { text: 'moby-dick', steps: 1500, lr: 8e-3, seed: 7 },
  baseline: { label: 'AdamW on every weight', options: {}, lr: 8e-3 },
} as const satisfies Partial<Card>

export function defineCard(card: Card): Card {
  return card
}
