// layer_norm: y = (x - mean) * rstd * weight + bias over the last axis; rms_norm: y = x * rstd * weight.
//   rstd = 1 / sqrt(variance + eps), or 1 / sqrt(mean(x^2) + eps).
// Backward, with g = dy * weight and n = (x - mean) * rstd:
//   dx = rstd (g - mean(g) - n mean(g n)) [+ add];  dweight = sum dy n;  dbias = sum dy   (rms_norm: without mean(g), dbias)
// Bound by bytes: every pass reads its inputs once. Sums over rows go per fixed chunk of rows, combined in order.
#ifdef LF_SCHEMA_PASS
#include "core/op.h"

namespace lf {
namespace {

DType stats_dtype(DType x) { return x == DType::kF64 ? DType::kF64 : DType::kF32; }

// Both sides of the two files' passes use this: how many chunks of rows have partial sums of their own.
int64_t row_chunks(int64_t rows) { return rows < 64 ? 1 : rows / 32 < 32 ? rows / 32 : 32; }

void check_vector(const OpCall& call, int i, int64_t width) {
  if (!call.has(i)) return;
  call.check_floating(i);
  if (call.in(i).rank != 1 || call.in(i).numel != width) {
    call.fail(kShape, "%s has shape %s, needs [%lld]", call.op->inputs[static_cast<size_t>(i)].name,
              shape_text(call.in(i)).c_str(), (long long)width);
  }
}

void forward_shape(OpCall& call) {
  call.check_rank(0, 1);
  call.check_floating(0);
  const TensorView& x = call.in(0);
  for (int i = 1; i < call.num_inputs; ++i) check_vector(call, i, x.dim(-1));
  call.output_like(x);
  const bool rms = call.op->inputs.size() == 2;
  for (int i = 0; i < (rms ? 1 : 2); ++i) call.output(stats_dtype(x.dtype), x.shape, x.rank - 1);
}

void backward_shape(OpCall& call) {
  call.check_same_shape(0, 1);
  call.check_same_dtype(0, 1);
  const TensorView& x = call.in(1);
  const bool rms = call.op->inputs.size() == 5;
  check_vector(call, 2, x.dim(-1));
  const int add = rms ? 4 : 5;
  if (call.has(add)) {
    call.check_same_shape(1, add);
    call.check_same_dtype(1, add);
  }
  call.output_like(x);
  if (call.has(2)) {
    call.output(stats_dtype(x.dtype), {x.dim(-1)});
    if (!rms) call.output(stats_dtype(x.dtype), {x.dim(-1)});
  }
}

int64_t backward_workspace(const OpCall& call) {
  const TensorView& x = call.in(1);
  if (!call.has(2)) return 0;
  const int64_t rows = x.span(0, x.rank - 1);
  return row_chunks(rows) * 2 * x.dim(-1) * dtype_size(stats_dtype(x.dtype));
}

LF_OP({.name = "layer_norm",
       .inputs = {{"x"}, {.name = "weight", .optional = true}, {.name = "bias", .optional = true}},
       .attrs = {{"eps", AttrType::kNumber}},
       .shape = forward_shape,
       .cost = io_cost<8>})

LF_OP({.name = "layer_norm_backward",
       .inputs = {{"grad"}, {"x"}, {.name = "weight", .optional = true}, {"mean"}, {"rstd"}, {.name = "add", .optional = true}},
       .attrs = {},
       .shape = backward_shape,
       .cost = io_cost<13>,
       .workspace = backward_workspace})

LF_OP({.name = "rms_norm",
       .inputs = {{"x"}, {.name = "weight", .optional = true}},
       .attrs = {{"eps", AttrType::kNumber}},
       .shape = forward_shape,
       .cost = io_cost<5>})

LF_OP({.name = "rms_norm_backward",
       .inputs = {{"grad"}, {"x"}, {.name = "weight", .optional = true}, {"rstd"}, {.name = "add", .optional = true}},
       .attrs = {},
       .shape = backward_shape,
       .cost = io_cost<9>,
       .workspace = backward_workspace})

}  // namespace
}  // namespace lf
#else
#include "cpu/simd.h"

namespace lf {
namespace {

LF_INLINE int64_t row_chunks(int64_t rows) { return rows < 64 ? 1 : rows / 32 < 32 ? rows / 32 : 32; }

// A weight vector in any format as Acc, in the thread's scratch; ones or zeros when absent.
template <class Acc>
const Acc* as_vector(const TensorView& v, int slot, int64_t width, Acc absent) {
  if (v.present() && v.dtype == (sizeof(Acc) == 8 ? DType::kF64 : DType::kF32)) return v.as<const Acc>();
  Acc* out = static_cast<Acc*>(cpu::scratch(slot, static_cast<size_t>(width) * sizeof(Acc) + 64));
  for (int64_t i = 0; i < width; ++i) {
    if (!v.present()) out[i] = absent;
    else if (v.dtype == DType::kF16) out[i] = get(v.as<const f16>() + i);
    else if (v.dtype == DType::kBF16) out[i] = get(v.as<const bf16>() + i);
    else if (v.dtype == DType::kF64) out[i] = static_cast<Acc>(v.as<const double>()[i]);
    else out[i] = static_cast<Acc>(v.as<const float>()[i]);
  }
  return out;
}

constexpr int64_t kGrainBytes = 1 << 15;

template <class T, class Acc, bool kRms>
int32_t forward(const KernelArgs* args) {
  using V = typename Lanes<Acc>::V;
  const TensorView& x = args->inputs[0];
  const int64_t width = x.dim(-1), rows = x.span(0, x.rank - 1);
  const double eps = args->number(0);
  const Acc* weight = as_vector<Acc>(args->inputs[1], 0, width, 1);
  const Acc* bias = kRms ? nullptr : as_vector<Acc>(args->inputs[2], 1, width, 0);
  T* out = args->outputs[0].as<T>();
  Acc* mean_out = kRms ? nullptr : args->outputs[1].as<Acc>();
  Acc* rstd_out = args->outputs[kRms ? 1 : 2].as<Acc>();
  const Acc count = static_cast<Acc>(width);
  cpu::parallel_for(rows, kGrainBytes / (width * static_cast<int64_t>(sizeof(T)) + 1) + 1, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      const T* row = x.as<const T>() + r * width;
      Acc mean = 0;
      if constexpr (!kRms) {
        mean = reduce_add(sum_lanes<T>(width, [&](int64_t i, int64_t n) { return load_some(row + i, n); })) / count;
        mean_out[r] = mean;
      }
      const V squares = sum_lanes<T>(width, [&](int64_t i, int64_t n) {
        V d = load_some(row + i, n);
        if constexpr (!kRms) {
          V centre = splat(mean);
          if (n != Lanes<T>::n) {  // lanes beyond the row must not count
            for (int64_t k = n; k < Lanes<T>::n; ++k) centre[k] = 0;
          }
          d -= centre;
        }
        return d * d;
      });
      const Acc variance = reduce_add(squares) / count;
      const Acc rstd = static_cast<Acc>(1) / sqrt(splat(static_cast<Acc>(variance + static_cast<Acc>(eps))))[0];
      rstd_out[r] = rstd;
      for_lanes<T>(width, [&](int64_t i, int64_t n) {
        V y = (load_some(row + i, n) - mean) * rstd * load_some(weight + i, n);
        if constexpr (!kRms) y += load_some(bias + i, n);
        store_some(out + r * width + i, y, n);
      });
    }
  });
  return kOk;
}

template <class T, class Acc, bool kRms>
int32_t backward(const KernelArgs* args) {
  using V = typename Lanes<Acc>::V;
  const TensorView &grad = args->inputs[0], &x = args->inputs[1], &weights = args->inputs[2];
  const TensorView& add = args->inputs[kRms ? 4 : 5];
  const Acc* means = kRms ? nullptr : args->inputs[3].as<const Acc>();
  const Acc* rstds = args->inputs[kRms ? 3 : 4].as<const Acc>();
  const int64_t width = x.dim(-1), rows = x.span(0, x.rank - 1);
  const Acc* weight = as_vector<Acc>(weights, 0, width, 1);
  Acc* partial = static_cast<Acc*>(args->workspace);
  const int64_t chunks = row_chunks(rows), chunk_rows = (rows + chunks - 1) / chunks;
  const Acc count = static_cast<Acc>(width);
  cpu::parallel_for(chunks, 1, [&](int64_t first, int64_t last) {
    for (int64_t chunk = first; chunk < last; ++chunk) {
      Acc* weight_sums = partial ? partial + chunk * 2 * width : nullptr;
      Acc* bias_sums = weight_sums + width;
      if (partial) {
        for (int64_t i = 0; i < 2 * width; ++i) weight_sums[i] = 0;
      }
      const int64_t end = (chunk + 1) * chunk_rows < rows ? (chunk + 1) * chunk_rows : rows;
      for (int64_t r = chunk * chunk_rows; r < end; ++r) {
        const T* dy = grad.as<const T>() + r * width;
        const T* row = x.as<const T>() + r * width;
        T* dx = args->outputs[0].as<T>() + r * width;
        const T* extra = add.present() ? add.as<const T>() + r * width : nullptr;
        const Acc mean = kRms ? Acc{} : means[r], rstd = rstds[r];
        V g_sum{}, gn_sum{};
        for_lanes<T>(width, [&](int64_t i, int64_t n) {
          const V d = load_some(dy + i, n), normal = (load_some(row + i, n) - mean) * rstd;
          const V g = d * load_some(weight + i, n);
          g_sum += g;  // zero in lanes beyond the row, because d is
          gn_sum += g * normal;
          if (partial) {
            store_some(weight_sums + i, load_some(weight_sums + i, n) + d * normal, n);
            if constexpr (!kRms) store_some(bias_sums + i, load_some(bias_sums + i, n) + d, n);
          }
        });
        const Acc g_mean = kRms ? Acc{} : reduce_add(g_sum) / count, gn_mean = reduce_add(gn_sum) / count;
        for_lanes<T>(width, [&](int64_t i, int64_t n) {
          const V normal = (load_some(row + i, n) - mean) * rstd;
          V out = (load_some(dy + i, n) * load_some(weight + i, n) - g_mean - normal * gn_mean) * rstd;
          if (extra) out += load_some(extra + i, n);
          store_some(dx + i, out, n);
        });
      }
    }
  });
  if (!partial) return kOk;
  for (int which = 0; which < (kRms ? 1 : 2); ++which) {
    Acc* out = args->outputs[1 + which].as<Acc>();
    for_lanes<Acc>(width, [&](int64_t i, int64_t n) {
      V sum{};
      for (int64_t chunk = 0; chunk < chunks; ++chunk) sum += load_some(partial + (chunk * 2 + which) * width + i, n);
      store_some(out + i, sum, n);
    });
  }
  return kOk;
}

template <bool kRms>
int32_t norm(const KernelArgs* args) {
  switch (args->inputs[0].dtype) {
    case DType::kF32: return forward<float, float, kRms>(args);
    case DType::kF16: return forward<f16, float, kRms>(args);
    case DType::kBF16: return forward<bf16, float, kRms>(args);
    default: return forward<double, double, kRms>(args);
  }
}
template <bool kRms>
int32_t norm_backward(const KernelArgs* args) {
  switch (args->inputs[0].dtype) {
    case DType::kF32: return backward<float, float, kRms>(args);
    case DType::kF16: return backward<f16, float, kRms>(args);
    case DType::kBF16: return backward<bf16, float, kRms>(args);
    default: return backward<double, double, kRms>(args);
  }
}

}  // namespace

LF_CPU_KERNEL(layer_norm, norm<false>)
LF_CPU_KERNEL(layer_norm_backward, norm_backward<false>)
LF_CPU_KERNEL(rms_norm, norm<true>)
LF_CPU_KERNEL(rms_norm_backward, norm_backward<true>)

}  // namespace lf
#endif
