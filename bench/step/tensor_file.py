"""Reads and writes safetensors files with PyTorch alone, so that a baseline needs no further package.

Format: u64 little-endian length of a JSON header {name: {dtype, shape, data_offsets}}, the header, then the bytes.
"""

import json
import struct

import torch

DTYPES = {
    'F64': torch.float64, 'F32': torch.float32, 'F16': torch.float16, 'BF16': torch.bfloat16,
    'I64': torch.int64, 'I32': torch.int32, 'I8': torch.int8, 'U8': torch.uint8, 'BOOL': torch.bool,
}
NAMES = {dtype: name for name, dtype in DTYPES.items()}


def encode(tensors):
    """{name: tensor} -> the bytes of a file. Equal tensors give equal bytes."""
    header, chunks, end = {}, [], 0
    # Widest types first keeps every tensor aligned.
    for name in sorted(tensors, key=lambda name: (-tensors[name].element_size(), name)):
        tensor = tensors[name].detach().contiguous()
        chunk = bytes(tensor.reshape(-1).clone().untyped_storage()) if tensor.numel() else b''
        header[name] = {
            'dtype': NAMES[tensor.dtype], 'shape': list(tensor.shape), 'data_offsets': [end, end + len(chunk)],
        }
        end += len(chunk)
        chunks.append(chunk)
    text = json.dumps(header, separators=(',', ':')).encode()
    text += b' ' * (-len(text) % 8)
    return struct.pack('<Q', len(text)) + text + b''.join(chunks)


def load(path):
    """The file at `path` -> {name: tensor}."""
    with open(path, 'rb') as file:
        content = file.read()
    if len(content) < 8:
        raise ValueError(f'{path} is not a safetensors file: {len(content)} bytes')
    (length,) = struct.unpack('<Q', content[:8])
    header = json.loads(content[8 : 8 + length])
    header.pop('__metadata__', None)
    body = bytearray(content[8 + length :])
    tensors = {}
    for name, entry in header.items():
        begin, end = entry['data_offsets']
        if not begin <= end <= len(body):
            raise ValueError(f'{path}: {name} lies outside the file')
        dtype = DTYPES[entry['dtype']]
        flat = torch.frombuffer(body[begin:end], dtype=dtype) if end > begin else torch.empty(0, dtype=dtype)
        tensors[name] = flat.reshape(entry['shape'])
    return tensors
