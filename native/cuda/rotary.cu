// rotary: turns the pairs of numbers of each head by an angle that depends on position and pair (native/ops/rotary.cpp), in two
// launches. The first computes cos and sin of every place and pair in f64, into the workspace: a thread owns one. In the second
// a thread owns two packs of 16 bytes at the same place of several heads, whose cosines it reads once; lanes are neighbours
// in a head, then in the heads, so a warp reads whole rows. Bound by bytes (x read, y written); 256 threads a block.
// Warps an SM: angles_kernel 48, turn_kernel 32.
#include <cmath>

#include "cuda/pointwise.cuh"

namespace lf::cuda {
namespace {

template <class A>
struct alignas(2 * sizeof(A)) Angle {
  A cosine, sine;
};

// Neither sincos(), which keeps an array on the stack for very large angles, nor pow(), which is a call: everything stays in
// registers, at the same precision.

// base ^ power, by the logarithm of the base in twice the precision.
struct PowerOf {
  double log, rest;
  explicit PowerOf(double base) {
    const long double exact = std::log(static_cast<long double>(base));
    log = static_cast<double>(exact);
    rest = static_cast<double>(exact - log);
  }
  __device__ __forceinline__ double operator()(double power) const {
    const double exponent = power * log;
    return ::exp(exponent) * (1 + (::fma(power, log, -exponent) + power * rest));
  }
};

// The angle is divided by pi in twice the precision, whole turns go exactly, and sincospi() does the rest.
__device__ __forceinline__ void sine_and_cosine(double angle, double& sine, double& cosine) {
  constexpr double kOver = 0.31830988618379067, kRest = -1.9678676675182486e-17;  // 1 / pi
  const double half_turns = angle * kOver;
  const double left = ::fma(angle, kOver, -half_turns) + angle * kRest;
  ::sincospi(half_turns - 2 * ::rint(0.5 * half_turns) + left, &sine, &cosine);
}

// Where pair j of a place lies in its row of the table, for threads that own `count` pairs each: what lanes load at a time, 16
// bytes each, are neighbours.
template <class A>
__host__ __device__ __forceinline__ int64_t table_place(int64_t j, int64_t half, int count) {
  constexpr int kLoad = 16 / sizeof(Angle<A>);
  if (count < kLoad) return j;
  const int64_t unit = j / count, k = j % count;
  return (k / kLoad * (half / count) + unit) * kLoad + k % kLoad;
}

template <class A>
__global__ void __launch_bounds__(256) angles_kernel(const int32_t* positions, int64_t offset, int64_t n, Divisor half, int count,
                                                     PowerOf base, double direction, Angle<A>* table) {
  for (int64_t i = blockIdx.x * int64_t{blockDim.x} + threadIdx.x; i < n; i += int64_t{gridDim.x} * blockDim.x) {
    int64_t j;
    const int64_t place = half.divide(i, j);
    const double frequency = base(-static_cast<double>(j) / static_cast<double>(half.by));
    const double at = positions ? static_cast<double>(positions[place]) : static_cast<double>(place + offset);
    double sine, cosine;
    sine_and_cosine(direction * at * frequency, sine, cosine);
    table[place * half.by + table_place<A>(j, half.by, count)] = {static_cast<A>(cosine), static_cast<A>(sine)};
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
    using A = Acc<T>;
    constexpr int kLoad = count * sizeof(Angle<A>) < 16 ? 1 : 16 / sizeof(Angle<A>);
    const Angle<A>* angles = table + (h.by_position ? row : token) * h.half + unit * kLoad;
    Angle<A> angle[count];
#pragma unroll
    for (int k = 0; k < count; k += kLoad) {
      const auto together = *reinterpret_cast<const Items<Angle<A>, kLoad>*>(angles + k * (h.half / count));
#pragma unroll
      for (int n = 0; n < kLoad; ++n) angle[k + n] = together.at[n];
    }
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
    const bool packs = heads.half % Pack<T>::n == 0 && aligned16(x.data) && aligned16(y.data);
    angles_kernel<<<blocks_for(args, n, 256), 256, 0, stream_of(args).stream>>>(
        positions.present() ? positions.as<const int32_t>() : nullptr, args->integer(4), n, Divisor(heads.half), packs ? Pack<T>::n : 1,
        PowerOf(args->number(2)), args->flag(5) ? -1.0 : 1.0, static_cast<Angle<Acc<T>>*>(args->workspace));
    if (const int32_t code = launched(args)) return code;
    return packs ? turn<T, Pack<T>::n>(args, heads, rows, x.shape[1]) : turn<T, 1>(args, heads, rows, x.shape[1]);
  });
}

}  // namespace

LF_CUDA_KERNEL(rotary, rotary)

}  // namespace lf::cuda
