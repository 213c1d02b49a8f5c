// cumsum: running sums along an axis, forwards or in reverse; floating sums in f64, integers wrap around.
//   Many lines: a thread owns a line, lanes are neighbouring lines.
//   Few lines: each is cut into chunks by its length alone. One launch sums the chunks; in the next a block of 256 threads owns
//   a chunk: it adds up the sums before it and scans 256 elements at a time (warps by shuffles, then their sums).
// Bound by bytes: x read (twice in chunks) and y written. Full occupancy.
#include "cuda/kernel.cuh"

namespace lf::cuda {
namespace {

constexpr int64_t kManyLines = 8192, kLongChunk = 4096, kMostChunks = 256;
constexpr int kThreads = 256;

struct Lines {
  int64_t count, n, chunk;  // elements of a line, and of a piece
  int chunks;
  bool reverse;
  Divisor inner;

  // Element k of a line, in order of the sum, is base + k * step.
  __device__ __forceinline__ int64_t base(int64_t line, int64_t& step) const {
    int64_t lane;
    const int64_t outer = inner.divide(line, lane), first = outer * n * inner.by + lane;
    step = reverse ? -inner.by : inner.by;
    return reverse ? first + (n - 1) * inner.by : first;
  }
};

Lines plan_lines(const TensorView& x, int64_t given_axis, bool reverse) {
  const int axis = static_cast<int>(given_axis < 0 ? given_axis + x.rank : given_axis);
  Lines lines{};
  lines.n = x.shape[axis];
  lines.reverse = reverse;
  const int64_t inner = x.span(axis + 1, x.rank);
  lines.count = x.span(0, axis) * inner;
  lines.inner = Divisor(inner);
  const int64_t chunks = (lines.n + kLongChunk - 1) / kLongChunk;
  lines.chunks = static_cast<int>(chunks < 1 ? 1 : chunks > kMostChunks ? kMostChunks : chunks);
  lines.chunk = ((lines.n + lines.chunks - 1) / lines.chunks + kThreads - 1) / kThreads * kThreads;
  return lines;
}

template <class T>
using Sum = std::conditional_t<std::is_integral_v<T>, unsigned long long, double>;
template <class T>
__device__ __forceinline__ Sum<T> summand(T x) {
  if constexpr (std::is_integral_v<T>) return static_cast<unsigned long long>(x);
  else return static_cast<double>(widen(x));
}
template <class T>
__device__ __forceinline__ T stored(Sum<T> sum) {
  if constexpr (std::is_integral_v<T>) return static_cast<T>(sum);
  else return narrow<T>(static_cast<Acc<T>>(sum));
}

template <class T>
__global__ void __launch_bounds__(kThreads) scan_lines_kernel(const T* x, T* y, const __grid_constant__ Lines lines) {
  const int64_t line = blockIdx.x * int64_t{kThreads} + threadIdx.x;
  if (line >= lines.count) return;
  int64_t step;
  const int64_t base = lines.base(line, step);
  Sum<T> sum{};
#pragma unroll 4
  for (int64_t k = 0; k < lines.n; ++k) {
    sum += summand(x[base + k * step]);
    y[base + k * step] = stored<T>(sum);
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads) chunk_sums_kernel(const T* x, Sum<T>* sums, const __grid_constant__ Lines lines) {
  __shared__ Sum<T> shared[32];
  const int64_t line = blockIdx.x / lines.chunks, first = blockIdx.x % lines.chunks * lines.chunk;
  int64_t step;
  const int64_t base = lines.base(line, step), end = first + lines.chunk < lines.n ? first + lines.chunk : lines.n;
  Sum<T> sum{};
  for (int64_t k = first + threadIdx.x; k < end; k += kThreads) sum += summand(x[base + k * step]);
  sum = block_sum(sum, shared);
  if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    scan_chunks_kernel(const T* x, T* y, const Sum<T>* sums, const __grid_constant__ Lines lines) {
  __shared__ Sum<T> shared[32];
  const int chunk = static_cast<int>(blockIdx.x % lines.chunks), warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int64_t line = blockIdx.x / lines.chunks, first = chunk * lines.chunk;
  int64_t step;
  const int64_t base = lines.base(line, step), end = first + lines.chunk < lines.n ? first + lines.chunk : lines.n;
  Sum<T> before{};
  if (chunk > 0) {
    if (static_cast<int>(threadIdx.x) < chunk) before = sums[line * lines.chunks + threadIdx.x];  // at most kMostChunks
    before = block_sum(before, shared);
    __syncthreads();
  }
  for (int64_t at = first; at < end; at += kThreads) {
    const int64_t k = at + threadIdx.x;
    Sum<T> sum = k < end ? summand(x[base + k * step]) : Sum<T>{};
#pragma unroll
    for (int reach = 1; reach < 32; reach *= 2) {
      const Sum<T> other = __shfl_up_sync(kFullWarp, sum, reach);
      if (lane >= reach) sum += other;
    }
    if (lane == 31) shared[warp] = sum;
    __syncthreads();
    Sum<T> warps = before;
    for (int w = 0; w < warp; ++w) warps += shared[w];
    if (k < end) y[base + k * step] = stored<T>(warps + sum);
    for (int w = 0; w < kThreads / 32; ++w) before += shared[w];
    __syncthreads();
  }
}

bool in_chunks(const Lines& lines) { return lines.count < kManyLines; }

int32_t cumsum(const KernelArgs* args) {
  const TensorView &x = args->inputs[0], &y = args->outputs[0];
  if (x.numel == 0) return kOk;
  const Lines lines = plan_lines(x, args->integer(0), args->flag(1));
  const auto stream = stream_of(args).stream;
  return dispatch_numbers(x.dtype, [&](auto tag) {
    using T = typename decltype(tag)::Type;
    if (!in_chunks(lines)) {
      const auto blocks = static_cast<unsigned>((lines.count + kThreads - 1) / kThreads);
      scan_lines_kernel<<<blocks, kThreads, 0, stream>>>(x.as<const T>(), y.as<T>(), lines);
      return launched(args);
    }
    const auto blocks = static_cast<unsigned>(lines.count * lines.chunks);
    auto* sums = static_cast<Sum<T>*>(args->workspace);
    if (lines.chunks > 1) {
      chunk_sums_kernel<<<blocks, kThreads, 0, stream>>>(x.as<const T>(), sums, lines);
      if (const int32_t code = launched(args)) return code;
    }
    scan_chunks_kernel<<<blocks, kThreads, 0, stream>>>(x.as<const T>(), y.as<T>(), sums, lines);
    return launched(args);
  });
}

int64_t cumsum_workspace(const KernelArgs* args) {
  if (args->inputs[0].numel == 0) return 0;
  const Lines lines = plan_lines(args->inputs[0], args->integer(0), args->flag(1));
  return in_chunks(lines) && lines.chunks > 1 ? lines.count * lines.chunks * 8 : 0;
}

}  // namespace

LF_CUDA_KERNEL(cumsum, cumsum)
LF_CUDA_WORKSPACE(cumsum, cumsum_workspace)

}  // namespace lf::cuda
