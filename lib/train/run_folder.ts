// The folder of a run:
//   config.json       every option with its origin      tokenizer.json  what `sample` needs to read and write text
//   metrics.jsonl     one line a step                   checkpoints/    see checkpoint_file
//   report.html       curves and final numbers
// metrics.jsonl is written line by line with plain system calls: a killed process loses at most the step it was in.

import { closeSync, openSync, writeSync } from 'node:fs'
import { mkdir, readFile, rename, stat, writeFile } from 'node:fs/promises'
import { join } from 'node:path'

import { tokenizerFromJSON, type Tokenizer, type TokenizerJSON } from '../data/tokenizer'
import { LeanformerError } from '../native/errors'
import type { Structure } from './compressed'
import type { StepRecord } from './metrics'

export interface RunConfig {
  values: Record<string, unknown>
  /** Where each value came from: default, file, flag. */
  origins: Record<string, string>
  /** Of the text: a resumed run must read the same. */
  textSha256: string
  /** Of a model that was made smaller, or that started from one. */
  structure?: Structure
  /** It was written by prune or quantise: no training to go on with. */
  compressed?: boolean
}

export class RunFolder {
  private metricsFile: number | undefined

  private constructor(
    readonly path: string,
    readonly config: RunConfig,
    readonly tokenizer: Tokenizer,
  ) {}

  get checkpoints(): string {
    return join(this.path, 'checkpoints')
  }

  get report(): string {
    return join(this.path, 'report.html')
  }

  /** Makes a new run; a folder that holds one already is refused, since its checkpoints would be lost. */
  static async create(path: string, config: RunConfig, tokenizer: Tokenizer): Promise<RunFolder> {
    if (await exists(join(path, 'config.json'))) {
      throw new LeanformerError(
        'ERR_OPTION',
        `run: ${path} holds a run already`,
        `go on with it by --resume ${path}, or give another --out`,
      )
    }
    try {
      await mkdir(path, { recursive: true })
      await replaceFile(join(path, 'tokenizer.json'), JSON.stringify(tokenizer))
      await replaceFile(join(path, 'metrics.jsonl'), '')
      await replaceFile(join(path, 'config.json'), `${JSON.stringify(config, null, 2)}\n`)
    } catch (error) {
      throw new LeanformerError(
        'ERR_IO',
        `run: ${path} cannot be written: ${(error as Error).message}`,
        'give --out a folder on a disk with space, in which you may write',
        { cause: error },
      )
    }
    return new RunFolder(path, config, tokenizer)
  }

  /** Opens a run that is there. */
  static async open(path: string): Promise<RunFolder> {
    const config = (await readJson(path, 'config.json')) as RunConfig
    if (typeof config?.values !== 'object' || config.values === null || typeof config.origins !== 'object') {
      throw damaged(path, 'config.json has no values and origins')
    }
    return new RunFolder(
      path,
      config,
      await tokenizerFromJSON((await readJson(path, 'tokenizer.json')) as TokenizerJSON),
    )
  }

  /** Keeps a changed config, of a run that goes on with more steps. */
  async updateConfig(config: RunConfig): Promise<RunFolder> {
    await replaceFile(join(this.path, 'config.json'), `${JSON.stringify(config, null, 2)}\n`)
    return new RunFolder(this.path, config, this.tokenizer)
  }

  appendMetrics(record: StepRecord): void {
    try {
      this.metricsFile ??= openSync(join(this.path, 'metrics.jsonl'), 'a')
      writeSync(this.metricsFile, `${JSON.stringify(record)}\n`)
    } catch (error) {
      throw new LeanformerError(
        'ERR_IO',
        `run: ${join(this.path, 'metrics.jsonl')} cannot be written: ${(error as Error).message}`,
        'free some space on the disk, then go on with --resume',
        { cause: error },
      )
    }
  }

  /** Steps that were logged; a line that was torn by a crash ends the list. */
  async readMetrics(): Promise<StepRecord[]> {
    const text = await readFile(join(this.path, 'metrics.jsonl'), 'utf8').catch((error: NodeJS.ErrnoException) => {
      if (error.code === 'ENOENT') return ''
      throw error
    })
    const records: StepRecord[] = []
    for (const line of text.split('\n')) {
      try {
        if (line !== '') records.push(JSON.parse(line) as StepRecord)
      } catch {
        break
      }
    }
    return records
  }

  /** Drops what was logged after `step`: a resumed run does those steps again. */
  async rewindMetrics(step: number): Promise<void> {
    this.close()
    const kept = (await this.readMetrics()).filter((record) => record.step <= step)
    await replaceFile(join(this.path, 'metrics.jsonl'), kept.map((record) => `${JSON.stringify(record)}\n`).join(''))
  }

  close(): void {
    if (this.metricsFile !== undefined) closeSync(this.metricsFile)
    this.metricsFile = undefined
  }
}

function damaged(path: string, problem: string, cause?: unknown): LeanformerError {
  return new LeanformerError(
    'ERR_CHECKPOINT',
    `run: ${path} is not a run folder: ${problem}`,
    'give the --out of an earlier run',
    {
      cause,
    },
  )
}

async function readJson(path: string, name: string): Promise<unknown> {
  try {
    return JSON.parse(await readFile(join(path, name), 'utf8'))
  } catch (error) {
    throw damaged(path, `${name} cannot be read: ${(error as Error).message}`, error)
  }
}

async function exists(path: string): Promise<boolean> {
  return stat(path).then(
    () => true,
    () => false,
  )
}

/** A reader sees the old file or the new one, never half of it. */
async function replaceFile(path: string, content: string): Promise<void> {
  await writeFile(`${path}.new`, content)
  await rename(`${path}.new`, path)
}
