// What an evidence card (docs/evidence) found about an entry of the catalogue.
import type { EntryKind } from './entry'
import { verdicts } from './verdicts.gen'

export interface Verdict {
  /** Name of the card: docs/evidence/NAME.md. */
  card: string
  verdict: string
  /** What it was compared with. */
  against: string
  /** Validation bits per byte, technique minus baseline, with a 95 % interval. */
  difference: string
}

/** The verdict on an entry; undefined when no card is about it. */
export function verdictOf(entry: { kind: EntryKind; name: string }): Verdict | undefined {
  return verdicts[`${entry.kind} ${entry.name}`]
}
