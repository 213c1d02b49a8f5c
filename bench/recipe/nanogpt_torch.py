"""nanoGPT's published CPU recipe in PyTorch on a text file: the loss our own command must reach with the same recipe.

4 layers, 4 heads, width 128, context 64, batch 12, 2000 steps, AdamW (0.9, 0.99), weight decay 0.1 on matrices, clip 1,
lr 1e-3 with 100 steps of warm-up and a cosine to 1e-4, no dropout, characters, first 90 % to train on. Prints JSON.
"""

import argparse
import json
import math
import sys
import time
from pathlib import Path

import torch
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / 'step'))
from torch_model import ACTIVATIONS, GPT, adamw, learning_rate


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--text', required=True, help='UTF-8 file')
    for name, default in {
        'layers': 4, 'heads': 4, 'width': 128, 'context': 64, 'batch': 12, 'steps': 2000, 'warmup': 100, 'seed': 1,
        'threads': 2,
    }.items():
        parser.add_argument(f'--{name}', type=int, default=default)
    for name, default in {
        'lr': 1e-3, 'min-lr': 1e-4, 'beta1': 0.9, 'beta2': 0.99, 'weight-decay': 0.1, 'clip': 1.0, 'dropout': 0.0,
    }.items():
        parser.add_argument(f'--{name}', type=float, default=default)
    parser.add_argument('--activation', choices=sorted(ACTIVATIONS), default='gelu_exact', help="default: nanoGPT's")
    parser.add_argument('--bias', action=argparse.BooleanOptionalAction, default=False, help="default: nanoGPT's")
    parser.add_argument('--tied', action=argparse.BooleanOptionalAction, default=True)
    return parser.parse_args()


def read_tokens(path):
    """-> (training tokens, validation tokens, vocab size, bytes per validation token)."""
    text = Path(path).read_bytes().decode('utf-8')
    characters = sorted(set(text))
    index = {character: i for i, character in enumerate(characters)}
    ids = torch.tensor([index[character] for character in text])
    cut = int(0.9 * len(text))
    validation = text[cut:]
    return ids[:cut], ids[cut:], len(characters), len(validation.encode()) / len(validation)


@torch.no_grad()
def evaluate(model, ids, context):
    """Mean loss over every next token of ids: windows side by side, then the shorter rest."""
    model.eval()
    full = (len(ids) - 1) // context
    inputs = ids[: full * context].view(full, context)
    targets = ids[1 : full * context + 1].view(full, context)
    rest = ids[full * context :]
    total = 0.0
    for begin in range(0, full, 64):
        x, y = inputs[begin : begin + 64], targets[begin : begin + 64]
        total += F.cross_entropy(model.logits(x).flatten(0, 1), y.flatten(), reduction='sum').item()
    if len(rest) > 1:
        total += F.cross_entropy(model.logits(rest[None, :-1])[0], rest[1:], reduction='sum').item()
    model.train()
    return total / (len(ids) - 1)


def main():
    options = arguments()
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    train, validation, vocab, bytes_per_token = read_tokens(options.text)
    if min(len(train), len(validation)) <= options.context:
        sizes = f'{len(train)} + {len(validation)} characters'
        sys.exit(f'{options.text}: {sizes} are too few for a context of {options.context}')
    model = GPT(
        layers=options.layers, width=options.width, heads=options.heads, context=options.context, vocab=vocab,
        bias=options.bias, tied=options.tied, activation=options.activation, dropout=options.dropout,
    ).initialize(options.seed)
    optimizer = adamw(
        model, lr=options.lr, betas=(options.beta1, options.beta2), weight_decay=options.weight_decay, fused=True,
    )
    generator = torch.Generator().manual_seed(options.seed)
    window = torch.arange(options.context)
    recent = []
    begin = time.perf_counter()
    for step in range(options.steps):
        rate = learning_rate(
            step, lr=options.lr, min_lr=options.min_lr, warmup=options.warmup, steps=options.steps,
        )
        for group in optimizer.param_groups:
            group['lr'] = rate
        starts = torch.randint(len(train) - options.context, (options.batch, 1), generator=generator)
        loss = model(train[starts + window], train[starts + window + 1])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), options.clip)
        optimizer.step()
        recent = (recent + [loss.item()])[-100:]
        if (step + 1) % 250 == 0:
            print(f'step {step + 1}: loss {sum(recent) / len(recent):.4f}', file=sys.stderr)
    seconds = time.perf_counter() - begin
    val_loss = evaluate(model, validation, options.context)
    print(json.dumps({
        'train_loss': sum(recent) / len(recent),  # mean of the last 100 steps
        'val_loss': val_loss,
        'val_bits_per_byte': val_loss / math.log(2) / bytes_per_token,
        'steps': options.steps, 'seed': options.seed, 'seconds': seconds,
        'vocab': vocab, 'parameters': sum(p.numel() for p in model.parameters()),
        'bias': options.bias, 'activation': options.activation, 'torch': torch.__version__,
    }))


if __name__ == '__main__':
    main()
