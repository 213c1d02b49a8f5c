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

test.each([
  ['optimizer', 'adam:beta2=0.99'], ['optimizer', 'amsgrad:decoupled=false'], ['optimizer', 'lion:beta2=0.98'],
  ['optimizer', 'lars:trust=0.01,clip_rate=true'], ['optimizer', 'lamb:beta2=0.99'], ['optimizer', 'adafactor:relative=false'],
  ['optimizer', 'muon:scale=shape'], ['optimizer', 'schedule_free:power=1'], ['optimizer', 'adamw_8bit:block=128'],
  ['optimizer', 'sophia:rho=0.1'], ['optimizer', 'nesterov:form=sutskever'],
  ['technique', 'ema:decay=0.99'], ['technique', 'swa:every=5'], ['technique', 'sam:rho=0.1'], ['technique', 'asam:eta=0'],
  ['technique', 'm_sam:rho=0.1'], ['technique', 'looksam:every=4'], ['technique', 'sophia_curvature:interval=5'],
  ['technique', 'noise_scale:every=2'], ['technique', 'importance_sampling:score=exact'], ['technique', 'selective_backprop:beta=1'],
  ['technique', 'set:zeta=0.2'], ['technique', 'rigl:density=0.2'], ['technique', 'magnitude_pruning:scope=global'],
  ['technique', 'movement_pruning:kept=0.3'], ['technique', 'sr_ste:decay=0.001'], ['technique', 'lottery:rounds=3'],
] as const)('--%s %s', async (kind, text) => {
  const { entry, given } = await findEntry(kind, text)
  expect(Object.keys(given).every((key) => key in entry.settings)).toBe(true)
  expect(kind === 'optimizer' ? (await findEntry('optimizer', text)).entry.create([], given) : (await findEntry('technique', text)).entry.create(given)).toBeDefined()
})
