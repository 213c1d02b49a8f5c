// Generated from docs/evidence by `npm run evidence`; do not edit. Verdicts of the evidence cards by kind and name of the entry.
import type { Verdict } from './verdict'

export const verdicts: Readonly<Record<string, Verdict>> = {
  'optimizer adamw': { card: 'adamw', verdict: 'better', against: 'SGD, momentum 0.9', difference: '−1.0558 [−1.2168, −0.8948]' },
}
