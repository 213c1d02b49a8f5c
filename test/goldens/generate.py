"""Writes gpt.safetensors, gpt.json, ops.safetensors and ops.json beside this file from PyTorch.

Deterministic: on one machine and PyTorch version a second run writes the same bytes; --check compares with the files.
gpt: a small GPT in f32 and f64, its logits, loss and gradients on one batch, then 20 AdamW steps from the same weights.
"""

import argparse
import json
import sys
from pathlib import Path

import torch

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1] / 'bench' / 'step'))
sys.path.insert(0, str(HERE))
from op_cases import op_goldens
from tensor_file import encode
from torch_model import GPT, adamw, learning_rate

# A width and a vocab that are no multiple of any vector length, so that the ends of loops are tested too.
MODEL = {'layers': 2, 'width': 20, 'heads': 4, 'context': 16, 'vocab': 61}
BATCH = 3
IGNORED = -1
SCHEDULE = {'lr': 1e-3, 'min_lr': 1e-4, 'warmup': 5, 'steps': 20}
OPTIMIZER = {'betas': (0.9, 0.99), 'eps': 1e-8, 'weight_decay': 0.1}
CLIP = 1.0


def initial_weights(generator):
    """Large enough that attention is far from uniform and no gradient is near rounding noise."""
    weights = {}
    for name, parameter in GPT(**MODEL).named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if parameter.dim() >= 2:
            weights[name] = noise * 0.2
        elif name.endswith('weight'):
            # Below 1, so that the gradient norms lie on both sides of the clip.
            weights[name] = 0.6 + 0.1 * noise
        else:
            weights[name] = 0.05 * noise
    return weights


def model_from(weights, dtype):
    model = GPT(**MODEL).to(dtype)
    model.load_state_dict({name: weight.to(dtype) for name, weight in weights.items()}, strict=True)
    return model


def forward_and_gradients(weights, dtype, inputs, targets):
    model = model_from(weights, dtype)
    loss = model(inputs, targets)
    loss.backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    with torch.no_grad():
        return model.logits(inputs), loss.item(), gradients


def train(weights, dtype, inputs, targets, autocast=False):
    """inputs, targets [steps, batch, tokens] -> losses before each update, norms before clipping, weights."""
    model = model_from(weights, dtype)
    optimizer = adamw(model, lr=0.0, foreach=False, **OPTIMIZER)
    losses, norms = [], []
    for step, (x, y) in enumerate(zip(inputs, targets)):
        for group in optimizer.param_groups:
            group['lr'] = learning_rate(step, **SCHEDULE)
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast('cpu', dtype=torch.bfloat16, enabled=autocast):
            loss = model(x, y)
        loss.backward()
        norms.append(torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP).item())
        optimizer.step()
        losses.append(loss.item())
    return losses, norms, {name: parameter.detach() for name, parameter in model.named_parameters()}


def relative(a, b):
    """Largest difference over the largest value."""
    return ((a.double() - b.double()).abs().max() / b.double().abs().max()).item()


def tokens(generator, *shape):
    return torch.randint(MODEL['vocab'], shape, generator=generator)


def gpt_goldens():
    generator = torch.Generator().manual_seed(1)
    weights = initial_weights(generator)
    shape = (BATCH, MODEL['context'])
    inputs, targets = tokens(generator, *shape), tokens(generator, *shape)
    targets[torch.rand(shape, generator=generator) < 0.15] = IGNORED
    # A rule the model can learn, so that the loss moves, and noise; every step has other ignored targets.
    steps = SCHEDULE['steps']
    count = torch.arange(steps * BATCH * (MODEL['context'] + 1))
    stream = torch.where(count % 5 < 3, count * 7 % MODEL['vocab'], tokens(generator, *count.shape))
    rows = stream.view(steps, BATCH, MODEL['context'] + 1)
    step_inputs, step_targets = rows[..., :-1].clone(), rows[..., 1:].clone()
    for step in range(steps):
        step_targets[step, step % BATCH, MODEL['context'] - step % 5 :] = IGNORED

    logits, loss, gradients = forward_and_gradients(weights, torch.float32, inputs, targets)
    logits64, loss64, gradients64 = forward_and_gradients(weights, torch.float64, inputs, targets)
    losses, norms, final = train(weights, torch.float32, step_inputs, step_targets)
    losses64, norms64, final64 = train(weights, torch.float64, step_inputs, step_targets)
    bf16_losses, bf16_norms, _ = train(weights, torch.float32, step_inputs, step_targets, autocast=True)

    stored = {'inputs': inputs, 'targets': targets, 'steps.inputs': step_inputs, 'steps.targets': step_targets}
    stored = {name: tensor.to(torch.int32) for name, tensor in stored.items()}
    stored |= {'logits': logits, 'logits64': logits64}
    for prefix, tensors in {
        'weights': weights, 'grad': gradients, 'grad64': gradients64, 'final': final, 'final64': final64,
    }.items():
        stored |= {f'{prefix}.{name}': tensor for name, tensor in tensors.items()}
    width = MODEL['width']
    facts = {
        'torch': torch.__version__,
        'model': MODEL | {'bias': True, 'tied': True, 'activation': 'gelu', 'norm_eps': 1e-5},
        'batch': BATCH, 'ignored_target': IGNORED,
        'optimizer': OPTIMIZER | {'decayed': 'parameters of 2 and more dimensions', 'clip': CLIP}, 'schedule': SCHEDULE,
        'loss': loss, 'loss64': loss64,
        'lr': [learning_rate(step, **SCHEDULE) for step in range(steps)],
        'losses': losses, 'losses64': losses64, 'grad_norms': norms, 'grad_norms64': norms64,
        'bf16_autocast': {'losses': bf16_losses, 'grad_norms': bf16_norms},
        # Softmax does not see a constant added to all keys: these biases have a gradient of 0 but for rounding, which
        # AdamW makes as large as any other. Their final values mean nothing.
        'undetermined': {f'blocks.{i}.attention.qkv.bias': [width, 2 * width] for i in range(MODEL['layers'])},
        'f32_error': {
            'of': 'max |f32 - f64| / max |f64|, of PyTorch itself',
            'logits': relative(logits, logits64),
            'grad': {name: relative(gradients[name], gradients64[name]) for name in weights},
            'losses': max(abs(a - b) / b for a, b in zip(losses, losses64)),
            'final': {name: relative(final[name], final64[name]) for name in weights},
        },
    }
    return stored, facts


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--check', action='store_true', help='compare with the files, write nothing')
    check = parser.parse_args().check
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    differing = 0
    for name, (tensors, facts) in {'gpt': gpt_goldens(), 'ops': op_goldens()}.items():
        text = json.dumps(facts, indent=1, allow_nan=False) + '\n'
        for path, content in {
            HERE / f'{name}.safetensors': encode(tensors), HERE / f'{name}.json': text.encode(),
        }.items():
            if not check:
                path.write_bytes(content)
                print(f'{path.name}: {len(content)} bytes')
            elif not path.exists() or path.read_bytes() != content:
                differing += 1
                print(f'{path.name}: differs')
            else:
                print(f'{path.name}: the same')
    sys.exit(1 if differing else 0)


if __name__ == '__main__':
    main()
