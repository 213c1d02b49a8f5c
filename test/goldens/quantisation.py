"""Writes quantisation.safetensors beside this file: PyTorch's 8-bit floating formats and fake quantisation.

Deterministic: on one machine and PyTorch version a second run writes the same bytes; --check compares with the file.
e4m3, e5m2: the numbers of all 256 codes; to.e4m3, to.e5m2: the codes of the numbers in `x`, which has ties, subnormals and
numbers beyond the range. tensor.*, channel.*: fake quantisation with a step for all or for each row; learned.*: with the
gradient of the step. Each has x, scale, zero, out, grad_out and the gradients.
"""

import argparse
import sys
from pathlib import Path

import torch

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1] / 'bench' / 'step'))
from tensor_file import encode

FORMATS = {'e4m3': torch.float8_e4m3fn, 'e5m2': torch.float8_e5m2}


def floats(generator):
    tensors = {}
    for name, dtype in FORMATS.items():
        tensors[name] = torch.arange(256, dtype=torch.uint8).view(dtype).float()
    scales = 2.0 ** torch.randint(-20, 17, (2000,), generator=generator)
    drawn = torch.randn(2000, generator=generator) * scales
    finite = torch.cat([tensors[name][torch.isfinite(tensors[name])] for name in FORMATS]).unique()
    ties = (finite[1:].double() + finite[:-1].double()).div(2).float()
    # Libraries differ about what is beyond the largest number, so no such number is here.
    x = torch.cat([drawn, finite, ties, ties * (1 + 2**-20), ties * (1 - 2**-20)])
    tensors['x'] = x
    for name, dtype in FORMATS.items():
        most = torch.finfo(dtype).max
        tensors[f'to.{name}'] = torch.where(x.abs() <= most, x, 0).to(dtype).view(torch.uint8).to(torch.int32)
    return tensors


def fake_quantisation(generator):
    tensors = {}

    def add(name, function, x, scale, zero, learned=False):
        x, scale = x.clone().requires_grad_(), scale.clone().requires_grad_(learned)
        out = function(x, scale, zero)
        upstream = torch.randn(out.shape, generator=generator)
        (out * upstream).sum().backward()
        tensors.update({f'{name}.x': x, f'{name}.scale': scale, f'{name}.zero': zero.float(), f'{name}.out': out})
        tensors.update({f'{name}.grad_out': upstream, f'{name}.grad.x': x.grad})
        if learned:
            tensors[f'{name}.grad.scale'] = scale.grad

    x = torch.randn(6, 40, generator=generator)
    one, zero = torch.tensor([0.013]), torch.tensor([0])
    rows = torch.rand(6, generator=generator) * 0.02 + 0.01
    add('tensor', lambda x, s, z: torch.fake_quantize_per_tensor_affine(x, s, z.int(), -127, 127), x, one, zero)
    add('affine', lambda x, s, z: torch.fake_quantize_per_tensor_affine(x, s, z.int(), 0, 255), x, one, torch.tensor([101]))
    add('channel', lambda x, s, z: torch.fake_quantize_per_channel_affine(x, s, z.int(), 0, -127, 127), x, rows, torch.zeros(6))
    learned = torch._fake_quantize_learnable_per_tensor_affine
    add('learned', lambda x, s, z: learned(x, s, z.float(), -8, 7, 0.25), x, torch.tensor([0.19]), zero, learned=True)
    return tensors


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--check', action='store_true', help='compare with the file instead of writing it')
    options = parser.parse_args()
    generator = torch.Generator().manual_seed(9)
    content = encode({**floats(generator), **fake_quantisation(generator)})
    path = HERE / 'quantisation.safetensors'
    if not options.check:
        path.write_bytes(content)
    elif path.read_bytes() != content:
        sys.exit(f'{path.name} differs from what this PyTorch gives')


if __name__ == '__main__':
    main()
