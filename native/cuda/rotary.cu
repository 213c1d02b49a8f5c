// rotary: turns the pairs of numbers of each head by an angle that depends on position and pair (native/ops/rotary.cpp), in two
// launches. The first computes cos and sin of every place and pair in f64, into the workspace: a thread owns one. In the second
// a thread owns two packs of 16 bytes at the same place of several heads, whose cosines it reads once; lanes are neighbours
// in a head, then in the heads, so a warp reads whole rows. Bound by bytes (x read, y written); 256 threads a block,
// occupancy at least one half.
#include "cuda/pointwise.cuh"

namespace lf::cuda {
namespace {

template <class A>
struct alignas(2 * sizeof(A)) Angle {
  A cosine, sine;
};

template <class A>
__global__ void __launch_bounds__(256)
    angles_kernel(const int32_t* positions, int64_t offset, int64_t n, Divisor half, double base, double direction, Angle<A>* table) {
  for (int64_t i = blockIdx.x * int64_t{blockDim.x} + threadIdx.x; i < n; i += int64_t{gridDim.x} * blockDim.x) {
    int64_t j;
    const int64_t place = half.divide(i, j);
    const double frequency = ::pow(base, -static_cast<double>(j) / static_cast<double>(half.by));
    const double at = positions ? static_cast<double>(positions[place]) : static_cast<double>(place + offset);
    double sine, cosine;
    ::sincos(direction * at * frequency, &sine, &cosine);
    table[i] = {static_cast<A>(cosine), static_cast<A>(sine)};
  }
}

struct Heads {
  Divisor units, groups, tokens;  // packs of half a head; groups of heads
  int64_t threads;
  int heads, turned, half, width;
  bool interleaved, by_position;
};

template <class T, int count>
__global__ void __launch_bounds__(256) turn_kernel(const T* x, T* y, const Angle<Acc<T>>* table, const __grid_constant__ Heads h) {
  for (int64_t i = blockIdx.x * int64_t{blockDim.x} + threadIdx.x; i < h.threads; i += int64_t{gridDim.x} * blockDim.x) {
    int64_t unit, group, token;
    const int64_t row = h.groups.divide(h.units.divide(i, unit), group);
    h.tokens.divide(row, token);
    const int64_t pair = unit * count;
    const Angle<Acc<T>>* angles = table + (h.by_position ? row : token) * h.half + pair;
    Angle<Acc<T>> angle[count];
#pragma unroll
    for (int k = 0; k < count; ++k) angle[k] = angles[k];
    const int64_t base = row * h.heads * h.width + (h.interleaved ? 2 * pair : pair);
    const int64_t second = h.interleaved ? count : h.half;
    for (int64_t head = group; head < h.heads; head += h.groups.by) {
      const int64_t at = base + head * h.width;
      Items<T, count> first = *reinterpret_cast<const Items<T, count>*>(x + at);
      Items<T, count> other = *reinterpret_cast<const Items<T, count>*>(x + at + second);
      const auto turn = [&](T& left, T& right, int k) {
        const Acc<T> a = widen(left), b = widen(right), c = angle[k].cosine, s = angle[k].sine;
        left = narrow<T>(a * c - b * s);
        right = narrow<T>(a * s + b * c);
      };
      if (head < h.turned) {
        if (!h.interleaved || count == 1) {
#pragma unroll
          for (int k = 0; k < count; ++k) turn(first.at[k], other.at[k], k);
        } else {
#pragma unroll
          for (int k = 0; k + 1 < count; k += 2) {
            turn(first.at[k], first.at[k + 1], k / 2);
            turn(other.at[k], other.at[k + 1], (count + k) / 2);
          }
        }
      }
      *reinterpret_cast<Items<T, count>*>(y + at) = first;
      *reinterpret_cast<Items<T, count>*>(y + at + second) = other;
    }
  }
}

template <class T, int count>
int32_t turn(const KernelArgs* args, Heads heads, int64_t rows, int64_t tokens) {
  constexpr int64_t kThreads = 1 << 16;  // that have enough in flight for a large device
  const int64_t units = heads.half / count;
  int64_t groups = (kThreads + rows * units - 1) / (rows * units);
  if (groups > heads.heads) groups = heads.heads;
  heads.threads = rows * units * groups;
  heads.units = Divisor(units);
  heads.groups = Divisor(groups);
  heads.tokens = Divisor(tokens);
  turn_kernel<T, count><<<blocks_for(args, heads.threads, 256), 256, 0, stream_of(args).stream>>>(
      args->inputs[0].as<const T>(), args->outputs[0].as<T>(), static_cast<const Angle<Acc<T>>*>(args->workspace), heads);
  return launched(args);
}

int32_t rotary(const KernelArgs* args) {
  const TensorView &x = args->inputs[0], &positions = args->inputs[1], &y = args->outputs[0];
  if (x.numel == 0) return kOk;
  const bool packed = args->integer(0) != 0;
  const int64_t kv_heads = packed ? args->integer(1) : 0, parts = packed ? args->integer(0) + 2 * kv_heads : x.shape[2];
  const int64_t width = packed ? x.shape[2] / parts : x.shape[3], rows = x.shape[0] * x.shape[1];
  Heads heads{};
  heads.heads = static_cast<int>(parts);
  heads.turned = static_cast<int>(parts - kv_heads);
  heads.half = static_cast<int>(width / 2);
  heads.width = static_cast<int>(width);
  heads.interleaved = args->flag(3);
  heads.by_position = positions.present();
  const int64_t n = (positions.present() ? rows : x.shape[1]) * heads.half;
  return dispatch_floating(x.dtype, [&](auto tag) {
    using T = typename decltype(tag)::Type;
    angles_kernel<<<blocks_for(args, n, 256), 256, 0, stream_of(args).stream>>>(
        positions.present() ? positions.as<const int32_t>() : nullptr, args->integer(4), n, Divisor(heads.half), args->number(2),
        args->flag(5) ? -1.0 : 1.0, static_cast<Angle<Acc<T>>*>(args->workspace));
    if (const int32_t code = launched(args)) return code;
    if (heads.half % Pack<T>::n == 0 && aligned16(x.data) && aligned16(y.data)) {
      return turn<T, Pack<T>::n>(args, heads, rows, x.shape[1]);
    }
    return turn<T, 1>(args, heads, rows, x.shape[1]);
  });
}

}  // namespace

LF_CUDA_KERNEL(rotary, rotary)

}  // namespace lf::cuda
