// unfold (im2col): the patches of images as columns, for convolution by matrix products.
//   x [n, c, h, w] -> [n, c kh kw, oh ow],  o = (size + 2 padding - dilation (kernel - 1) - 1) / stride + 1 on both axes,
//   out[n, (c i j), (y x)] = x[n, c, y stride + i dilation - padding, ...], 0 outside of the image.
// fold (col2im), its gradient: columns are added back to where they came from, in a fixed order, 16-bit sums in f32. Both
// are bound by bytes.
#ifdef LF_SCHEMA_PASS
#include "core/op.h"

namespace lf {
namespace {

constexpr int64_t kLargest = int64_t{1} << 20;

// Output size of axis `i` (0: height, 1: width).
int64_t patches(const OpCall& call, int i, int64_t size) {
  const int64_t kernel = call.item(0, i), stride = call.item(1, i), padding = call.item(2, i), dilation = call.item(3, i);
  if (kernel < 1 || stride < 1 || padding < 0 || dilation < 1 || kernel > kLargest || stride > kLargest ||
      padding > kLargest || dilation > kLargest) {
    call.fail_hint(kShape, "kernel, stride and dilation are at least 1, padding at least 0",
                   "kernel %lld, stride %lld, padding %lld, dilation %lld do not make a window", (long long)kernel,
                   (long long)stride, (long long)padding, (long long)dilation);
  }
  const int64_t reach = dilation * (kernel - 1) + 1;
  if (size > kLargest || size + 2 * padding < reach) {
    call.fail(kShape, "a window of %lld (kernel %lld, dilation %lld) does not fit in %lld elements with padding %lld",
              (long long)reach, (long long)kernel, (long long)dilation, (long long)size, (long long)padding);
  }
  return (size + 2 * padding - reach) / stride + 1;
}

void check_pairs(const OpCall& call, int count) {
  for (int i = 0; i < count; ++i) {
    if (call.list_size(i) != 2) {
      call.fail(kShape, "%s has %d entries, needs 2: height and width", call.op->attrs[static_cast<size_t>(i)].name,
                call.list_size(i));
    }
  }
}

LF_OP({.name = "unfold",
       .inputs = {{"x"}},
       .attrs = {{"kernel", AttrType::kIntegers},
                 {"stride", AttrType::kIntegers},
                 {"padding", AttrType::kIntegers},
                 {"dilation", AttrType::kIntegers}},
       .shape =
           [](OpCall& call) {
             call.check_floating(0);
             call.check_rank(0, 4, 4);
             check_pairs(call, 4);
             const TensorView& x = call.in(0);
             const int64_t high = patches(call, 0, x.shape[2]), wide = patches(call, 1, x.shape[3]);
             call.output(x.dtype, {x.shape[0], x.shape[1] * call.item(0, 0) * call.item(0, 1), high * wide});
           },
       .cost = io_cost<0>})

LF_OP({.name = "fold",
       .inputs = {{"columns"}},
       .attrs = {{"kernel", AttrType::kIntegers},
                 {"stride", AttrType::kIntegers},
                 {"padding", AttrType::kIntegers},
                 {"dilation", AttrType::kIntegers},
                 {"size", AttrType::kIntegers}},
       .shape =
           [](OpCall& call) {
             call.check_floating(0);
             call.check_rank(0, 3, 3);
             check_pairs(call, 5);
             const TensorView& columns = call.in(0);
             const int64_t height = call.item(4, 0), width = call.item(4, 1);
             if (height < 0 || width < 0) call.fail(kShape, "size [%lld, %lld] is negative", (long long)height, (long long)width);
             const int64_t places = patches(call, 0, height) * patches(call, 1, width);
             const int64_t window = call.item(0, 0) * call.item(0, 1);
             if (columns.shape[1] % window || columns.shape[2] != places) {
               call.fail(kShape, "columns have shape %s, need [n, c * %lld, %lld]", shape_text(columns).c_str(), (long long)window,
                         (long long)places);
             }
             call.output(columns.dtype, {columns.shape[0], columns.shape[1] / window, height, width});
           },
       .cost = [](const OpCall& call) { return io_cost_with_flops(call, static_cast<double>(call.in(0).numel)); }})

}  // namespace
}  // namespace lf
#else
#include "cpu/simd.h"
#include "ops/dtype_dispatch.h"

namespace lf {
namespace {

// The window of one axis.
struct Axis {
  int64_t size, kernel, stride, padding, dilation, places;

  Axis(const KernelArgs* args, int i, int64_t size)
      : size(size),
        kernel(args->item(0, i)),
        stride(args->item(1, i)),
        padding(args->item(2, i)),
        dilation(args->item(3, i)),
        places((size + 2 * padding - dilation * (kernel - 1) - 1) / stride + 1) {}

  // Where tap k of place 0 lies, and the places [first, last) whose tap k lies inside.
  LF_INLINE int64_t origin(int64_t k) const { return k * dilation - padding; }
  LF_INLINE int64_t first(int64_t k) const {
    const int64_t at = origin(k);
    const int64_t p = at >= 0 ? 0 : (-at + stride - 1) / stride;
    return p < places ? p : places;
  }
  LF_INLINE int64_t last(int64_t k) const {
    const int64_t room = size - origin(k);  // of positions from place 0's on
    const int64_t p = room <= 0 ? 0 : (room - 1) / stride + 1, begin = first(k);
    return p > places ? places : p > begin ? p : begin;
  }
};

template <class T>
void unfold(const KernelArgs* args) {
  const TensorView &x = args->inputs[0], &out = args->outputs[0];
  const Axis high(args, 0, x.shape[2]), wide(args, 1, x.shape[3]);
  const int64_t places = high.places * wide.places, window = high.kernel * wide.kernel;
  cpu::parallel_for(out.numel / places, 16384 / places + 1, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {  // (n c i j)
      const int64_t i = row / wide.kernel % high.kernel, j = row % wide.kernel;
      const T* image = x.as<const T>() + row / window * high.size * wide.size;
      T* to = out.as<T>() + row * places;
      const int64_t top = high.first(i), bottom = high.last(i), left = wide.first(j), right = wide.last(j);
      for (int64_t y = 0; y < high.places; ++y, to += wide.places) {
        if (y < top || y >= bottom) {
          __builtin_memset(to, 0, static_cast<size_t>(wide.places) * sizeof(T));
          continue;
        }
        const T* from = image + (y * high.stride + high.origin(i)) * wide.size + wide.origin(j);
        for (int64_t k = 0; k < left; ++k) to[k] = T{};
        if (wide.stride == 1) {
          for (int64_t k = left; k < right; ++k) to[k] = from[k];
        } else {
          for (int64_t k = left; k < right; ++k) to[k] = from[k * wide.stride];
        }
        for (int64_t k = right; k < wide.places; ++k) to[k] = T{};
      }
    }
  });
}

template <class T>
void fold(const KernelArgs* args) {
  using Acc = typename Lanes<T>::Scalar;
  const TensorView &columns = args->inputs[0], &out = args->outputs[0];
  const Axis high(args, 0, out.shape[2]), wide(args, 1, out.shape[3]);
  const int64_t places = high.places * wide.places, window = high.kernel * wide.kernel, area = high.size * wide.size;
  cpu::parallel_for(out.shape[0] * out.shape[1], 16384 / (places * window + 1) + 1, [&](int64_t begin, int64_t end) {
    for (int64_t image = begin; image < end; ++image) {
      T* to = out.as<T>() + image * area;
      Acc* sums;
      if constexpr (kIsHalf<T>) {
        sums = static_cast<Acc*>(cpu::scratch(0, static_cast<size_t>(area) * sizeof(Acc)));
      } else {
        sums = to;
      }
      for (int64_t k = 0; k < area; ++k) sums[k] = 0;
      for (int64_t tap = 0; tap < window; ++tap) {
        const int64_t i = tap / wide.kernel, j = tap % wide.kernel;
        const int64_t left = wide.first(j), right = wide.last(j);
        const T* from = columns.as<const T>() + (image * window + tap) * places;
        for (int64_t y = high.first(i); y < high.last(i); ++y) {
          const T* row = from + y * wide.places;
          Acc* line = sums + (y * high.stride + high.origin(i)) * wide.size + wide.origin(j);
          if (wide.stride == 1) {
            for_lanes<T>(right - left, [&](int64_t k, int64_t n) {
              Acc* at = line + left + k;
              store_some(at, load_some(at, n) + load_some(row + left + k, n), n);
            });
          } else {
            for (int64_t k = left; k < right; ++k) line[k * wide.stride] += get(row + k);
          }
        }
      }
      if constexpr (kIsHalf<T>) {
        for_lanes<T>(area, [&](int64_t k, int64_t n) { store_some(to + k, load_some(sums + k, n), n); });
      }
    }
  });
}

int32_t unfold_any(const KernelArgs* args) {
  const TensorView& out = args->outputs[0];
  if (out.numel == 0) return kOk;
  visit_floating(out.dtype, [&](auto type) { unfold<decltype(type)>(args); });
  return kOk;
}

int32_t fold_any(const KernelArgs* args) {
  visit_floating(args->outputs[0].dtype, [&](auto type) { fold<decltype(type)>(args); });
  return kOk;
}

}  // namespace

LF_CPU_KERNEL(unfold, unfold_any)
LF_CPU_KERNEL(fold, fold_any)

}  // namespace lf
#endif
