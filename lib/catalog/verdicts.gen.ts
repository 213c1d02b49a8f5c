// Generated from docs/evidence by `npm run evidence`; do not edit. Verdicts of the evidence cards by kind and name of the entry.
import type { Verdict } from './verdict'

export const verdicts: Readonly<Record<string, Verdict>> = {
  'initializer convit': { card: 'convit', verdict: 'worse', against: 'AdamW, Xavier', difference: '+0.2656 [+0.2221, +0.3091]' },
  'initializer rezero': { card: 'rezero', verdict: 'worse', against: 'AdamW, Xavier', difference: '+0.0904 [+0.0488, +0.1320]' },
  'initializer small_init': { card: 'small_init', verdict: 'worse', against: 'AdamW, Xavier', difference: '+0.1265 [+0.0985, +0.1546]' },
  'initializer xavier': { card: 'xavier', verdict: 'better', against: 'AdamW, GPT-2 weights', difference: '−0.4847 [−0.5496, −0.4197]' },
  'optimizer adafactor': { card: 'adafactor', verdict: 'equal', against: 'AdamW', difference: '−0.0062 [−0.0252, +0.0129]' },
  'optimizer adamw': { card: 'adamw', verdict: 'better', against: 'SGD, momentum 0.9', difference: '−1.2019 [−1.2909, −1.1128]' },
  'optimizer adamw_8bit': { card: 'adamw_8bit', verdict: 'better', against: 'AdamW', difference: '+0.0033 [−0.0082, +0.0147]' },
  'optimizer lion': { card: 'lion', verdict: 'worse', against: 'AdamW', difference: '+0.1935 [+0.1253, +0.2617]' },
  'optimizer muon': { card: 'muon', verdict: 'better', against: 'AdamW', difference: '−0.0241 [−0.0432, −0.0050]' },
  'optimizer nesterov': { card: 'nesterov', verdict: 'worse', against: 'AdamW', difference: '+1.3649 [+1.3329, +1.3968]' },
  'optimizer schedule_free': { card: 'schedule_free', verdict: 'better', against: 'AdamW', difference: '−0.0717 [−0.0862, −0.0571]' },
  'optimizer sgd': { card: 'sgd', verdict: 'worse', against: 'AdamW', difference: '+1.2502 [+1.1319, +1.3685]' },
  'technique adapters': { card: 'adapters', verdict: 'worse', against: 'AdamW on every weight', difference: '+1.1116 [+1.0564, +1.1668]' },
  'technique bitfit': { card: 'bitfit', verdict: 'worse', against: 'AdamW on every weight', difference: '+2.1163 [+2.0706, +2.1621]' },
  'technique ema': { card: 'ema', verdict: 'worse', against: 'AdamW', difference: '+0.0150 [+0.0081, +0.0218]' },
  'technique ia3': { card: 'ia3', verdict: 'worse', against: 'AdamW on every weight', difference: '+2.1376 [+2.0898, +2.1854]' },
  'technique importance_sampling': { card: 'importance_sampling', verdict: 'worse', against: 'AdamW', difference: '+0.0191 [+0.0108, +0.0275]' },
  'technique lora': { card: 'lora', verdict: 'worse', against: 'AdamW on every weight', difference: '+0.8548 [+0.8363, +0.8734]' },
  'technique sam': { card: 'sam', verdict: 'worse', against: 'AdamW', difference: '+0.2058 [+0.1832, +0.2285]' },
  'technique selective_backprop': { card: 'selective_backprop', verdict: 'worse', against: 'AdamW', difference: '+0.2781 [+0.2601, +0.2961]' },
}
