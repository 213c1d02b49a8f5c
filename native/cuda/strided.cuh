// Copies between tensors whose axes lie in different ways: what permute, flip, slice and concat have in common. The
// kernels are in permute.cu.
#pragma once
#include "cuda/kernel.cuh"

namespace lf::cuda {

// Elements to move, from the innermost axis outwards; strides in elements, of any sign.
struct Strided {
  int rank = 0;
  int64_t size[kMaxRank], from[kMaxRank], to[kMaxRank];

  // Adds the next outer axis; one that continues the axis before is merged with it.
  void push(int64_t count, int64_t from_stride, int64_t to_stride) {
    if (count == 1) return;
    const int last = rank - 1;
    if (rank > 0 && from_stride == from[last] * size[last] && to_stride == to[last] * size[last]) {
      size[last] *= count;
      return;
    }
    size[rank] = count;
    from[rank] = from_stride;
    to[rank++] = to_stride;
  }
};

// The same for a kernel.
struct Axes {
  int rank;
  Divisor size[kMaxRank];
  int64_t from[kMaxRank], to[kMaxRank];

  Axes() = default;
  explicit Axes(const Strided& moved) : rank(moved.rank) {
    for (int i = 0; i < rank; ++i) {
      size[i] = Divisor(moved.size[i]);
      from[i] = moved.from[i];
      to[i] = moved.to[i];
    }
  }
  __device__ __forceinline__ void place(int64_t flat, int64_t& from_at, int64_t& to_at) const {
#pragma unroll 1
    for (int axis = 0; axis < rank; ++axis) {
      int64_t index = flat;
      if (axis + 1 < rank) flat = size[axis].divide(flat, index);
      from_at += index * from[axis];
      to_at += index * to[axis];
    }
  }
};

// Moves elements of `bytes` bytes; `from` and `to` are the places of the first one.
int32_t move_strided(const KernelArgs* args, Strided moved, const void* from, void* to, int64_t bytes);

}  // namespace lf::cuda
