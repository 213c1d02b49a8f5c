// sam_ascend, sam_restore; formulas and the layout of `saved` in native/ops/sharpness.cpp. All parameters of a group in one launch
// each (optimizer_group.cuh): blocks leave the sums of squares of their chunk in f64; one block adds them in order and finds
// the factor, which stays on the device; blocks move their chunk and leave what was there. Bound by bytes; 256 threads a
// block. Warps an SM: squares_kernel 48, factor_kernel 32, ascend_kernel 48, restore_kernel 64.
#include "cuda/optimizer_group.cuh"

namespace lf::cuda {
namespace {

constexpr int64_t kSavedUnit = 16;

// What T g is for a number.
template <class A>
struct Scaling {
  A eta;
  bool scaled;
  __device__ __forceinline__ A times(A x, A p) const { return scaled ? x * ((p < 0 ? -p : p) + eta) : x; }
};

template <class A, class Group>
__global__ void __launch_bounds__(kGroupThreads) squares_kernel(const __grid_constant__ Group group, A eta, double* partial) {
  __shared__ double meeting[32];
  const GroupTensors& t = group.of[owner_of(group, blockIdx.x)];
  const Scaling<A> scaling{eta, t.marked};
  double total = 0;
  for_pieces<A>(t, blockIdx.x - t.first, [&](auto pieces, int64_t at) {
    constexpr int V = decltype(pieces)::value;
    const auto g = read_piece<A, V>(t.grad, at);
    Piece<A, V> p{};
    if (t.marked) p = read_piece<A, V>(t.parameter, at);
    A sum = 0;
#pragma unroll
    for (int k = 0; k < V; ++k) {
      const A x = scaling.times(g.at[k], p.at[k]);
      sum += x * x;
    }
    total += static_cast<double>(sum);
  });
  total = block_sum(total, meeting);
  if (threadIdx.x == 0) partial[blockIdx.x] = total;
}

// partial[-1] = 1 / (|g| + 1e-12), as a gradient's format has it.
template <class A>
__global__ void __launch_bounds__(1024) factor_kernel(const double* partial, int64_t count, Clip clip, double* factor) {
  __shared__ double meeting[32];
  double sum = 0;
  for (int64_t i = threadIdx.x; i < count; i += 1024) sum += partial[i];
  sum = block_sum(sum, meeting);
  if (threadIdx.x != 0) return;
  const A norm = static_cast<A>(sqrt(sum) * clip.at(0));
  *factor = static_cast<double>(1 / (norm + A(1e-12))) * clip.at(0);
}

template <class A, class Group>
__global__ void __launch_bounds__(kGroupThreads)
    ascend_kernel(const __grid_constant__ Group group, Clip clip, const double* factor, A rho, A eta) {
  const A by = static_cast<A>(*factor);
  const bool skip = clip.at(1) != 0;
  const GroupTensors& t = group.of[owner_of(group, blockIdx.x)];
  const Scaling<A> scaling{eta, t.marked};
  for_pieces<A>(t, blockIdx.x - t.first, [&](auto pieces, int64_t at) {
    constexpr int V = decltype(pieces)::value;
    auto p = read_piece<A, V>(t.parameter, at);
    write_piece<A, V>(t.states[0], at, p);
    if (skip) return;
    const auto g = read_piece<A, V>(t.grad, at);
#pragma unroll
    for (int k = 0; k < V; ++k) {
      const A move = scaling.times(scaling.times(g.at[k], p.at[k]), p.at[k]);
      p.at[k] += move * by * rho;
    }
    write_piece<A, V>(t.parameter, at, p);
    write_copy<A, V>(t, at, p);
  });
}

template <class A, class Group>
__global__ void __launch_bounds__(kGroupThreads) restore_kernel(const __grid_constant__ Group group) {
  const GroupTensors& t = group.of[owner_of(group, blockIdx.x)];
  for_pieces<A>(t, blockIdx.x - t.first, [&](auto pieces, int64_t at) {
    constexpr int V = decltype(pieces)::value;
    const auto p = read_piece<A, V>(t.states[0], at);
    write_piece<A, V>(t.parameter, at, p);
    write_copy<A, V>(t, at, p);
  });
}

// prepare() for for_groups: parameter after parameter gets its place in `saved`.
template <class A>
struct Saved {
  A* next;
  int64_t parameter = 0;
  A* place(const TensorView* parameters, int64_t i) {
    for (; parameter < i; ++parameter) next += (parameters[parameter].numel + kSavedUnit - 1) / kSavedUnit * kSavedUnit;
    return next;
  }
};

template <class A>
int32_t ascend(const KernelArgs* args) {
  const auto stream = stream_of(args).stream;
  const GroupViews views = group_views(args, 0);
  const Clip clip = clip_of(args);
  const A rho = static_cast<A>(args->number(1)), eta = static_cast<A>(args->number(2));
  auto* factor = static_cast<double*>(args->workspace);
  double* partial = factor + 1;
  int64_t chunks = 0;
  Saved<A> saved{args->outputs[0].as<A>()};
  const auto prepare = [&](GroupTensors& t, int64_t i) {
    t.states[0] = saved.place(views.parameters, i);
    for (int k = 0; k < args->list_size(3); ++k) t.marked = t.marked || args->item(3, k) == i;
  };
  int32_t code = for_groups<A>(views, [&](const auto& group) {
    squares_kernel<A><<<group.chunks, kGroupThreads, 0, stream>>>(group, eta, partial + chunks);
    chunks += group.chunks;
    return launched(args);
  }, prepare);
  if (code) return code;
  factor_kernel<A><<<1, 1024, 0, stream>>>(partial, chunks, clip, factor);
  if ((code = launched(args))) return code;
  saved = {args->outputs[0].as<A>()};
  return for_groups<A>(views, [&](const auto& group) {
    ascend_kernel<A><<<group.chunks, kGroupThreads, 0, stream>>>(group, clip, factor, rho, eta);
    return launched(args);
  }, prepare);
}

template <class A>
int32_t restore(const KernelArgs* args) {
  const int64_t count = args->integer(0);
  const TensorView* parameters = args->inputs + 1;
  const GroupViews views{count, 0, parameters, nullptr, nullptr, args->num_inputs - 1 == 2 * count ? parameters + count : nullptr};
  Saved<A> saved{args->inputs[0].as<A>()};
  return for_groups<A>(views, [&](const auto& group) {
    restore_kernel<A><<<group.chunks, kGroupThreads, 0, stream_of(args).stream>>>(group);
    return launched(args);
  }, [&](GroupTensors& t, int64_t i) { t.states[0] = saved.place(parameters, i); });
}

int32_t sam_ascend(const KernelArgs* args) {
  if (args->integer(0) == 0) return kOk;
  return args->outputs[0].dtype == DType::kF64 ? ascend<double>(args) : ascend<float>(args);
}
int32_t sam_restore(const KernelArgs* args) {
  return args->inputs[0].dtype == DType::kF64 ? restore<double>(args) : restore<float>(args);
}

int64_t ascend_workspace(const KernelArgs* args) {
  int64_t chunks = 1;
  for (int64_t i = 0; i < args->integer(0); ++i) chunks += (args->inputs[1 + i].numel + kGroupChunk - 1) / kGroupChunk;
  return 8 * chunks;
}

}  // namespace

LF_CUDA_KERNEL(sam_ascend, sam_ascend)
LF_CUDA_KERNEL(sam_restore, sam_restore)
LF_CUDA_WORKSPACE(sam_ascend, ascend_workspace)

}  // namespace lf::cuda
