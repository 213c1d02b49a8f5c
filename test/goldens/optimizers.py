"""Writes optimizers.safetensors and optimizers.json beside this file: trajectories of PyTorch's optimisers in f64.

Deterministic: on one machine and PyTorch version a second run writes the same bytes; --check compares with the files.
Three parameters (a wide and a tall matrix, a vector), the same random gradients for every optimiser, learning rates that
change from step to step; stored are the parameters after every step.
"""

import argparse
import json
import sys
from pathlib import Path

import torch

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1] / 'bench' / 'step'))
from tensor_file import encode

STEPS = 6
RATES = [0.01 * (1 + step % 3) for step in range(STEPS)]
SHAPES = {'wide': (4, 6), 'tall': (7, 3), 'vector': (5,)}
OPTIMIZERS = {
    'adam': (torch.optim.Adam, {'betas': (0.9, 0.99), 'eps': 1e-8, 'weight_decay': 0.1}),
    'amsgrad': (torch.optim.Adam, {'betas': (0.8, 0.9), 'eps': 1e-8, 'weight_decay': 0.1, 'amsgrad': True}),
    'amsgradw': (torch.optim.AdamW, {'betas': (0.8, 0.9), 'eps': 1e-8, 'weight_decay': 0.1, 'amsgrad': True}),
    'nesterov': (torch.optim.SGD, {'momentum': 0.9, 'nesterov': True, 'weight_decay': 0.1}),
    'adafactor': (torch.optim.Adafactor, {'weight_decay': 0.1}),
    # The iteration runs in bf16 there; the class is compared with its own formula in f64.
    'muon': (None, {'momentum': 0.95, 'weight_decay': 0.1}),
}


def newton_schulz(u):
    x = u / (u.norm() + 1e-7)
    if u.shape[0] > u.shape[1]:
        x = x.T
    for _ in range(5):
        a = x @ x.T
        x = 3.4445 * x + (-4.775 * a + 2.0315 * a @ a) @ x
    return x.T if u.shape[0] > u.shape[1] else x


def muon_step(parameters, buffers, rate, momentum, weight_decay):
    """torch.optim.Muon with adjust_lr_fn 'match_rms_adamw', in the parameters' precision."""
    for parameter, buffer in zip(parameters, buffers):
        buffer.lerp_(parameter.grad, 1 - momentum)
        direction = newton_schulz(parameter.grad.lerp(buffer, momentum))
        parameter.mul_(1 - rate * weight_decay)
        parameter.add_(direction, alpha=-rate * 0.2 * max(parameter.shape) ** 0.5)


def trajectory(kind, options, start, gradients):
    names = [name for name in SHAPES if kind is not None or name != 'vector']
    parameters = {name: start[name].clone().requires_grad_() for name in names}
    optimizer = kind(list(parameters.values()), lr=0.0, **options) if kind else None
    buffers = [torch.zeros_like(p) for p in parameters.values()]
    path = {name: [] for name in names}
    for step in range(STEPS):
        for name, parameter in parameters.items():
            parameter.grad = gradients[name][step].clone()
        if optimizer:
            for group in optimizer.param_groups:
                group['lr'] = RATES[step]
            optimizer.step()
        else:
            with torch.no_grad():
                muon_step(list(parameters.values()), buffers, RATES[step], **options)
        for name, parameter in parameters.items():
            path[name].append(parameter.detach().clone())
    return {name: torch.stack(steps) for name, steps in path.items()}


def goldens():
    generator = torch.Generator().manual_seed(7)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)
    start = {name: draw(*shape) for name, shape in SHAPES.items()}
    gradients = {name: draw(STEPS, *shape) for name, shape in SHAPES.items()}
    stored = {f'start.{name}': value for name, value in start.items()}
    stored |= {f'grads.{name}': value for name, value in gradients.items()}
    for label, (kind, options) in OPTIMIZERS.items():
        stored |= {f'{label}.{name}': value for name, value in trajectory(kind, options, start, gradients).items()}
    facts = {'torch': torch.__version__, 'rates': RATES, 'shapes': SHAPES, 'options': {k: v for k, (_, v) in OPTIMIZERS.items()}}
    return stored, facts


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--check', action='store_true', help='compare with the files, write nothing')
    check = parser.parse_args().check
    torch.set_num_threads(1)
    tensors, facts = goldens()
    differing = 0
    contents = {'safetensors': encode(tensors), 'json': (json.dumps(facts, indent=1) + '\n').encode()}
    for extension, content in contents.items():
        path = HERE / f'optimizers.{extension}'
        if not check:
            path.write_bytes(content)
        elif not path.exists() or path.read_bytes() != content:
            differing += 1
        print(f'{path.name}: {len(content)} bytes' if not check else f'{path.name}: compared, {differing} differ so far')
    sys.exit(1 if differing else 0)


if __name__ == '__main__':
    main()
