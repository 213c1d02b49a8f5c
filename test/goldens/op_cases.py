"""References in f64 for operators whose definition is easy to get subtly wrong.

A case `name` stores NAME.in.X for each input, NAME.out, and for operators with gradients NAME.grad_out (random) and
NAME.grad.X = d sum(out * grad_out) / dX. ops.json holds, case by case, the operator, its attributes and the names.
"""

import torch
from torch.nn import functional as F

IGNORED = -1


class Cases:
    def __init__(self, seed):
        self.generator = torch.Generator().manual_seed(seed)
        self.tensors, self.facts = {}, {'torch': torch.__version__, 'cases': []}

    def normal(self, *shape, scale=1.0):
        return torch.randn(shape, generator=self.generator, dtype=torch.float64) * scale

    def store(self, name, tensor):
        tensor = tensor.detach()
        self.tensors[name] = tensor if tensor.dtype.is_floating_point else tensor.to(torch.int32)

    def add(self, name, op, function, inputs, constants=(), **attributes):
        """Runs function(**inputs); inputs named in `constants`, and integers, get no gradient."""
        leaves = {}
        for key, tensor in inputs.items():
            self.store(f'{name}.in.{key}', tensor)
            wanted = tensor.dtype.is_floating_point and key not in constants
            leaves[key] = tensor.clone().requires_grad_(wanted)
        out = function(**leaves)
        upstream = self.normal(*out.shape)
        (out * upstream).sum().backward()
        self.store(f'{name}.out', out)
        self.store(f'{name}.grad_out', upstream)
        gradients = [key for key, leaf in leaves.items() if leaf.requires_grad]
        for key in gradients:
            self.store(f'{name}.grad.{key}', leaves[key].grad)
        self.facts['cases'].append(
            {'name': name, 'op': op, 'attributes': attributes, 'inputs': list(inputs), 'gradients': gradients},
        )


def add_norms_and_activations(cases):
    for name, shape in {'layer_norm': (3, 5, 7), 'layer_norm_wide': (2, 37)}.items():
        # Far from zero mean, where a one-pass variance loses its digits.
        x, width = cases.normal(*shape) * 2 + 10, shape[-1]
        cases.add(
            name, 'layer_norm', lambda x, weight, bias: F.layer_norm(x, x.shape[-1:], weight, bias, 1e-5),
            {'x': x, 'weight': cases.normal(width), 'bias': cases.normal(width)}, eps=1e-5,
        )
    cases.add(
        'rms_norm', 'rms_norm', lambda x, weight: F.rms_norm(x, x.shape[-1:], weight, 1e-6),
        {'x': cases.normal(3, 5, 7), 'weight': cases.normal(7)}, eps=1e-6,
    )
    # The ends are where exp and erf overflow, underflow or cancel.
    ends = torch.tensor([0, -0.0, 1e-4, -1e-4, 3, -3, 6, -6, 12, -12, 40, -40], dtype=torch.float64)
    x = torch.cat([ends, cases.normal(25, scale=2)])
    cases.add('gelu', 'gelu', lambda x: F.gelu(x, approximate='tanh'), {'x': x}, form='tanh')
    cases.add('gelu_exact', 'gelu_exact', lambda x: F.gelu(x), {'x': x}, form='exact')
    cases.add('silu', 'silu', lambda x: F.silu(x), {'x': x})
    large = cases.normal(3, 4, 9, scale=3)
    large[1] += 800
    large[2, 0, 3] = -1e30
    for axis in (-1, 1):
        suffix = '' if axis == -1 else '_axis1'
        attributes = {'axis': axis}
        cases.add(f'softmax{suffix}', 'softmax', lambda x: torch.softmax(x, axis), {'x': large}, **attributes)
        cases.add(
            f'log_softmax{suffix}', 'log_softmax', lambda x: torch.log_softmax(x, axis), {'x': large}, **attributes,
        )


def add_cross_entropy(cases):
    targets = torch.tensor([3, IGNORED, 0, 10, IGNORED, 7, 5])
    for smoothing in (0.0, 0.1):
        for reduction in ('mean', 'sum', 'none'):
            cases.add(
                f"cross_entropy_{reduction}{'_smooth' if smoothing else ''}", 'cross_entropy',
                lambda logits, targets: F.cross_entropy(
                    logits, targets, ignore_index=IGNORED, label_smoothing=smoothing, reduction=reduction,
                ),
                {'logits': cases.normal(7, 11, scale=3), 'targets': targets},
                label_smoothing=smoothing, ignored_target=IGNORED, reduction=reduction,
            )


def attention(q, k, v, slopes=None, *, causal, window=0):
    """q [batch, queries, heads, width], k, v [batch, keys, kv_heads, width]; the last query stands at the last key."""
    queries, keys = q.shape[1], k.shape[1]
    distance = torch.arange(keys - queries, keys)[:, None] - torch.arange(keys)
    bias = torch.zeros(q.shape[2], queries, keys, dtype=q.dtype)
    if slopes is not None:
        bias = bias - slopes[:, None, None] * distance.abs()
    if causal:
        bias = bias.masked_fill(distance < 0, float('-inf'))
    if window:
        bias = bias.masked_fill(distance.abs() >= window, float('-inf'))
    out = F.scaled_dot_product_attention(
        q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), attn_mask=bias[None], enable_gqa=True,
    )
    return out.transpose(1, 2)


def add_attention(cases):
    for name, heads, kv_heads, queries, keys, choices in [
        ('attention_full', 2, 2, 5, 5, {'causal': False}),
        ('attention_causal', 2, 2, 9, 9, {'causal': True}),
        ('attention_gqa', 4, 2, 9, 9, {'causal': True}),
        ('attention_gqa_alibi', 4, 2, 9, 9, {'causal': True, 'alibi': True}),
        ('attention_mqa_window', 3, 1, 9, 9, {'causal': True, 'window': 3}),
        ('attention_continued', 4, 2, 3, 9, {'causal': True, 'alibi': True}),
    ]:
        width = 6
        inputs = {
            'q': cases.normal(2, queries, heads, width), 'k': cases.normal(2, keys, kv_heads, width),
            'v': cases.normal(2, keys, kv_heads, width),
        }
        if choices.pop('alibi', False):
            inputs['slopes'] = 2.0 ** (-8.0 * torch.arange(1, heads + 1, dtype=torch.float64) / heads)
        cases.add(
            name, 'attention', lambda **tensors: attention(**tensors, **choices), inputs, constants=('slopes',),
            heads=heads, kv_heads=kv_heads, window=choices.get('window', 0), causal=choices['causal'],
            scale=width**-0.5, layout='[batch, tokens, heads, width]',
        )


def rotary(x, positions, *, base, interleaved):
    """x [batch, tokens, heads, width]; pair i turns by position * base^(-2 i / width)."""
    half = x.shape[-1] // 2
    frequency = base ** (-torch.arange(half, dtype=x.dtype) / half)
    angle = (positions.to(x.dtype)[..., None] * frequency)[:, :, None, :]
    cos, sin = angle.cos(), angle.sin()
    a, b = (x[..., 0::2], x[..., 1::2]) if interleaved else (x[..., :half], x[..., half:])
    pair = (a * cos - b * sin, a * sin + b * cos)
    return torch.stack(pair, dim=-1).flatten(-2) if interleaved else torch.cat(pair, dim=-1)


def add_rotary(cases):
    plain = torch.arange(7).expand(2, 7)
    given = torch.tensor([[0, 1, 2, 0, 1, 2, 3], [5, 6, 7, 8, 100, 101, 2000]])
    for interleaved in (False, True):
        for suffix, positions in {'': plain, '_positions': given}.items():
            cases.add(
                f"rotary_{'interleaved' if interleaved else 'half'}{suffix}", 'rotary',
                lambda x, positions: rotary(x, positions, base=10000.0, interleaved=interleaved),
                {'x': cases.normal(2, 7, 3, 8), 'positions': positions},
                base=10000.0, interleaved=interleaved,
                pairs='(2i, 2i + 1), GPT-J' if interleaved else '(i, i + width / 2), Llama',
                layout='[batch, tokens, heads, width]',
            )


def add_convolutions(cases):
    for name, length, kernel, choices in [
        ('conv1d', 9, 3, {'stride': 1, 'padding': 0, 'dilation': 1}),
        ('conv1d_strided', 10, 3, {'stride': 2, 'padding': 1, 'dilation': 1}),
        ('conv1d_dilated', 11, 3, {'stride': 3, 'padding': 2, 'dilation': 2}),
    ]:
        cases.add(
            name, 'conv1d', lambda x, weight, bias: F.conv1d(x, weight, bias, **choices),
            {'x': cases.normal(2, 3, length), 'weight': cases.normal(4, 3, kernel), 'bias': cases.normal(4)},
            groups=1, layout='x [batch, channels, length], weight [out, in, kernel]', **choices,
        )
    for name, height, width, kernel, choices in [
        ('conv2d', 5, 6, (3, 2), {'stride': [1, 1], 'padding': [0, 0], 'dilation': [1, 1]}),
        ('conv2d_strided', 6, 7, (3, 3), {'stride': [2, 1], 'padding': [1, 2], 'dilation': [1, 1]}),
        ('conv2d_dilated', 8, 7, (2, 3), {'stride': [3, 2], 'padding': [2, 1], 'dilation': [2, 3]}),
    ]:
        cases.add(
            name, 'conv2d', lambda x, weight, bias: F.conv2d(x, weight, bias, **choices),
            {'x': cases.normal(2, 3, height, width), 'weight': cases.normal(4, 3, *kernel), 'bias': cases.normal(4)},
            groups=1, layout='x [batch, channels, height, width], weight [out, in, height, width]', **choices,
        )


def add_optimizers(cases, steps=6):
    """in.parameter, in.gradients [steps, ...] -> out [steps, ...], the parameter after each step; last state."""
    for name, build, attributes in [
        ('adamw', torch.optim.AdamW, {'lr': 0.01, 'betas': [0.9, 0.99], 'eps': 1e-8, 'weight_decay': 0.1}),
        ('sgd', torch.optim.SGD, {'lr': 0.1, 'weight_decay': 0.01}),
        ('sgd_momentum', torch.optim.SGD, {'lr': 0.1, 'momentum': 0.9, 'weight_decay': 0.01}),
        ('nesterov', torch.optim.SGD, {'lr': 0.1, 'momentum': 0.9, 'weight_decay': 0.01, 'nesterov': True}),
    ]:
        start, gradients = cases.normal(3, 5), cases.normal(steps, 3, 5)
        gradients[:, 0, 0] = 0
        parameter = torch.nn.Parameter(start.clone())
        choices = {**attributes, 'betas': tuple(attributes['betas'])} if 'betas' in attributes else attributes
        optimizer = build([parameter], **choices, foreach=False)
        values = []
        for gradient in gradients:
            parameter.grad = gradient.clone()
            optimizer.step()
            values.append(parameter.detach().clone())
        cases.store(f'{name}.in.parameter', start)
        cases.store(f'{name}.in.gradients', gradients)
        cases.store(f'{name}.out', torch.stack(values))
        state = {
            key: value for key, value in optimizer.state[parameter].items() if torch.is_tensor(value) and value.dim()
        }
        for key, value in state.items():
            cases.store(f'{name}.state.{key}', value)
        cases.facts['cases'].append({
            'name': name, 'op': name, 'attributes': attributes, 'inputs': ['parameter', 'gradients'], 'gradients': [],
            'state': list(state),
        })


def op_goldens():
    cases = Cases(seed=2)
    add_norms_and_activations(cases)
    add_cross_entropy(cases)
    add_attention(cases)
    add_rotary(cases)
    add_convolutions(cases)
    add_optimizers(cases)
    return cases.tensors, cases.facts
