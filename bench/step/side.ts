// A process that trains on command: ours (leanformer_step.ts) or PyTorch's (torch_step.py), JSON lines in and out.
import { spawn, type ChildProcess } from 'node:child_process'
import path from 'node:path'
import { createInterface } from 'node:readline'

export interface Timed {
  ms: number[]
  cpu_ms: number[]
  losses: number[]
}

export class Side {
  private readonly child: ChildProcess
  private readonly lines: AsyncIterator<string>

  constructor(
    readonly name: string,
    command: string,
    args: string[],
  ) {
    this.child = spawn(command, args, { stdio: ['pipe', 'pipe', 'inherit'] })
    this.lines = createInterface({ input: this.child.stdout! })[Symbol.asyncIterator]()
  }

  static ours(): Side {
    return new Side('leanformer', process.execPath, [path.join('scripts', 'run_ts.mjs'), path.join('bench', 'step', 'leanformer_step.ts')])
  }

  static torch(python: string, compile: boolean): Side {
    return new Side(compile ? 'torch.compile' : 'torch eager', python, [path.join('bench', 'step', 'torch_step.py')])
  }

  async ask<T = unknown>(command: object): Promise<T> {
    this.child.stdin!.write(`${JSON.stringify(command)}\n`)
    const { value, done } = await this.lines.next()
    if (done) throw new Error(`${this.name} ended`)
    const answer = JSON.parse(value) as T & { error?: string }
    if (answer.error) throw new Error(`${this.name}: ${answer.error}`)
    return answer
  }

  close(): void {
    this.child.stdin!.write('{"cmd": "quit"}\n')
    this.child.stdin!.end()
  }
}
