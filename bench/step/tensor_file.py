"""Reads and writes safetensors files with PyTorch alone, so that a baseline needs no further package.

Format: u64 little-endian length of a JSON header {name: {dtype, shape, data_offsets}}, the header, then the bytes.
"""

import ctypes
import json
import os
import struct

import torch

DTYPES = {
    'F64': torch.float64, 'F32': torch.float32, 'F16': torch.float16, 'BF16': torch.bfloat16,
    'I64': torch.int64, 'I32': torch.int32, 'I8': torch.int8, 'U8': torch.uint8, 'BOOL': torch.bool,
}
NAMES = {dtype: name for name, dtype in DTYPES.items()}


def parts(tensors):
    """{name: tensor} -> the bytes of a file, piece by piece. Equal tensors give equal bytes."""
    # Widest types first keeps every tensor aligned.
    names = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    header, end = {}, 0
    for name in names:
        size = tensors[name].numel() * tensors[name].element_size()
        header[name] = {
            'dtype': NAMES[tensors[name].dtype], 'shape': list(tensors[name].shape), 'data_offsets': [end, end + size],
        }
        end += size
    text = json.dumps(header, separators=(',', ':')).encode()
    text += b' ' * (-len(text) % 8)
    yield struct.pack('<Q', len(text)) + text
    for name in names:
        tensor = tensors[name].detach().contiguous()
        yield ctypes.string_at(tensor.data_ptr(), tensor.numel() * tensor.element_size())


def encode(tensors):
    """{name: tensor} -> the bytes of a file."""
    return b''.join(parts(tensors))


def load(path):
    """The file at `path` -> {name: tensor}."""
    with open(path, 'rb') as file:
        size = os.fstat(file.fileno()).st_size
        if size < 8:
            raise ValueError(f'{path} is not a safetensors file: {size} bytes')
        (length,) = struct.unpack('<Q', file.read(8))
        header = json.loads(file.read(length))
        header.pop('__metadata__', None)
        tensors = {}
        for name, entry in header.items():
            begin, end = entry['data_offsets']
            if not begin <= end <= size - 8 - length:
                raise ValueError(f'{path}: {name} lies outside the file')
            dtype = DTYPES[entry['dtype']]
            file.seek(8 + length + begin)
            flat = torch.frombuffer(bytearray(file.read(end - begin)), dtype=dtype) if end > begin else torch.empty(0, dtype=dtype)
            tensors[name] = flat.reshape(entry['shape'])
    return tensors
