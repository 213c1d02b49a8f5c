// The distil recipe from end to end, at a size of seconds: every model is made, evaluated and written, and shrinks.
import { mkdtemp, readdir, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { runDistil } from '../../bench/recipe/distil'

test('teacher, students, pruned and quantised', async () => {
  const out = await mkdtemp(path.join(tmpdir(), 'distil-'))
  try {
    const teacher = { layers: 3, width: 32, heads: 4 }
    const rows = await runDistil({ text: 'moby-dick', steps: 12, out, teacher, studentLayers: 1, context: 32, batch: 4, evalTokens: 500 }, () => {})
    expect(rows.map(({ name }) => name)).toEqual(['teacher', 'student alone', 'student distilled', 'pruned and taught again', 'pruned int8', 'pruned int4'])
    expect((await readdir(out)).sort()).toEqual(rows.map(({ name }) => name.replace(/\W+/g, '-')).sort())
    const [whole, alone, distilled, pruned, int8, int4] = rows
    expect(distilled.parameters).toBe(alone.parameters)
    for (const [more, less] of [[whole, alone], [distilled, pruned], [pruned, int8], [int8, int4]]) expect(less.bytes).toBeLessThan(more.bytes)
    expect(int4.parameters).toBe(pruned.parameters)
    for (const { loss } of rows) expect(loss).toBeLessThan(5.6)
    expect(Math.abs(int8.loss / pruned.loss - 1)).toBeLessThan(1e-3)
  } finally {
    await rm(out, { recursive: true })
  }
}, 60_000)
