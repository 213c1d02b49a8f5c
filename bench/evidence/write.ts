// Writes everything that follows from the JSON records: pages, index, frontier, verdicts. The drift test compares.
import { writeFileSync } from 'node:fs'
import path from 'node:path'
import { frontierSvg } from './frontier'
import { indexPage, page, verdictModule } from './pages'
import { folder, readRecords } from './record'

/** Generated files by path, with what they must hold. */
export function generatedFiles(): Map<string, string> {
  const records = readRecords()
  const files = new Map(records.map((record) => [path.join(folder, `${record.name}.md`), page(record)]))
  files.set(path.join(folder, 'README.md'), indexPage(records))
  files.set(path.join(folder, 'frontier.svg'), frontierSvg(records))
  files.set(path.join('lib', 'catalog', 'verdicts.gen.ts'), verdictModule(records))
  return files
}

export function writeGenerated(): void {
  for (const [file, text] of generatedFiles()) writeFileSync(file, text)
}
