// The GPT against PyTorch (test/goldens/generate.py): logits, loss and every gradient, then 20 AdamW steps with clipping,
// warm-up and cosine decay. f32 against PyTorch's f64 numbers, so that only our own rounding counts.
import { readFileSync } from 'node:fs'
import path from 'node:path'
import { backward } from '../../lib/autograd/backward'
import { noGrad } from '../../lib/autograd/tape'
import { GPT } from '../../lib/models/gpt'
import { clipGradNorm } from '../../lib/ops/clip'
import { AdamW } from '../../lib/optim/adamw'
import { decayGroups } from '../../lib/optim/optimizer'
import { cosine } from '../../lib/optim/schedule'
import { getDevice } from '../../lib/tensor/device'
import { scope } from '../../lib/tensor/scope'
import { tensor, type Tensor } from '../../lib/tensor/tensor'
import { fromHost } from '../../lib/train/host_tensor'
import { decodeSafetensors } from '../../lib/train/safetensors'

const folder = path.join(__dirname, '..', 'goldens')
const golden = JSON.parse(readFileSync(path.join(folder, 'gpt.json'), 'utf8'))
const { tensors } = decodeSafetensors(readFileSync(path.join(folder, 'gpt.safetensors')))

function numbers(name: string): Float64Array {
  const { dtype, data } = tensors[name]
  const bytes = data.slice()
  if (dtype === 'f64') return new Float64Array(bytes.buffer)
  return Float64Array.from(dtype === 'i32' ? new Int32Array(bytes.buffer) : new Float32Array(bytes.buffer))
}
