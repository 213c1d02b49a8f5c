// Entries: settings are checked one by one, texts are parsed, combinations are refused with the reason.
import { checkCombination, parseEntry, resolveSettings, type Entry } from '../../lib/catalog/entry'

const entry = {
  name: 'thing',
  title: 'A thing',
  category: 'optimisation',
  source: 'none',
  settings: {
    rate: { default: 0.5, min: 0, max: 1, help: 'how much' },
    count: { default: 3, min: 1, integer: true, help: 'how often' },
    on: { default: false, help: 'whether' },
    form: { default: 'a', choices: ['a', 'b'], help: 'which' },
  },
} satisfies Entry

test('defaults, numbers and texts', () => {
  expect(resolveSettings(entry)).toEqual({ rate: 0.5, count: 3, on: false, form: 'a' })
  expect(resolveSettings(entry, { rate: '1e-1', count: 7, on: 'true', form: 'b' })).toEqual({ rate: 0.1, count: 7, on: true, form: 'b' })
})

test.each([
  [{ rat: 1 }, 'thing: rat is not a setting', 'its settings are rate, count, on, form'],
  [{ rate: 2 }, 'thing: rate is 2', 'give a number from 0 to 1: how much'],
  [{ rate: '' }, 'thing: rate is ""', 'give a number from 0 to 1: how much'],
  [{ count: 1.5 }, 'thing: count is 1.5', 'give a whole number from 1: how often'],
  [{ on: 'yes' }, 'thing: on is "yes"', 'give true or false: whether'],
  [{ form: 'c' }, 'thing: form is "c"', 'give a | b: which'],
])('%p is refused', (given, message, hint) => {
  expect(() => resolveSettings(entry, given)).toThrow(expect.objectContaining({ code: 'ERR_OPTION', message, hint }))
})

test('texts', () => {
  expect(parseEntry('sam')).toEqual({ name: 'sam', given: {} })
  expect(parseEntry('sam:rho=0.1,adaptive=true')).toEqual({ name: 'sam', given: { rho: '0.1', adaptive: 'true' } })
  expect(() => parseEntry('sam:rho')).toThrow(expect.objectContaining({ code: 'ERR_OPTION', message: "sam:rho: 'rho' is not a setting with a value" }))
})

test('combinations, whichever side says it', () => {
  const a = { name: 'a', excludes: { b: 'both move the weights' } }
  const b = { name: 'b' }
  for (const pair of [[a, b], [b, a]]) {
    expect(() => checkCombination(pair)).toThrow(/cannot be combined: both move the weights/)
  }
  expect(() => checkCombination([a, { name: 'c' }])).not.toThrow()
  expect(() => checkCombination([b, b])).toThrow('b and b cannot be combined: it is given twice')
})
