"""Median milliseconds of PyTorch's training step on a GPU, for bench/gpu/run.ts: one JSON object of options as argument.

The model and the optimiser are those of bench/step: forward, backward, clipping, fused AdamW, one step ahead of the host.
"""

import contextlib
import json
import pathlib
import statistics
import sys
import time

import torch

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / 'step'))
from torch_model import GPT, adamw  # noqa: E402


def main():
    options = json.loads(sys.argv[1])
    model = GPT(**{key: options[key] for key in ('layers', 'width', 'heads', 'context', 'vocab')}).cuda()
    optimizer = adamw(model, lr=1e-4, betas=(0.9, 0.99), eps=1e-8, weight_decay=0.1, fused=True)
    loss_of = torch.compile(model) if options['compile'] else model
    shape = (options['batch'], options['context'])
    ids = torch.randint(options['vocab'], shape).cuda()
    targets = torch.randint(options['vocab'], shape).cuda()
    bf16 = options['precision'] == 'bf16'

    def step():
        with torch.autocast('cuda', dtype=torch.bfloat16) if bf16 else contextlib.nullcontext():
            loss = loss_of(ids, targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    for _ in range(5):
        step().item()
    times, pending = [], []
    for _ in range(options['steps']):
        begin = time.perf_counter()
        pending.append(step())
        if len(pending) > 1:
            pending.pop(0).item()
        times.append(1e3 * (time.perf_counter() - begin))
    print(json.dumps({'ms': statistics.median(times)}))


main()
