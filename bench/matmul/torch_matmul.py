"""PyTorch's side of `npm run bench -- matmul`: one JSON object a line in and out.

{"m", "n", "k", "batch", "transpose_a", "transpose_b", "precision", "threads", "seconds", "batches"} answers the seconds of one product,
the fastest of so many batches of calls that take `seconds` together."""
import json
import sys
import time

import torch


def measure(m, n, k, batch, transpose_a, transpose_b, precision, threads, seconds, batches):
    torch.set_num_threads(threads)
    dtype = torch.bfloat16 if precision == 'bf16' else torch.float32
    lead = [batch] if batch > 1 else []
    a = torch.randn(lead + ([k, m] if transpose_a else [m, k])).to(dtype)
    b = torch.randn(lead + ([n, k] if transpose_b else [k, n])).to(dtype)
    a = a.transpose(-1, -2) if transpose_a else a
    b = b.transpose(-1, -2) if transpose_b else b
    out = torch.matmul(a, b)
    begin, calls = time.perf_counter(), 0
    while calls < 2 or time.perf_counter() - begin < seconds / 4:
        torch.matmul(a, b, out=out)
        calls += 1
    best = float('inf')
    count = max(1, 4 * calls // batches)
    for _ in range(batches):
        begin = time.perf_counter()
        for _ in range(count):
            torch.matmul(a, b, out=out)
        best = min(best, (time.perf_counter() - begin) / count)
    return best


for line in sys.stdin:
    command = json.loads(line)
    if command.get('cmd') == 'quit':
        break
    with torch.no_grad():
        print(json.dumps({'seconds': measure(**command)}), flush=True)
