// Offloading: what training keeps but does not need at the moment is moved out of the device's memory, to a file in a folder of
// your choice or, from a GPU, to the host's memory, and comes back in time: it is written by a thread of its own, and read
// ahead while the device computes. The numbers are the same bit for bit.
//   state        of the optimiser, which is then updated piece by piece (Ren et al., ZeRO-Offload, arXiv 2101.06840); on the CPU
//                in the file's own pages, which are mapped for the update
//   gradients    of each layer, from its backward pass to the update. Clipping looks at all of them together once.
//   activations  what the tape holds of each layer (Rajbhandari et al., ZeRO-Infinity, arXiv 2104.07857)
// The file has no name while it is open, so nothing is left of it after a crash. Every step writes what it moves, which wears
// an SSD: the summary says how much it was.
import { tmpdir } from 'node:os'
import type { Chain, ChainWatcher } from '../autograd/chain'
import type { Tape } from '../autograd/tape'
import { parseBytes } from '../catalog/bytes'
import { LeanformerError } from '../native/errors'
import type { Module } from '../nn/module'
import type { Optimizer } from '../optim/optimizer'
import { Pager, type PagerStats } from '../tensor/pager'
import type { Tensor } from '../tensor/tensor'
import { chainsOf } from './layers'
import { defineTechnique } from './technique'

export type Place = 'none' | 'disk' | 'host'

export interface OffloadOptions {
  state?: Place
  gradients?: Place
  activations?: Place
  /** Where files are made; default: the system's folder for temporary files. */
  folder?: string
  /** Bytes of the parameters that are updated at a time. */
  piece?: number
}

/** Tensors with less than this stay: moving them would not be worth it. */
const leastBytes = 4096

export class Offload {
  private readonly pagers = new Map<Place, Pager>()
  private readonly chains: Chain[]

  constructor(
    private readonly model: Module<never, unknown>,
    private readonly optimizer: Optimizer,
    private readonly options: OffloadOptions,
  ) {
    const { state = 'none', gradients = 'none', activations = 'none', folder = tmpdir(), piece = 16 * 2 ** 20 } = options
    const device = model.parameters()[0].tensor.device.name
    for (const [name, place] of Object.entries({ state, gradients, activations })) {
      if (place === 'host' && device === 'cpu') {
        throw new LeanformerError('ERR_OPTION', `offload: ${name} is host, but the cpu computes in the host's memory`, `use ${name}=disk`)
      }
      if (place !== 'none' && !this.pagers.has(place)) this.pagers.set(place, new Pager(place === 'disk' ? folder : null))
    }
    this.chains = gradients === 'none' && activations === 'none' ? [] : chainsOf(model, 'offload')
    if (state !== 'none') optimizer.paging = { pager: this.pagers.get(state)!, pieceBytes: piece, gradients: false }
    else if (gradients !== 'none') throw new LeanformerError('ERR_OPTION', 'offload: gradients are offloaded, but state is not', 'use state=disk too: it is twice their size')
    if (gradients !== 'none') optimizer.paging!.gradients = true
  }

  beginStep(): void {
    for (const chain of this.chains) chain.watch = (tape, x) => this.watch(tape, x)
  }

  endStep(): void {
    for (const chain of this.chains) chain.watch = null
  }

  /** Gradients that are still in memory when the backward pass is over. */
  endGradients(): void {
    this.moveGradients()
  }

  stats(): PagerStats[] {
    return [...this.pagers.values()].map((pager) => pager.stats())
  }

  /** State comes back with the next update. */
  close(): void {
    this.endStep()
    this.optimizer.paging = null
    for (const pager of this.pagers.values()) pager.close()
  }

  private moveGradients(): void {
    const pager = this.pagers.get(this.options.gradients ?? 'none')
    if (pager) for (const { grad } of this.model.parameters()) if (grad && 4 * grad.size >= leastBytes) pager.pageOut(grad)
  }

  private watch(tape: Tape, x: Tensor): ChainWatcher {
    const pager = this.pagers.get(this.options.activations ?? 'none')
    let from = tape.records.length
    let before: Tensor[] = []
    // What the tape holds of the layers since the last call.
    const complete = (result: Tensor | null) => {
      const records = tape.records.slice(from)
      from = tape.records.length
      if (!records.length) return
      const held = records.flatMap(({ saved }) => saved.filter((tensor) => tensor !== null))
      // Weights and masks were there before; the last result goes on to the head.
      const own = pager ? held.filter(({ id, size }) => id >= x.id && id !== result?.id && 4 * size >= leastBytes) : []
      for (const tensor of own) pager!.pageOut(tensor)
      const ahead = before
      before = own
      records[records.length - 1].reached = () => {
        for (const tensor of ahead) if (!tensor.disposed) pager!.prefetch(tensor)
        this.moveGradients()
      }
    }
    return { stage: () => complete(null), end: complete }
  }
}

export const offload = defineTechnique({
  name: 'offload',
  title: "Offloading: optimiser state, gradients and activations wait outside of the device's memory",
  category: 'memory',
  source: 'Ren et al., arXiv 2101.06840; Rajbhandari et al., arXiv 2104.07857',
  settings: {
    state: { default: 'disk', choices: ['none', 'disk', 'host'], help: "the optimiser's state; host: from a GPU to the host's memory" },
    gradients: { default: 'none', choices: ['none', 'disk', 'host'], help: 'gradients, between their layer and the update' },
    activations: { default: 'none', choices: ['none', 'disk', 'host'], help: 'what each layer keeps for its gradients' },
    folder: { default: '', help: "where the file is made; default: the system's folder for temporary files" },
    piece: { default: '16MiB', help: 'bytes of the parameters that are updated at a time; with update_in_backward, whose state is read ahead' },
  },
  neutral: { settings: { state: 'none' } },
  make: ({ state, gradients, activations, folder, piece }) => {
    const places = { state, gradients, activations } as Record<'state' | 'gradients' | 'activations', Place>
    const options = { ...places, ...(folder ? { folder } : {}), piece: parseBytes('offload: piece', piece) }
    let running: Offload | null = null
    return {
      outermost: true,
      setup({ model, optimizer }) {
        running = new Offload(model, optimizer, options)
      },
      step(next) {
        running!.beginStep()
        next()
        running!.endStep()
      },
      grads() {
        running!.endGradients()
      },
      async summary() {
        const gigabytes = (bytes: number) => (bytes / 1e9).toFixed(2)
        return (running?.stats() ?? []).filter(({ fileBytes }) => fileBytes > 0).map(
          ({ bytesWritten, bytesRead, waitSeconds }) =>
            `offload: ${gigabytes(bytesWritten)} GB written and ${gigabytes(bytesRead)} GB read; the device waited ${waitSeconds.toFixed(1)} s for them.`,
        )
      },
    }
  },
})
