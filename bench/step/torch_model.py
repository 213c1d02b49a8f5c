"""The library's GPT in PyTorch: the same parameter names, layouts and arithmetic, as baseline and reference.

Pre-norm decoder, learned positions: x = tok[ids] + pos; x += attention(norm1(x)); x += mlp(norm2(x)); head(norm(x)).
Linear weights are [out, in]; the rows of attention.qkv are all queries, all keys, all values, each head by head.
The loss is the mean cross-entropy over targets that are not -1.
"""

import math

import torch
from torch import nn
from torch.nn import functional as F

ACTIVATIONS = {'gelu': 'tanh', 'gelu_exact': 'none'}


class Attention(nn.Module):
    def __init__(self, width, heads, bias, dropout):
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.qkv = nn.Linear(width, 3 * width, bias=bias)
        self.out = nn.Linear(width, width, bias=bias)

    def forward(self, x):
        batch, tokens, width = x.shape
        heads = (batch, tokens, self.heads, width // self.heads)
        q, k, v = (part.view(heads).transpose(1, 2) for part in self.qkv(x).split(width, dim=2))
        dropout = self.dropout if self.training else 0.0
        y = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=True)
        return self.out(y.transpose(1, 2).reshape(batch, tokens, width))


class MLP(nn.Module):
    def __init__(self, width, bias, activation):
        super().__init__()
        self.approximate = ACTIVATIONS[activation]
        self.up = nn.Linear(width, 4 * width, bias=bias)
        self.down = nn.Linear(4 * width, width, bias=bias)

    def forward(self, x):
        return self.down(F.gelu(self.up(x), approximate=self.approximate))


class Block(nn.Module):
    def __init__(self, width, heads, bias, activation, dropout):
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-5, bias=bias)
        self.attention = Attention(width, heads, bias, dropout)
        self.norm2 = nn.LayerNorm(width, eps=1e-5, bias=bias)
        self.mlp = MLP(width, bias, activation)
        self.drop = nn.Dropout(dropout)

    def forward(self, x):
        x = x + self.drop(self.attention(self.norm1(x)))
        return x + self.drop(self.mlp(self.norm2(x)))


class GPT(nn.Module):
    def __init__(self, *, layers, width, heads, context, vocab, bias=True, tied=True, activation='gelu', dropout=0.0):
        super().__init__()
        if width % heads:
            raise ValueError(f'GPT: width {width} is not a multiple of heads {heads}')
        if activation not in ACTIVATIONS:
            raise ValueError(f'GPT: activation {activation!r} must be one of {", ".join(ACTIVATIONS)}')
        self.token_embedding = nn.Embedding(vocab, width)
        self.position_embedding = nn.Embedding(context, width)
        self.blocks = nn.ModuleList(Block(width, heads, bias, activation, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(width, eps=1e-5, bias=bias)
        if not tied:
            self.head = nn.Linear(width, vocab, bias=False)
        self.tied = tied
        self.drop = nn.Dropout(dropout)

    def initialize(self, seed):
        """GPT-2's: normal 0.02, projections into the residual 0.02 / sqrt(2 layers), biases 0, norm weights 1."""
        generator = torch.Generator().manual_seed(seed)
        residual = 0.02 / math.sqrt(2 * len(self.blocks))
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                if parameter.dim() >= 2:
                    into_residual = name.endswith(('attention.out.weight', 'mlp.down.weight'))
                    parameter.normal_(0.0, residual if into_residual else 0.02, generator=generator)
                else:
                    parameter.fill_(1.0 if name.endswith('weight') else 0.0)
        return self

    def logits(self, ids):
        x = self.drop(self.token_embedding(ids) + self.position_embedding.weight[: ids.shape[1]])
        for block in self.blocks:
            x = block(x)
        return F.linear(self.norm(x), self.token_embedding.weight if self.tied else self.head.weight)

    def forward(self, ids, targets):
        """ids, targets int64 [batch, tokens] -> the loss, a scalar."""
        logits = self.logits(ids).flatten(0, 1)
        if logits.dtype == torch.bfloat16:
            logits = logits.float()
        return F.cross_entropy(logits, targets.flatten(), ignore_index=-1)


def adamw(model, *, lr, betas=(0.9, 0.99), eps=1e-8, weight_decay=0.1, **implementation):
    """AdamW with weight decay on matrices and embeddings only."""
    decayed = [p for p in model.parameters() if p.dim() >= 2]
    others = [p for p in model.parameters() if p.dim() < 2]
    groups = [{'params': decayed, 'weight_decay': weight_decay}, {'params': others, 'weight_decay': 0.0}]
    groups = [group for group in groups if group['params']]
    return torch.optim.AdamW(groups, lr=lr, betas=betas, eps=eps, **implementation)


def learning_rate(step, *, lr, min_lr, warmup, steps):
    """Linear warm-up lr (t + 1) / warmup, then a cosine from lr to min_lr; step counts from 0."""
    if step < warmup:
        return lr * (step + 1) / warmup
    u = min(1.0, (step - warmup) / max(1, steps - warmup))
    return min_lr + 0.5 * (lr - min_lr) * (1 + math.cos(math.pi * u))
