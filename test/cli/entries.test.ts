// Entries found by the name of their file, through the CLI's own look-up.
import { findEntry, listEntries } from '../../lib/cli/entries'

test('every entry has the name of its file, and settings that its own create() accepts', async () => {
  const optimizers = await listEntries('optimizer')
  expect(optimizers.map(({ name }) => name)).toEqual(expect.arrayContaining(['adamw', 'nesterov', 'sgd']))
  for (const { create } of optimizers) expect(() => create([])).not.toThrow()
  for (const { create } of await listEntries('technique')) expect(() => create()).not.toThrow()
  for (const { create } of await listEntries('initializer')) expect(() => create()).not.toThrow()
})

test('a name with settings, and names that are not there', async () => {
  const { entry, given } = await findEntry('optimizer', 'adamw:beta2=0.99')
  expect(entry.create([], given)).toBeDefined()
  await expect(findEntry('optimizer', 'adanw')).rejects.toMatchObject({ code: 'ERR_OPTION', hint: 'did you mean adamw?' })
  await expect(findEntry('optimizer', '../sgd')).rejects.toMatchObject({ code: 'ERR_OPTION' })
  await expect(findEntry('optimizer', 'optimizer')).rejects.toMatchObject({ code: 'ERR_OPTION' })
})
