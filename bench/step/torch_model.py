"""The library's GPT, LLaMA and BERT in PyTorch: the same parameter names, layouts and arithmetic, as baseline and reference.

Pre-norm decoder, learned positions: x = tok[ids] + pos; x += attention(norm1(x)); x += mlp(norm2(x)); head(norm(x)).
Linear weights are [out, in]; the rows of attention.qkv are all queries, all keys, all values, each head by head.
The loss is the mean cross-entropy over targets that are not -1.
"""

import math

import torch
from torch import nn
from torch.nn import functional as F

ACTIVATIONS = {'gelu': 'tanh', 'gelu_exact': 'none'}


class RMSNorm(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x):
        return F.rms_norm(x, (x.shape[-1],), self.weight, 1e-5)


def turn(x, cos, sin):
    """Rotary positions: the pairs (j, j + width / 2) of the last axis; cos and sin [tokens, width / 2]."""
    a, b = x.chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, a * sin + b * cos), dim=-1).to(x.dtype)


class Attention(nn.Module):
    """`rotary` is (cos, sin) or None. `cache` holds the keys and values of earlier tokens, [2, batch, heads, room, width]."""

    def __init__(self, width, heads, kv_heads, bias, dropout, causal=True):
        super().__init__()
        self.heads, self.kv_heads, self.dropout, self.causal = heads, kv_heads, dropout, causal
        self.qkv = nn.Linear(width, width // heads * (heads + 2 * kv_heads), bias=bias)
        self.out = nn.Linear(width, width, bias=bias)

    def forward(self, x, rotary=None, cache=None, at=0):
        batch, tokens, width = x.shape
        each = width // self.heads
        parts = self.qkv(x).split((width, each * self.kv_heads, each * self.kv_heads), dim=2)
        q, k, v = (part.view(batch, tokens, -1, each).transpose(1, 2) for part in parts)
        if rotary is not None:
            q, k = turn(q, *rotary), turn(k, *rotary)
        if cache is not None:
            cache[0][:, :, at : at + tokens], cache[1][:, :, at : at + tokens] = k, v
            k, v = cache[0][:, :, : at + tokens], cache[1][:, :, : at + tokens]
        dropout = self.dropout if self.training else 0.0
        grouped = self.kv_heads != self.heads
        y = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=self.causal and tokens > 1, enable_gqa=grouped)
        return self.out(y.transpose(1, 2).reshape(batch, tokens, width))


class MLP(nn.Module):
    def __init__(self, width, hidden, bias, activation):
        super().__init__()
        self.activation = activation
        self.up = nn.Linear(width, 2 * hidden if activation == 'swiglu' else hidden, bias=bias)
        self.down = nn.Linear(hidden, width, bias=bias)

    def forward(self, x):
        h = self.up(x)
        if self.activation == 'swiglu':
            gate, h = h.chunk(2, dim=-1)
            return self.down(F.silu(gate) * h)
        return self.down(F.gelu(h, approximate=ACTIVATIONS[self.activation]))


class Block(nn.Module):
    def __init__(self, width, heads, kv_heads, hidden, norm, bias, activation, dropout):
        super().__init__()
        self.norm1 = norm(width)
        self.attention = Attention(width, heads, kv_heads, bias, dropout)
        self.norm2 = norm(width)
        self.mlp = MLP(width, hidden, bias, activation)
        self.drop = nn.Dropout(dropout)

    def forward(self, x, rotary=None, cache=None, at=0):
        x = x + self.drop(self.attention(self.norm1(x), rotary, cache, at))
        return x + self.drop(self.mlp(self.norm2(x)))


def initialize(model, seed):
    """GPT-2's: normal 0.02, projections into the residual 0.02 / sqrt(2 layers), biases 0, norm weights 1."""
    generator = torch.Generator().manual_seed(seed)
    residual = 0.02 / math.sqrt(2 * len(model.blocks))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() >= 2:
                into_residual = name.endswith(('attention.out.weight', 'mlp.down.weight'))
                parameter.normal_(0.0, residual if into_residual else 0.02, generator=generator)
            else:
                parameter.fill_(1.0 if name.endswith('weight') else 0.0)
    return model


class GPT(nn.Module):
    """With `llama`: RMS norms, rotary positions, SwiGLU, no biases."""

    def __init__(self, *, layers, width, heads, context, vocab, kv_heads=None, hidden=None, llama=False, bias=True, tied=True,
                 activation='gelu', dropout=0.0):
        super().__init__()
        if width % heads:
            raise ValueError(f'GPT: width {width} is not a multiple of heads {heads}')
        if activation not in ACTIVATIONS:
            raise ValueError(f'GPT: activation {activation!r} must be one of {", ".join(ACTIVATIONS)}')
        bias = bias and not llama
        norm = RMSNorm if llama else lambda size: nn.LayerNorm(size, eps=1e-5, bias=bias)
        self.token_embedding = nn.Embedding(vocab, width)
        if not llama:
            self.position_embedding = nn.Embedding(context, width)
        shape = (width, heads, kv_heads or heads, hidden or 4 * width, norm, bias, 'swiglu' if llama else activation, dropout)
        self.blocks = nn.ModuleList(Block(*shape) for _ in range(layers))
        self.norm = norm(width)
        if not tied:
            self.head = nn.Linear(width, vocab, bias=False)
        self.llama, self.tied, self.each = llama, tied, width // heads
        self.drop = nn.Dropout(dropout)
        if llama:
            speeds = 10000.0 ** (-torch.arange(0, self.each, 2).double() / self.each)
            angles = torch.arange(context).double()[:, None] * speeds
            self.register_buffer('cos', angles.cos().float(), persistent=False)
            self.register_buffer('sin', angles.sin().float(), persistent=False)

    def initialize(self, seed):
        return initialize(self, seed)

    def hidden(self, ids, caches=None, at=0):
        tokens = ids.shape[1]
        x = self.token_embedding(ids)
        rotary = (self.cos[at : at + tokens], self.sin[at : at + tokens]) if self.llama else None
        if not self.llama:
            x = x + self.position_embedding.weight[at : at + tokens]
        x = self.drop(x)
        for i, block in enumerate(self.blocks):
            x = block(x, rotary, None if caches is None else caches[i], at)
        return self.norm(x)

    def logits(self, ids):
        return self.head_of(self.hidden(ids))

    def head_of(self, x):
        return F.linear(x, self.token_embedding.weight if self.tied else self.head.weight)

    def forward(self, ids, targets):
        """ids, targets int64 [batch, tokens] -> the loss, a scalar."""
        return cross_entropy(self.logits(ids), targets)

    @torch.inference_mode()
    def generate(self, ids, count):
        """The `count` most likely tokens after ids [1, tokens], one after the other, with a cache of keys and values."""
        attention = self.blocks[0].attention
        room = (2, 1, attention.kv_heads, ids.shape[1] + count, self.each)
        caches = [torch.empty(room, dtype=self.token_embedding.weight.dtype) for _ in self.blocks]
        out, at = [], 0
        while len(out) < count:
            hidden = self.hidden(ids, caches, at)
            at += ids.shape[1]
            ids = self.head_of(hidden[:, -1:]).argmax(-1)
            out.append(int(ids))
        return out


class PostNormBlock(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.attention = Attention(width, heads, heads, True, 0.0, causal=False)
        self.norm1 = nn.LayerNorm(width, eps=1e-12)
        self.mlp = MLP(width, 4 * width, True, 'gelu_exact')
        self.norm2 = nn.LayerNorm(width, eps=1e-12)

    def forward(self, x):
        x = self.norm1(x + self.attention(x))
        return self.norm2(x + self.mlp(x))


class Bert(nn.Module):
    """BERT with the head that names masked tokens."""

    def __init__(self, *, layers, width, heads, context, vocab):
        super().__init__()
        self.token_embedding = nn.Embedding(vocab, width)
        self.position_embedding = nn.Embedding(context, width)
        self.type_embedding = nn.Embedding(2, width)
        self.embedding_norm = nn.LayerNorm(width, eps=1e-12)
        self.blocks = nn.ModuleList(PostNormBlock(width, heads) for _ in range(layers))
        self.head_dense = nn.Linear(width, width)
        self.head_norm = nn.LayerNorm(width, eps=1e-12)
        self.head_bias = nn.Parameter(torch.zeros(vocab))

    def initialize(self, seed):
        return initialize(self, seed)

    def forward(self, ids, targets):
        x = self.token_embedding(ids) + self.position_embedding.weight[: ids.shape[1]]
        x = self.embedding_norm(x + self.type_embedding(torch.zeros_like(ids)))
        for block in self.blocks:
            x = block(x)
        x = self.head_norm(F.gelu(self.head_dense(x)))
        return cross_entropy(F.linear(x, self.token_embedding.weight, self.head_bias), targets)


def cross_entropy(logits, targets):
    logits = logits.flatten(0, 1)
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
