"""Writes llama, bert, vit ... .safetensors and .json beside this file: tiny random models of the transformers library (and
ConViT of timm) under the names of their files, with logits, losses and gradients of one batch in f64.

Needs torch, transformers and timm. A second run on one machine and version writes the same bytes; --check compares.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

import torch

sys.modules['torchvision'] = None  # not needed, and only some builds of it fit a given torch
import transformers
from torch.nn.functional import cross_entropy

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1] / 'bench' / 'step'))
from tensor_file import encode, load


def randomise(model, seed):
    """Weights large enough that attention is far from uniform; all in f32, so that the file is exact in f64 too."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            noise = torch.randn(parameter.shape, generator=generator)
            is_norm = parameter.dim() == 1 and name.endswith('weight')
            parameter.copy_(1 + 0.2 * noise if is_norm else (0.25 if parameter.dim() > 1 else 0.1) * noise)
    return model.eval()


def on_disk(model):
    """The tensors of the file that save_pretrained writes, under the names that it writes."""
    if not hasattr(model, 'save_pretrained'):
        return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        return load(Path(folder) / 'model.safetensors')


def gradients(model, stored):
    """By the names on disk, which may differ from those in memory: no two parameters are equal."""
    for name, tensor in stored.items():
        for parameter in model.parameters():
            if parameter.grad is not None and parameter.shape == tensor.shape and torch.equal(parameter.data, tensor):
                yield f'grad.{name}', parameter.grad


def config_of(model):
    config = model.config.to_dict()
    config['architectures'] = [type(model).__name__]
    return {key: value for key, value in config.items() if isinstance(value, (int, float, str, bool, list, dict)) and key != 'transformers_version'}


def pack(model, inputs, outputs, loss, facts=None):
    """Tensors and facts of one golden: weights by their own names, results in f64, gradients of a few parameters."""
    loss.backward()
    disk = on_disk(model)
    stored = {f'weights.{name}': tensor.float() for name, tensor in disk.items()}
    stored |= {name: tensor.to(torch.int32) for name, tensor in inputs.items()}
    stored |= {name: tensor.detach() for name, tensor in outputs.items()}
    stored |= dict(gradients(model, disk))
    info = {'torch': torch.__version__, 'transformers': transformers.__version__, 'loss': loss.item()}
    if hasattr(model, 'config'):
        info['config'] = config_of(model)
    return stored, info | (facts or {})


def tokens(generator, vocab, *shape):
    """Never 0, for which transformers withholds the gradient of padding."""
    return torch.randint(1, vocab, shape, generator=generator)


def llama():
    config = transformers.LlamaConfig(
        vocab_size=43, hidden_size=32, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        max_position_embeddings=32, rms_norm_eps=1e-5, rope_parameters={'rope_type': 'default', 'rope_theta': 5000.0},
        attn_implementation='eager', tie_word_embeddings=False,
    )
    model = randomise(transformers.LlamaForCausalLM(config), 2).double()
    generator = torch.Generator().manual_seed(3)
    ids, targets = tokens(generator, 43, 2, 13), tokens(generator, 43, 2, 13)
    logits = model(ids).logits
    return pack(model, {'ids': ids, 'targets': targets}, {'logits': logits}, cross_entropy(logits.flatten(0, 1), targets.flatten()))


def padded(generator, rows, length):
    """A mask in which the last row is three tokens short."""
    mask = torch.ones(rows, length, dtype=torch.long)
    mask[-1, -3:] = 0
    return mask


def masked_lm(model, vocab, seed, types):
    generator = torch.Generator().manual_seed(seed)
    ids, targets = tokens(generator, vocab, 2, 11), tokens(generator, vocab, 2, 11)
    mask = padded(generator, 2, 11)
    targets[torch.rand(targets.shape, generator=generator) < 0.6] = -1
    targets[mask == 0] = -1
    inputs = {'ids': ids, 'targets': targets, 'mask': mask}
    extra = {}
    if types:
        extra['token_type_ids'] = inputs['types'] = torch.randint(2, (2, 11), generator=generator)
    logits = model(ids, attention_mask=mask, **extra).logits
    loss = cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-1)
    return pack(model, inputs, {'logits': logits}, loss)


def classification(model, vocab, classes, seed):
    generator = torch.Generator().manual_seed(seed)
    ids, labels = tokens(generator, vocab, 3, 9), torch.randint(classes, (3,), generator=generator)
    mask = padded(generator, 3, 9)
    logits = model(ids, attention_mask=mask).logits
    return pack(model, {'ids': ids, 'labels': labels, 'mask': mask}, {'logits': logits}, cross_entropy(logits, labels))


BERT = dict(vocab_size=37, hidden_size=24, num_hidden_layers=2, num_attention_heads=3, intermediate_size=40, max_position_embeddings=16, attn_implementation='eager')
DISTILBERT = dict(vocab_size=37, dim=24, n_layers=2, n_heads=3, hidden_dim=40, max_position_embeddings=16, attn_implementation='eager')


def bert():
    return masked_lm(randomise(transformers.BertForMaskedLM(transformers.BertConfig(**BERT)), 4).double(), 37, 5, types=True)


def bert_classes():
    config = transformers.BertConfig(**BERT, num_labels=3)
    return classification(randomise(transformers.BertForSequenceClassification(config), 6).double(), 37, 3, 7)


def distilbert():
    return masked_lm(randomise(transformers.DistilBertForMaskedLM(transformers.DistilBertConfig(**DISTILBERT)), 8).double(), 37, 9, types=False)


def distilbert_classes():
    config = transformers.DistilBertConfig(**DISTILBERT, num_labels=3)
    return classification(randomise(transformers.DistilBertForSequenceClassification(config), 10).double(), 37, 3, 11)


def images(model, size, classes, seed, facts=None):
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randn(2, 3, size, size, generator=generator)
    labels = torch.randint(classes, (2,), generator=generator)
    logits = model(pixels.double())
    logits = getattr(logits, 'logits', logits)
    return pack(model, {'labels': labels}, {'pixels': pixels, 'logits': logits}, cross_entropy(logits, labels), facts)


def vit():
    config = transformers.ViTConfig(
        hidden_size=24, num_hidden_layers=2, num_attention_heads=3, intermediate_size=40, image_size=12, patch_size=4, num_labels=5,
        attn_implementation='eager',
    )
    return images(randomise(transformers.ViTForImageClassification(config), 12).double(), 12, 5, 13)


def convit():
    # timm imports torchvision, which asks for two operators that a build for another torch does not bring along.
    del sys.modules['torchvision']
    library = torch.library.Library('torchvision', 'FRAGMENT')
    for name in ('nms', 'qnms'):
        if not hasattr(torch.ops.torchvision, name):
            library.define(f'{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor')
    from timm.models.convit import ConVit

    shape = dict(img_size=12, patch_size=4, num_classes=5, embed_dim=6, depth=3, num_heads=4, local_up_to_layer=2, mlp_ratio=2.0)
    return images(randomise(ConVit(**shape), 14).double(), 12, 5, 15, {'shape': shape})


def bart():
    config = transformers.BartConfig(
        vocab_size=37, d_model=24, encoder_layers=2, decoder_layers=2, encoder_attention_heads=3, decoder_attention_heads=3,
        encoder_ffn_dim=40, decoder_ffn_dim=32, max_position_embeddings=16, scale_embedding=True, pad_token_id=0, attn_implementation='eager',
    )
    model = randomise(transformers.BartForConditionalGeneration(config), 16).double()
    generator = torch.Generator().manual_seed(17)
    source, ids, targets = tokens(generator, 37, 2, 11), tokens(generator, 37, 2, 7), tokens(generator, 37, 2, 7)
    mask = padded(generator, 2, 11)
    logits = model(input_ids=source, attention_mask=mask, decoder_input_ids=ids).logits
    loss = cross_entropy(logits.flatten(0, 1), targets.flatten())
    return pack(model, {'source': source, 'ids': ids, 'targets': targets, 'mask': mask}, {'logits': logits}, loss)


GOLDENS = {f.__name__: f for f in (llama, bert, bert_classes, distilbert, distilbert_classes, vit, convit, bart)}


def write(goldens, check):
    """Writes {name: (tensors, facts)} as NAME.safetensors and NAME.json, or compares; returns how many differ."""
    differing = 0
    for name, (tensors, facts) in goldens.items():
        text = json.dumps(facts, indent=1, allow_nan=False) + '\n'
        for path, content in {HERE / f'{name}.safetensors': encode(tensors), HERE / f'{name}.json': text.encode()}.items():
            same = path.exists() and path.read_bytes() == content
            if not check:
                path.write_bytes(content)
                print(f'{path.name}: {len(content)} bytes')
            elif not same:
                differing += 1
                print(f'{path.name}: differs')
    return differing


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--check', action='store_true', help='compare with the files, write nothing')
    parser.add_argument('names', nargs='*', default=list(GOLDENS), help='default: all')
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    sys.exit(1 if write({name: GOLDENS[name]() for name in arguments.names}, arguments.check) else 0)


if __name__ == '__main__':
    main()
