// The command line. A command's module is loaded when it runs; its flags are made from the option schema.

import { Command, CommanderError, Option } from 'commander'

import { LeanformerError } from '../native/errors'
import { trainSchema } from './config'
import { describeOptions, optionError, parseFlag, type OptionInfo } from './options'

/** Adds the flags of `options`. No commander default: only what was given counts as a flag. */
export function addFlags(command: Command, options: readonly OptionInfo[]): Command {
  for (const option of options) {
    const stated = option.default === undefined || (Array.isArray(option.default) && option.default.length === 0)
    const range = option.kind === 'number' || option.range.includes('|') ? option.range : ''
    const notes = [range, stated ? '' : `default: ${String(option.default)}`].filter((note) => note !== '')
    const help = `${option.help}${notes.length > 0 ? ` (${notes.join('; ')})` : ''}`
    if (option.kind === 'boolean') {
      command.addOption(new Option(option.flag, help)).addOption(new Option(option.flag.replace('--', '--no-')).hideHelp(option.default !== true))
    } else {
      const flag = new Option(`${option.flag} <${option.value}>`, help)
      const parse = (text: string) => parseFlag(option, text)
      command.addOption(
        flag.argParser(option.kind === 'list' ? (text: string, before?: unknown) => [...((before as unknown[] | undefined) ?? []), parse(text)] : parse)
      )
    }
  }
  return command
}

/** What of the schema's options the user gave. */
export function givenFlags(command: Command, options: readonly OptionInfo[]): Record<string, unknown> {
  const given = options.filter(({ key }) => command.getOptionValueSource(key) === 'cli')
  return Object.fromEntries(given.map(({ key }) => [key, command.getOptionValue(key) as unknown]))
}

export type Run = (flags: Record<string, unknown>) => Promise<number>

/** The commands and what they run; `onExit` gets the exit code. */
export function buildProgram(commands: { train: Run; demo: Run }, onExit: (code: number) => void): Command {
  const program = new Command('leanformer')
    .description('Trains transformers.')
    .showHelpAfterError(false)
    .exitOverride()
    .configureOutput({ outputError: () => {} }) // errors are printed once, by `main`
  const options = describeOptions(trainSchema)
  const add = (name: keyof typeof commands, description: string): void => {
    const command = program.command(name).description(description).allowExcessArguments(false).exitOverride()
    addFlags(command, options).action(async () => onExit(await commands[name](givenFlags(command, options))))
  }
  add('train', 'train a model on a text')
  add('demo', 'train a small GPT on Moby-Dick for about a minute, and print a sample of it')
  return program
}

/** Commander's errors as ours, with its suggestion as the hint. */
function asOptionError(error: CommanderError): LeanformerError {
  const [first, second] = error.message.replace(/^error: /, '').split('\n')
  const guess = /\(Did you mean (.*?)\?\)/.exec(error.message)?.[1]
  return optionError(first!.trim(), guess ? `did you mean ${guess}?` : (second?.trim() ?? 'see leanformer --help'))
}

/** Prints an error for people, and for programs its code. */
export function describeError(error: unknown): string {
  if (!(error instanceof LeanformerError)) return `error: ${error instanceof Error ? (error.stack ?? error.message) : String(error)}\n`
  return `error ${error.code}: ${error.message}\n${error.hint ? `  hint: ${error.hint}\n` : ''}`
}

export async function main(argv: readonly string[], commands: { train: Run; demo: Run }, stderr: { write(text: string): unknown }): Promise<number> {
  let exitCode = 0
  try {
    await buildProgram(commands, (code) => (exitCode = code)).parseAsync([...argv], { from: 'user' })
    return exitCode
  } catch (error) {
    if (error instanceof CommanderError && error.exitCode === 0) return 0 // --help
    const shown = error instanceof CommanderError ? asOptionError(error) : error
    stderr.write(describeError(shown))
    return shown instanceof LeanformerError && shown.code === 'ERR_OPTION' ? 2 : 1
  }
}
