// permute, flip, and the strided copies behind slice and concat. Any format, elements are only moved; bound by bytes.
//   Runs that are dense on both sides: a thread moves one unit of up to 16 bytes, as large as sizes, strides and starts
//   allow; 256 threads a block, full occupancy.
//   Dense along one axis in the source and along another in the target: a block of 32 x 8 threads moves a tile of 32 x 32
//   through shared memory (padded against bank conflicts), a warp reads and writes rows. 8 blocks a multiprocessor.
#include "cuda/kernel.cuh"
#include "cuda/strided.cuh"

namespace lf::cuda {
namespace {

template <class Unit>
__global__ void __launch_bounds__(256) move_kernel(const Unit* from, Unit* to, int64_t n, const __grid_constant__ Axes axes) {
  for (int64_t i = blockIdx.x * int64_t{blockDim.x} + threadIdx.x; i < n; i += int64_t{gridDim.x} * blockDim.x) {
    int64_t from_at = 0, to_at = 0;
    axes.place(i, from_at, to_at);
    to[to_at] = from[from_at];
  }
}

constexpr int kTile = 32;

// `across` is dense in the target and has `across_step` in the source; `down` the other way round.
struct Plane {
  int64_t across, across_step, down, down_step;
  Divisor tiles_across, tiles_down;
  Axes rest;
};

template <class T>
__global__ void __launch_bounds__(256) transpose_kernel(const T* from, T* to, const __grid_constant__ Plane plane) {
  __shared__ T tile[kTile][kTile + 1];
  int64_t column, row, from_at = 0, to_at = 0;
  const int64_t rest = plane.tiles_down.divide(plane.tiles_across.divide(blockIdx.x, column), row);
  plane.rest.place(rest, from_at, to_at);
  column *= kTile;
  row *= kTile;
  from += from_at + column * plane.across_step + row;
  to += to_at + row * plane.down_step + column;
  const int64_t wide = plane.across - column, tall = plane.down - row;
#pragma unroll
  for (int i = threadIdx.y; i < kTile; i += 8) {
    if (threadIdx.x < tall && i < wide) tile[i][threadIdx.x] = from[i * plane.across_step + threadIdx.x];
  }
  __syncthreads();
#pragma unroll
  for (int i = threadIdx.y; i < kTile; i += 8) {
    if (threadIdx.x < wide && i < tall) to[i * plane.down_step + threadIdx.x] = tile[threadIdx.x][i];
  }
}

template <class Unit>
int32_t move(const KernelArgs* args, const Strided& moved, const void* from, void* to, int64_t n) {
  move_kernel<<<blocks_for(args, n, 256), 256, 0, stream_of(args).stream>>>(static_cast<const Unit*>(from), static_cast<Unit*>(to),
                                                                            n, Axes(moved));
  return launched(args);
}

template <class T>
int32_t transpose(const KernelArgs* args, const Strided& moved, int down, const void* from, void* to) {
  Plane plane{moved.size[0], moved.from[0], moved.size[down], moved.to[down], {}, {}, {}};
  Strided rest;
  int64_t planes = 1;
  for (int i = 1; i < moved.rank; ++i) {
    if (i == down) continue;
    rest.size[rest.rank] = moved.size[i];
    rest.from[rest.rank] = moved.from[i];
    rest.to[rest.rank++] = moved.to[i];
    planes *= moved.size[i];
  }
  const int64_t across = (plane.across + kTile - 1) / kTile, tall = (plane.down + kTile - 1) / kTile;
  const int64_t tiles = across * tall * planes;
  plane.tiles_across = Divisor(across);
  plane.tiles_down = Divisor(tall);
  plane.rest = Axes(rest);
  transpose_kernel<<<static_cast<unsigned>(tiles), dim3(kTile, 8), 0, stream_of(args).stream>>>(static_cast<const T*>(from),
                                                                                                static_cast<T*>(to), plane);
  return launched(args);
}

}  // namespace

int32_t move_strided(const KernelArgs* args, Strided moved, const void* from, void* to, int64_t bytes) {
  int64_t n = 1;
  for (int i = 0; i < moved.rank; ++i) n *= moved.size[i];
  if (n == 0) return kOk;
  if (moved.rank == 0) {
    moved.rank = 1;
    moved.size[0] = moved.from[0] = moved.to[0] = 1;
  }
  if (moved.from[0] == 1 && moved.to[0] == 1) {
    // The largest unit that divides everything.
    uint64_t all = static_cast<uint64_t>(moved.size[0] * bytes) | reinterpret_cast<uintptr_t>(from) | reinterpret_cast<uintptr_t>(to) | 16;
    for (int i = 1; i < moved.rank; ++i) all |= static_cast<uint64_t>(moved.from[i] * bytes) | static_cast<uint64_t>(moved.to[i] * bytes);
    const auto unit = static_cast<int64_t>(all & (~all + 1));
    const int64_t elements = unit / bytes;
    if (elements > 1) {
      moved.size[0] /= elements;
      for (int i = 1; i < moved.rank; ++i) {
        moved.from[i] /= elements;
        moved.to[i] /= elements;
      }
      n /= elements;
      bytes = unit;
    }
  } else if (moved.to[0] == 1 && moved.size[0] >= 8) {
    for (int i = 1; i < moved.rank; ++i) {
      if (moved.from[i] != 1 || moved.size[i] < 8) continue;
      switch (bytes) {
        case 1: return transpose<uint8_t>(args, moved, i, from, to);
        case 2: return transpose<uint16_t>(args, moved, i, from, to);
        case 4: return transpose<uint32_t>(args, moved, i, from, to);
        default: return transpose<uint64_t>(args, moved, i, from, to);
      }
    }
  }
  switch (bytes) {
    case 1: return move<uint8_t>(args, moved, from, to, n);
    case 2: return move<uint16_t>(args, moved, from, to, n);
    case 4: return move<uint32_t>(args, moved, from, to, n);
    case 8: return move<uint64_t>(args, moved, from, to, n);
    default: return move<uint4>(args, moved, from, to, n);
  }
}

namespace {

// out's axis i reads x with strides[i], from element `first` of x on.
int32_t read(const KernelArgs* args, const int64_t* strides, int64_t first) {
  const TensorView &x = args->inputs[0], &out = args->outputs[0];
  const int64_t bytes = dtype_size(x.dtype);
  Strided moved;
  for (int i = out.rank - 1; i >= 0; --i) moved.push(out.shape[i], strides[i], out.span(i + 1, out.rank));
  return move_strided(args, moved, x.as<const char>() + first * bytes, out.data, bytes);
}

int32_t permute(const KernelArgs* args) {
  const TensorView& x = args->inputs[0];
  int64_t strides[kMaxRank];
  for (int i = 0; i < x.rank; ++i) strides[i] = x.span(static_cast<int>(args->item(0, i)) + 1, x.rank);
  return read(args, strides, 0);
}

int32_t flip(const KernelArgs* args) {
  const TensorView& x = args->inputs[0];
  int64_t strides[kMaxRank], first = 0;
  for (int i = 0; i < x.rank; ++i) strides[i] = x.span(i + 1, x.rank);
  for (int k = 0; k < args->list_size(0); ++k) {
    const auto axis = static_cast<int>(args->item(0, k));
    first += (x.shape[axis] - 1) * strides[axis];
    strides[axis] = -strides[axis];
  }
  return read(args, strides, first);
}

}  // namespace

LF_CUDA_KERNEL(permute, permute)
LF_CUDA_KERNEL(flip, flip)

}  // namespace lf::cuda
