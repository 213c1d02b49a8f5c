// Names that can be given in place of a file: name -> loader of the text. Each dataset sits in its own file and is
// imported when it is asked for.

export const datasets: Readonly<Record<string, () => Promise<string>>> = {
  'moby-dick': async () => (await import('./moby_dick')).mobyDick(),
}
