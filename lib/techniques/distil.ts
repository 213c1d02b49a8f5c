// Distillation: a student is trained on what a teacher says, after DistilBERT. Per token that counts,
//   L = kd T^2 KL(softmax(t / T) || softmax(s / T)) + ce CE(s) + cosine (1 - cos(h_s, h_t)) + hidden MSE of inner layers
//       + relations (KL of attention + KL of softmax(V V^T / sqrt(d))) of the last layer, over its heads,
// with the logits s, t and last hidden states h of both. The student may start from some of the teacher's layers; relations
// (MiniLM) need the same number of heads, but neither the same width nor the same layers.
// Source: Sanh et al., arXiv 1910.01108; Hinton et al., arXiv 1503.02531; inner layers: Jiao et al., arXiv 1909.10351;
// relations: Wang et al., arXiv 2002.10957.
import type { Chain } from '../autograd/chain'
import { noGrad } from '../autograd/tape'
import { LeanformerError } from '../native/errors'
import type { Module } from '../nn/module'
import { headsFirst } from '../attention/kernels'
import type { Attention } from '../nn/attention'
import type { AttentionOptions } from '../ops/attention'
import { cast } from '../ops/cast'
import { arange } from '../ops/creation'
import { add, div, greater, greaterEqual, mul, notEqual, scale, sqrt, square, sub } from '../ops/elementwise'
import type { LinearCrossEntropyOptions } from '../ops/linear_cross_entropy'
import { matmul } from '../ops/matmul'
import { mean, sum } from '../ops/reductions'
import { reshape } from '../ops/reshape'
import { logSoftmax, softmax } from '../ops/softmax'
import { where } from '../ops/where'
import { adopt, keep, scope } from '../tensor/scope'
import { tensor, type Tensor } from '../tensor/tensor'
import { defineTechnique, type Technique } from './technique'

interface Inputs {
  segments?: Tensor | null
  positions?: Tensor | null
}

/** A model whose hidden states, logits and loss can be had one after another: GPT, LLaMA, BERT. */
export interface DistillableModel extends Module<[ids: Tensor, inputs?: Inputs]> {
  blocks: (Module<never, Tensor> & { forward(...inputs: never[]): Tensor })[]
  chain?: Chain
  headLogits(hidden: Tensor): Tensor
  headLoss(hidden: Tensor, targets: Tensor, options?: LinearCrossEntropyOptions): Tensor
  loss(ids: Tensor, targets: Tensor, inputs?: Inputs, options?: LinearCrossEntropyOptions): Tensor
}

export interface DistillationWeights {
  /** T, 2 by default. */
  temperature?: number
  /** Of the divergence; default 0.5. */
  kd?: number
  /** Of the cross-entropy with the targets; default 0.5. */
  ce?: number
  /** Of the angle between the last hidden states; default 0. */
  cosine?: number
  /** Of the squared distance of inner hidden states; default 0. */
  hidden?: number
  /** Of the divergence of what the last layer's heads attend to, and of what their values have in common; default 0. */
  relations?: number
}

/** T^2 KL(teacher || student) of each row, logits [rows, classes] -> [rows]. The gradient reaches the student alone. */
export function divergence(student: Tensor, teacher: Tensor, temperature = 2): Tensor {
  const { p, logP } = noGrad(() => {
    const z = scale(teacher, 1 / temperature)
    return { p: softmax(z), logP: logSoftmax(z) }
  })
  const logQ = logSoftmax(scale(student, 1 / temperature))
  return scale(sum(mul(p, sub(logP, logQ)), [-1]), temperature * temperature)
}

/** 1 - cos(a, b) of each row, [rows, width] -> [rows]. */
export function cosineDistance(a: Tensor, b: Tensor): Tensor {
  const lengths = sqrt(mul(sum(square(a), [-1]), sum(square(b), [-1])))
  return scale(div(sum(mul(a, b), [-1]), lengths), -1, 1)
}

/** Scores of the last layer's heads, [batch, heads, tokens, tokens]: of queries with keys, and of values with each other. */
export interface Relations {
  attention: Tensor
  values: Tensor
}

/** Runs `fn` and gives the relations in the model's last layer beside its result. */
export function withRelations<T>(model: DistillableModel, fn: () => T): { result: T; relations: Relations } {
  const attention = (model.blocks[model.blocks.length - 1] as unknown as { attention: Attention }).attention
  let seen: { qkv: Tensor; options: AttentionOptions } | undefined
  attention.watch = (qkv, options) => void (seen = { qkv: keep(qkv.alias()), options })
  try {
    const result = fn()
    const { qkv, options } = seen!
    adopt(qkv)
    const { heads, causal, segments } = options
    const [q, k, v] = Object.values(attention.splitHeads(qkv)).map((x) => headsFirst(x, heads))
    const tokens = qkv.shape[1]
    const places = arange(tokens, { device: qkv.device.name })
    const later = greater(reshape(places, [1, 1, 1, tokens]), reshape(places, [1, 1, tokens, 1]))
    const other = segments ? notEqual(reshape(segments, [-1, 1, tokens, 1]), reshape(segments, [-1, 1, 1, tokens])) : null
    const scores = (a: Tensor, b: Tensor) => {
      const each = scale(matmul(a, b, { transposeB: true }), 1 / Math.sqrt(attention.headWidth))
      const low = tensor([-1e9], [1], { device: each.device, dtype: each.dtype === 'f64' ? 'f64' : 'f32' })
      const wide = each.dtype === 'f64' ? each : cast(each, 'f32')
      const past = causal ? where(later, low, wide) : wide
      return other ? where(other, low, past) : past
    }
    return { result, relations: { attention: scores(q, k), values: scores(v, v) } }
  } finally {
    attention.watch = null
  }
}

/** The divergence of both relations from the teacher's, mean over heads, of each token: [batch * tokens]. @throws ERR_ARGUMENT */
export function relationDivergence(student: Relations, teacher: Relations): Tensor {
  const [batch, heads, tokens] = student.attention.shape
  if (teacher.attention.shape[1] !== heads) {
    throw new LeanformerError('ERR_ARGUMENT', `distil: relations of ${heads} heads cannot be compared with those of ${teacher.attention.shape[1]}`, 'give the student as many heads as the teacher')
  }
  const one = (name: keyof Relations) => {
    const rows = (x: Tensor) => reshape(x, [batch * heads * tokens, tokens])
    return mean(reshape(divergence(rows(student[name]), rows(teacher[name]), 1), [batch, heads, tokens]), [1])
  }
  return reshape(add(one('attention'), one('values')), [batch * tokens])
}

/** Layers of a teacher for a student of `count` layers, evenly from the first to the last: 0, 2, 4, 7, 9, 11 for 6 of 12. */
export function selectLayers(teacherLayers: number, count: number): number[] {
  if (!(count >= 1 && count <= teacherLayers)) {
    throw new LeanformerError('ERR_ARGUMENT', `distil: ${count} layers of a teacher with ${teacherLayers}`, 'the student has at least one and no more than the teacher')
  }
  return Array.from({ length: count }, (_, i) => (count === 1 ? 0 : Math.round((i * (teacherLayers - 1)) / (count - 1))))
}

/** Gives the student the teacher's embeddings, head and the chosen layers. @throws ERR_ARGUMENT when a shape differs */
export function copyTeacher(student: DistillableModel, teacher: DistillableModel, layers = selectLayers(teacher.blocks.length, student.blocks.length)): void {
  if (layers.length !== student.blocks.length) {
    throw new LeanformerError('ERR_ARGUMENT', `distil: ${layers.length} layers chosen for a student of ${student.blocks.length}`, 'choose one for each')
  }
  const source = teacher.namedParameters()
  for (const [path, parameter] of student.namedParameters()) {
    const from = path.replace(/^blocks\.(\d+)\./, (_, i: string) => `blocks.${layers[Number(i)]}.`)
    const value = source.get(from)?.tensor
    // What other techniques put beside the student's own.
    if (!value && path.includes('.adapter.')) continue
    if (!value || value.shape.join() !== parameter.shape.join()) {
      const found = value ? `has shape [${value.shape.join(', ')}]` : 'is missing'
      throw new LeanformerError('ERR_ARGUMENT', `distil: ${path} needs [${parameter.shape.join(', ')}], but the teacher's ${from} ${found}`, 'a student that starts from its teacher has the same width and vocabulary')
    }
    parameter.set(value)
  }
}

/** Runs `fn` and gives the results of the model's layers in it beside its own. */
export function withLayerStates<T>(model: DistillableModel, fn: () => T): { result: T; states: Tensor[] } {
  const states: Tensor[] = []
  for (const block of model.blocks) {
    const { forward } = block
    block.forward = (...inputs) => {
      const y = forward.apply(block, inputs)
      states.push(keep(y.alias()))
      return y
    }
  }
  try {
    const result = fn()
    return { result, states: states.map((state) => adopt(state)) }
  } finally {
    for (const block of model.blocks) delete (block as { forward?: unknown }).forward
  }
}

/** The last hidden states, with those of inner layers and the last relations where they are wanted. */
function hiddenStates(
  model: DistillableModel,
  wanted: { states: boolean; relations: boolean },
  fn: () => Tensor,
): { result: Tensor; states: Tensor[]; relations: Relations | null } {
  if (!wanted.relations) return { ...(wanted.states ? withLayerStates(model, fn) : { result: fn(), states: [] }), relations: null }
  const { result: inner, relations } = withRelations(model, () => hiddenStates(model, { ...wanted, relations: false }, fn))
  return { ...inner, relations }
}

/**
 * The student's training loss over the targets that count, their sum times `options.scale` (their mean without it).
 * Divergence, angle and inner states are taken over all tokens that are not padding, and weighted as if over the targets.
 */
export function distillationLoss(
  student: DistillableModel,
  teacher: DistillableModel,
  batch: { ids: Tensor; targets: Tensor; inputs?: Inputs },
  weights: DistillationWeights = {},
  options: LinearCrossEntropyOptions = {},
): Tensor {
  const { temperature = 2, kd = 0.5, ce = 0.5, cosine = 0, hidden = 0, relations = 0 } = weights
  const { ids, targets, inputs } = batch
  if (ce === 1 && !kd && !cosine && !hidden && !relations) return student.headLoss(student.call(ids, inputs), targets, options)
  const wanted = { states: hidden > 0, relations: relations > 0 }
  const wasTraining = teacher.training
  teacher.eval()
  const told = noGrad(() => {
    const { result, ...inner } = hiddenStates(teacher, wanted, () => teacher.call(ids, inputs))
    return { last: result, ...inner, logits: kd ? teacher.headLogits(result) : null }
  })
  teacher.train(wasTraining)
  if ((hidden || relations) && student.chain?.runner) {
    throw new LeanformerError('ERR_OPTION', 'distil: inner states cannot be compared while layers are run again or are on disk', 'use hidden=0 and relations=0, or leave checkpointing and offloading of activations out')
  }
  const { result: last, states, relations: own } = hiddenStates(student, wanted, () => student.call(ids, inputs))
  const rows = (x: Tensor) => reshape(cast(x, x.dtype === 'f64' ? 'f64' : 'f32'), [targets.size, x.shape[x.rank - 1]])
  const real = reshape(cast(inputs?.segments ? notEqual(inputs.segments, -1) : greaterEqual(ids, 0), 'f32'), [targets.size])
  const count = sum(cast(greaterEqual(targets, 0), 'f32'))
  const perRow = div(mul(real, options.scale === undefined ? 1 : mul(count, options.scale)), sum(real))
  const total = (each: Tensor, weight: number) => scale(sum(mul(each, cast(perRow, each.dtype))), weight)
  const terms: Tensor[] = []
  if (ce) terms.push(scale(student.headLoss(last, targets, options), ce))
  if (kd) terms.push(total(divergence(rows(student.headLogits(last)), rows(told.logits!), temperature), kd))
  if (cosine) terms.push(total(cosineDistance(rows(last), rows(told.last)), cosine))
  if (hidden) {
    const places = selectLayers(told.states.length, states.length)
    for (const [i, state] of states.entries()) {
      terms.push(total(mean(square(sub(rows(state), rows(told.states[places[i]]))), [-1]), hidden / states.length))
    }
  }
  if (relations) terms.push(total(relationDivergence(own!, told.relations!), relations))
  if (!terms.length) return mul(sum(last), tensor(0, null, { device: last.device }))
  return terms.reduce((a, b) => add(a, cast(b, a.dtype)))
}

/** As a technique, with a teacher at hand. The student's own loss stays what evaluation reports. */
export function distillation(teacher: DistillableModel, weights: DistillationWeights = {}): Omit<Technique, 'name'> {
  return {
    setup({ model }) {
      const student = model as unknown as DistillableModel
      if (!student.headLogits || !student.headLoss) throw new LeanformerError('ERR_ARGUMENT', 'distil: this model has no hidden states and logits to compare', 'gpt, llama and bert have')
      const { loss } = student
      student.loss = (ids, targets, inputs, options) =>
        student.training
          ? scope(() => distillationLoss(student, teacher, { ids, targets, inputs }, weights, options))
          : loss.call(student, ids, targets, inputs, options)
    },
  }
}

export const distil = defineTechnique({
  name: 'distil',
  title: "Distillation: a student learns from a teacher's predictions, after DistilBERT",
  category: 'compression',
  source: 'Sanh et al., arXiv 1910.01108; Hinton et al., arXiv 1503.02531',
  settings: {
    teacher: { default: '', help: 'run folder of the teacher; must be given' },
    temperature: { default: 2, min: 0.01, help: 'T' },
    kd: { default: 0.5, min: 0, help: 'weight of the divergence from the teacher' },
    ce: { default: 0.5, min: 0, help: 'weight of the cross-entropy with the targets' },
    cosine: { default: 0, min: 0, help: 'weight of the angle between the last hidden states' },
    hidden: { default: 0, min: 0, help: 'weight of the squared distance of inner hidden states' },
    relations: { default: 0, min: 0, help: "weight of the divergence of the last layer's attention and of its values' relations (MiniLM)" },
    copy: { default: true, help: "start from the teacher's embeddings, head and evenly chosen layers" },
  },
  neutral: { settings: { kd: 0, ce: 1, cosine: 0, hidden: 0, relations: 0, copy: false } },
  make: ({ teacher: path, copy, ...weights }) => {
    let teacher: DistillableModel | null = null
    return {
      async open({ openModel }) {
        if (!path) throw new LeanformerError('ERR_OPTION', 'distil: teacher is missing', 'give the run folder of a trained model: distil:teacher=runs/big')
        teacher = (await openModel(path)) as unknown as DistillableModel
      },
      adapt(model) {
        if (copy && teacher) copyTeacher(model as unknown as DistillableModel, teacher)
      },
      setup(run) {
        if (!teacher) throw new LeanformerError('ERR_OPTION', 'distil: the teacher was not opened', 'from TypeScript use distillation(teacher)')
        distillation(teacher, weights).setup!(run)
      },
    }
  },
})
