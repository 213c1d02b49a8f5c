// The command line. A command's module is loaded when it runs; its flags are made from the option schema.

import { Argument, Command, CommanderError, Option } from 'commander'

import { LeanformerError } from '../native/errors'
import { infoSchema, kernelsSchema, pruneSchema, quantiseSchema, sampleSchema, techniquesSchema, trainSchema } from './config'
import { describeOptions, optionError, parseFlag, type OptionInfo } from './options'

const defaultText = (value: unknown): string =>
  typeof value === 'string' && /^\S+$/.test(value) ? value : JSON.stringify(value)

/** Adds the flags of `options`. No commander default: only what was given counts as a flag. */
export function addFlags(command: Command, options: readonly OptionInfo[]): Command {
  for (const option of options) {
    const stated = option.default === undefined || (Array.isArray(option.default) && option.default.length === 0)
    const range = option.kind === 'number' || option.range.includes('|') ? option.range : ''
    const notes = [range, stated ? '' : `default: ${defaultText(option.default)}`].filter((note) => note !== '')
    const help = `${option.help}${notes.length > 0 ? ` (${notes.join('; ')})` : ''}`
    if (option.kind === 'boolean') {
      command
        .addOption(new Option(option.flag, help))
        .addOption(new Option(option.flag.replace('--', '--no-')).hideHelp(option.default !== true))
    } else {
      const flag = new Option(`${option.flag} <${option.value}>`, help)
      const parse = (text: string) => parseFlag(option, text)
      command.addOption(
        flag.argParser(
          option.kind === 'list'
            ? (text: string, before?: unknown) => [...((before as unknown[] | undefined) ?? []), parse(text)]
            : parse,
        ),
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

/** Each command: what it does, and the schema of its options. */
const commandTable = {
  train: { description: 'train a model on a text', schema: trainSchema },
  sample: { description: 'continue a text with the model of a run', schema: sampleSchema },
  prune: { description: 'take layers, heads, feed-forward units or weights out of the model of a run', schema: pruneSchema },
  quantise: { description: 'put the matrices of the model of a run in 8 or 4 bits', schema: quantiseSchema },
  kernels: { description: 'measure which attention kernel each head of the model of a run can have, and choose under an error limit', schema: kernelsSchema },
  techniques: { description: 'list techniques, optimisers and initialisers with their settings', schema: techniquesSchema },
  info: { description: 'show devices, instruction set and measured peaks', schema: infoSchema },
  bench: { description: 'time training steps of a model, by operator', schema: trainSchema },
  demo: {
    description: 'train a small GPT on Moby-Dick for about a minute, and print a sample of it',
    schema: trainSchema,
  },
}

export type Commands = Record<keyof typeof commandTable, Run>

/** `onExit` gets the exit code of the command that ran. */
export function buildProgram(commands: Commands, onExit: (code: number) => void): Command {
  const program = new Command('leanformer')
    .description('Trains transformers.')
    .exitOverride()
    .configureOutput({ outputError: () => {} }) // errors are printed once, by `main`
  for (const name of Object.keys(commandTable) as (keyof Commands)[]) {
    const { description, schema } = commandTable[name]
    const options = describeOptions(schema)
    const command = program.command(name).description(description).allowExcessArguments(false).exitOverride()
    if (name === 'bench') {
      command
        .addArgument(new Argument('[what]', 'whole training steps').choices(['step']).default('step'))
        .option('--profile', 'operator by operator: GFLOP/s, GB/s, share of the ceilings, the ten worst (always shown)')
    }
    addFlags(command, options).action(async () => onExit(await commands[name](givenFlags(command, options))))
  }
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
  if (!(error instanceof LeanformerError))
    return `error: ${error instanceof Error ? (error.stack ?? error.message) : String(error)}\n`
  return `error ${error.code}: ${error.message}\n${error.hint ? `  hint: ${error.hint}\n` : ''}`
}

/** Runs the command line and returns the exit code: 2 for options that are wrong, 1 for other errors. */
export async function main(
  argv: readonly string[],
  stderr: { write(text: string): unknown },
  commands: Commands,
): Promise<number> {
  let exitCode = 0
  try {
    await buildProgram(commands, (code) => (exitCode = code)).parseAsync([...argv], { from: 'user' })
    return exitCode
  } catch (error) {
    if (error instanceof CommanderError && error.exitCode === 0) return 0 // --help
    if (error instanceof CommanderError && error.code === 'commander.help') return 2 // no command: help was shown
    const shown = error instanceof CommanderError ? asOptionError(error) : error
    stderr.write(describeError(shown))
    return shown instanceof LeanformerError && shown.code === 'ERR_OPTION' ? 2 : 1
  }
}
