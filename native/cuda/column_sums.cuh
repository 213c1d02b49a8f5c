// The last step of sums over rows that many blocks share: partial sums [parts, columns] are added in order. Warps an SM:
// combine_columns_kernel 64.
#pragma once
#include "cuda/kernel.cuh"

namespace lf::cuda {

constexpr int kCombineColumns = 32, kCombineSlices = 8;

// A warp owns 32 columns and every 8th run of the parts; the block adds its 8 runs in order. Column c goes to first[c], or to
// second[c - split] from `split` on. Bound by bytes: parts * columns are read once.
template <class A>
__global__ void __launch_bounds__(kCombineColumns* kCombineSlices)
    combine_columns_kernel(const A* partial, int parts, int columns, A* first, int split, A* second, bool add) {
  __shared__ A runs[kCombineSlices][kCombineColumns];
  const int column = blockIdx.x * kCombineColumns + threadIdx.x, length = (parts + kCombineSlices - 1) / kCombineSlices;
  const int begin = threadIdx.y * length, end = begin + length < parts ? begin + length : parts;
  A sum = 0;
  if (column < columns) {
#pragma unroll 8
    for (int p = begin; p < end; ++p) sum += partial[static_cast<int64_t>(p) * columns + column];
  }
  runs[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y != 0 || column >= columns) return;
  for (int s = 1; s < kCombineSlices; ++s) sum += runs[s][threadIdx.x];
  A* to = column < split ? first + column : second + (column - split);
  *to = add ? *to + sum : sum;
}

template <class A>
int32_t combine_columns(const KernelArgs* args, const A* partial, int64_t parts, int64_t columns, A* first, int64_t split, A* second,
                        bool add) {
  if (columns == 0) return kOk;
  const auto blocks = static_cast<unsigned>((columns + kCombineColumns - 1) / kCombineColumns);
  combine_columns_kernel<A><<<blocks, dim3(kCombineColumns, kCombineSlices), 0, stream_of(args).stream>>>(
      partial, static_cast<int>(parts), static_cast<int>(columns), first, static_cast<int>(split), second, add);
  return launched(args);
}

}  // namespace lf::cuda
