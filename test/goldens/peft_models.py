"""Writes peft/NAME/ beside this file: the adapters of the peft library over the LLaMA of llama.safetensors (and the BERT of
bert_classes.safetensors), as that library saves them, with logits of one batch in f64 in peft.safetensors.

--verify FOLDER: loads FOLDER/NAME/ as written by somebody else into that library, and compares its logits.
Needs torch, transformers and peft. --check compares with the files.
"""

import argparse
import copy
import json
import sys
import tempfile
from pathlib import Path

import torch
from models import HERE, encode, load, transformers
import peft

LORA_ALL = ['q_proj', 'k_proj', 'v_proj', 'o_proj', 'gate_proj', 'up_proj', 'down_proj']


def base(stem):
    facts = json.loads((HERE / f'{stem}.json').read_text())
    config = {key: value for key, value in facts['config'].items() if not key.startswith('_')}
    kind = getattr(transformers, config['architectures'][0])
    model = kind(kind.config_class(**config, attn_implementation='eager'))
    weights = {name[8:]: tensor for name, tensor in load(HERE / f'{stem}.safetensors').items() if name.startswith('weights.')}
    model.load_state_dict(weights, strict=False)
    return model.eval()


def lora(**options):
    return 'llama', peft.LoraConfig(task_type='CAUSAL_LM', **options)


CONFIGS = {
    'lora': lora(r=4, lora_alpha=6, target_modules=['q_proj', 'v_proj']),
    'rslora': lora(r=4, lora_alpha=6, target_modules=LORA_ALL, use_rslora=True, rank_pattern={'down_proj': 2}, alpha_pattern={'down_proj': 3}),
    'dora': lora(r=3, lora_alpha=5, target_modules=LORA_ALL, use_dora=True),
    'ia3': ('llama', peft.IA3Config(task_type='CAUSAL_LM', target_modules=['k_proj', 'v_proj', 'down_proj'], feedforward_modules=['down_proj'])),
    'prompt': ('llama', peft.PromptTuningConfig(task_type='CAUSAL_LM', num_virtual_tokens=3)),
    'prefix': ('llama', peft.PrefixTuningConfig(task_type='CAUSAL_LM', num_virtual_tokens=3)),
    'lora_classes': ('bert_classes', peft.LoraConfig(task_type='SEQ_CLS', r=2, lora_alpha=4, target_modules=['query', 'dense'], modules_to_save=['classifier'])),
}


def logits(model, stem):
    stored = load(HERE / f'{stem}.safetensors')
    extra = {'attention_mask': stored['mask'].long()} if 'mask' in stored else {}
    with torch.no_grad():
        ids = stored['ids'].long()
        found = model(input_ids=ids, **extra).logits
        # Those of a prompt come first.
        return found[:, -ids.shape[1] :] if found.dim() == 3 else found


def adapted(name):
    stem, config = CONFIGS[name]
    torch.manual_seed(1)
    model = peft.get_peft_model(base(stem), copy.deepcopy(config))
    generator = torch.Generator().manual_seed(list(CONFIGS).index(name) + 30)
    with torch.no_grad():
        for key, parameter in sorted(model.named_parameters()):
            if parameter.requires_grad:
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.copy_(parameter * (1 + 0.3 * noise) if 'ia3' in key or 'magnitude' in key else 0.3 * noise)
    return model, stem


def write(check):
    differing, results = 0, {}
    for name in CONFIGS:
        model, stem = adapted(name)
        with tempfile.TemporaryDirectory() as folder:
            model.save_pretrained(folder)
            # Lists that come from sets change their order from run to run.
            config = json.loads((Path(folder) / 'adapter_config.json').read_text())
            config = {key: sorted(value) if isinstance(value, list) else value for key, value in config.items()}
            files = {
                'adapter_config.json': (json.dumps(config, indent=2, sort_keys=True) + '\n').encode(),
                'adapter_model.safetensors': (Path(folder) / 'adapter_model.safetensors').read_bytes(),
            }
        results[f'{name}.logits'] = logits(model.double(), stem)
        target = HERE / 'peft' / name
        target.mkdir(parents=True, exist_ok=True)
        for file, content in files.items():
            if not check:
                (target / file).write_bytes(content)
                print(f'{name}/{file}: {len(content)} bytes')
            elif (target / file).read_bytes() != content:
                differing += 1
                print(f'{name}/{file}: differs')
    path, content = HERE / 'peft.safetensors', encode(results)
    if not check:
        path.write_bytes(content)
    elif path.read_bytes() != content:
        differing += 1
        print(f'{path.name}: differs')
    return differing


def verify(folder):
    expected = load(HERE / 'peft.safetensors')
    worst = 0.0
    for name, (stem, _) in CONFIGS.items():
        model = peft.PeftModel.from_pretrained(base(stem), str(Path(folder) / name)).eval().double()
        difference = (logits(model, stem) - expected[f'{name}.logits']).abs().max().item()
        print(f'{name}: largest difference of the logits {difference:.2g}')
        worst = max(worst, difference)
    return 0 if worst < 1e-5 else 1


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--check', action='store_true', help='compare with the files, write nothing')
    parser.add_argument('--verify', metavar='FOLDER')
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    sys.exit(verify(arguments.verify) if arguments.verify else 1 if write(arguments.check) else 0)


if __name__ == '__main__':
    main()
