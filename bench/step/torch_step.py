"""A PyTorch training process for timing whole steps, driven by JSON lines on stdin and answering with JSON lines.

{"cmd": "setup", "layers", "width", "heads", "context", "batch", "vocab", ...OPTIONALS}  builds the model and warms up
{"cmd": "step", "n": 3}   trains n steps: {"ms": [...], "cpu_ms": [...], "losses": [...]}; the loss is the one before the
                          step's update, cpu_ms the processor time of all threads
{"cmd": "generate", "n": 2, "generate": 32}  n times 32 tokens after a prompt of 32: the same, the last token as "loss"
{"cmd": "memory"}         {"peak_mib"}: the most resident memory so far
{"cmd": "save", "path"}   writes the weights (safetensors)
{"cmd": "quit"}
A failed command answers {"error": text}. Step s reads the rows s * batch ... (s + 1) * batch - 1 of the tokens; row r
holds tokens r * context ... (r + 1) * context - 1, and the targets lie one token later. Rows wrap at a file's end.
"""

import contextlib
import json
import os
import resource
import sys
import time

import torch

from tensor_file import load, parts
from torch_model import GPT, Bert, adamw

REQUIRED = ('layers', 'width', 'heads', 'context', 'batch', 'vocab')
OPTIONAL = {
    'model': 'gpt',          # or llama, bert
    'kv_heads': None, 'hidden': None,
    'steps': 0, 'generate': 0,  # of a workload; for the caller
    'precision': 'f32',      # or bf16: torch.autocast over f32 weights
    'compile': False,        # torch.compile of forward and backward
    'threads': 2,
    'weights': None,         # safetensors file to start from; otherwise GPT-2's initialiser with `seed`
    'seed': 0,
    'data': None,            # file of raw uint16 tokens; otherwise the formula in formula_tokens
    'optimizer': 'fused',    # or foreach
    'bias': True, 'tied': True, 'activation': 'gelu', 'dropout': 0.0,
    'lr': 1e-3, 'betas': [0.9, 0.99], 'eps': 1e-8, 'weight_decay': 0.1, 'clip': 1.0,
}


def formula_tokens(begin, end, vocab):
    """Token i is ((i * 2654435761 mod 2^32) >> 8) mod vocab."""
    i = torch.arange(begin, end, dtype=torch.int64) & 0xFFFFFFFF
    # Two halves keep the product inside 63 bits.
    product = ((i * (2654435761 >> 16) & 0xFFFF) << 16) + i * (2654435761 & 0xFFFF)
    return ((product & 0xFFFFFFFF) >> 8) % vocab


class Tokens:
    def __init__(self, options):
        self.batch, self.context, self.vocab = options['batch'], options['context'], options['vocab']
        self.ids = None
        if options['data'] is not None:
            with open(options['data'], 'rb') as file:
                raw = bytearray(file.read())
            self.ids = torch.frombuffer(raw, dtype=torch.uint16).to(torch.int64)
            if self.ids.numel() <= self.context:
                count = self.ids.numel()
                raise ValueError(f"{options['data']}: {count} tokens do not fill a context of {self.context}")
            if int(self.ids.max()) >= self.vocab:
                raise ValueError(f"{options['data']}: token {int(self.ids.max())} is outside a vocab of {self.vocab}")

    def row(self, index):
        if self.ids is None:
            return formula_tokens(index * self.context, (index + 1) * self.context + 1, self.vocab)
        begin = index % ((self.ids.numel() - 1) // self.context) * self.context
        return self.ids[begin : begin + self.context + 1]

    def step(self, index):
        rows = torch.stack([self.row(index * self.batch + i) for i in range(self.batch)])
        return rows[:, :-1].contiguous(), rows[:, 1:].contiguous()


class Run:
    def __init__(self, options):
        torch._dynamo.reset()
        torch.set_num_threads(options['threads'])
        shape = {key: options[key] for key in ('layers', 'width', 'heads', 'context', 'vocab')}
        choices = {key: options[key] for key in ('kv_heads', 'hidden', 'bias', 'tied', 'activation', 'dropout')}
        if options['model'] not in ('gpt', 'llama', 'bert'):
            raise ValueError(f"setup: model {options['model']!r} must be gpt, llama or bert")
        self.masked = options['model'] == 'bert'
        self.model = Bert(**shape) if self.masked else GPT(**shape, **choices, llama=options['model'] == 'llama')
        if options['weights'] is None:
            self.model.initialize(options['seed'])
        else:
            self.model.load_state_dict(load(options['weights']), strict=True)
        torch.manual_seed(options['seed'])
        self.tokens = Tokens(options)
        self.clip = options['clip']
        if options['precision'] not in ('f32', 'bf16'):
            raise ValueError(f"setup: precision {options['precision']!r} must be f32 or bf16")
        self.bf16 = options['precision'] == 'bf16'
        if options['optimizer'] not in ('fused', 'foreach'):
            raise ValueError(f"setup: optimizer {options['optimizer']!r} must be fused or foreach")
        self.optimizer = adamw(
            self.model, lr=options['lr'], betas=tuple(options['betas']), eps=options['eps'],
            weight_decay=options['weight_decay'], **{options['optimizer']: True},
        )
        self.loss = torch.compile(self.model) if options['compile'] else self.model
        self.done = 0
        begin = time.perf_counter()
        if options['generate']:
            # Autocast would convert the weights again for every token.
            self.model = self.model.to(torch.bfloat16) if self.bf16 else self.model
            self.model.eval().generate(self.tokens.step(0)[0][:1, :2], 2)
        else:
            # No update: both sides still start from the same weights.
            for _ in range(2):
                self.gradients(*self.batch(0))
            self.optimizer.zero_grad(set_to_none=True)
        self.warm_up_seconds = time.perf_counter() - begin

    def gradients(self, ids, targets):
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast('cpu', dtype=torch.bfloat16) if self.bf16 else contextlib.nullcontext():
            loss = self.loss(ids, targets)
        loss.backward()
        return loss

    def batch(self, index):
        ids, targets = self.tokens.step(index)
        if self.masked:
            # One token in seven is to be named, and is seen as token 0.
            masked = torch.arange(ids.numel()).view_as(ids) % 7 == 3
            targets = torch.where(masked, ids, -1)
            ids = torch.where(masked, 0, ids)
        return ids, targets

    def generate(self, count):
        ids = self.tokens.row(0)[:count][None]
        begin, cpu = time.perf_counter(), time.process_time()
        last = self.model.generate(ids, count)[-1]
        return (time.perf_counter() - begin) * 1e3, (time.process_time() - cpu) * 1e3, last

    def step(self):
        begin, cpu = time.perf_counter(), time.process_time()
        loss = self.gradients(*self.batch(self.done))
        if self.clip > 0:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.clip)
        self.optimizer.step()
        value = loss.item()
        self.done += 1
        return (time.perf_counter() - begin) * 1e3, (time.process_time() - cpu) * 1e3, value


def setup(command):
    options = {**OPTIONAL, **command}
    del options['cmd']
    missing = [key for key in REQUIRED if key not in options]
    unknown = [key for key in options if key not in REQUIRED and key not in OPTIONAL]
    if missing or unknown:
        raise ValueError(f'setup: missing {missing}, unknown {unknown}')
    run = Run(options)
    parameters = sum(p.numel() for p in run.model.parameters())
    return run, {
        'ok': True, 'torch': torch.__version__, 'parameters': parameters, 'warm_up_seconds': run.warm_up_seconds,
        'options': options,
    }


def main():
    # The compiler and warnings may print; only answers go to the real stdout.
    answers = os.fdopen(os.dup(1), 'w')
    os.dup2(2, 1)
    run = None
    for line in sys.stdin:
        if not line.strip():
            continue
        try:
            command = json.loads(line)
            name = command['cmd']
            if name == 'quit':
                break
            if name == 'setup':
                run = None  # a failed setup must not leave the model before it to be timed
                run, answer = setup(command)
            elif run is None:
                raise ValueError(f'{name}: send setup first')
            elif name in ('step', 'generate'):
                once = run.step if name == 'step' else lambda: run.generate(command['generate'])
                ms, cpu_ms, losses = zip(*(once() for _ in range(command['n'])))
                answer = {'ms': ms, 'cpu_ms': cpu_ms, 'losses': losses}
            elif name == 'memory':
                answer = {'peak_mib': resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}
            elif name == 'save':
                with open(command['path'], 'wb') as file:
                    file.writelines(parts(run.model.state_dict()))
                answer = {'ok': True}
            else:
                raise ValueError(f'{name!r} is not a command: setup, step, generate, memory, save, quit')
        except Exception as error:  # the other side decides what a failure means
            answer = {'error': f'{type(error).__name__}: {error}'}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == '__main__':
    main()
