// sort: values and places (i32) of the elements along an axis, in ascending or descending order; top_k: of the k largest.
// Stable: equal elements keep their order. NaN comes last either way; -0 equals 0. Elements become unsigned keys whose
// order is the wanted one; lines are sorted by radix (8 bits a pass, passes with a single digit skipped). top_k keeps the
// best k of a line in a heap. No FLOPs are counted.
#ifdef LF_SCHEMA_PASS
#include "core/op.h"

namespace lf {
namespace {

// A normalised axis whose places an i32 can name.
int sorted_axis(const OpCall& call, int attr) {
  const int axis = call.check_axis(attr, call.in(0));
  if (call.in(0).shape[axis] > 0x7fffffff) call.fail(kShape, "axis %d has more elements than i32 places can name", axis);
  return axis;
}

LF_OP({.name = "sort",
       .inputs = {{"x"}},
       .attrs = {{"axis", AttrType::kInteger}, {"descending", AttrType::kFlag}},
       .shape =
           [](OpCall& call) {
             sorted_axis(call, 0);
             call.output_like(call.in(0));
             call.output_like(call.in(0), DType::kI32);
           },
       .cost = io_cost<0>})

LF_OP({.name = "top_k",
       .inputs = {{"x"}},
       .attrs = {{"k", AttrType::kInteger}, {"axis", AttrType::kInteger}},
       .shape =
           [](OpCall& call) {
             const TensorView& x = call.in(0);
             const int axis = sorted_axis(call, 1);
             if (call.integer(0) < 0 || call.integer(0) > x.shape[axis]) {
               call.fail(kShape, "k is %lld, but axis %d of shape %s has %lld elements", (long long)call.integer(0), axis,
                         shape_text(x).c_str(), (long long)x.shape[axis]);
             }
             int64_t shape[kMaxRank];
             for (int i = 0; i < x.rank; ++i) shape[i] = i == axis ? call.integer(0) : x.shape[i];
             call.output(x.dtype, shape, x.rank);
             call.output(DType::kI32, shape, x.rank);
           },
       .cost = io_cost<0>})

}  // namespace
}  // namespace lf
#else
#include "cpu/simd.h"
#include "ops/dtype_dispatch.h"

namespace lf {
namespace {

constexpr uint64_t kTop = uint64_t{1} << 63;
constexpr int64_t kShort = 48;  // lines up to here are sorted by insertion

// Ascending keys in the order of the elements; NaN has the largest of all in either direction.
template <class T>
LF_INLINE uint64_t key_of(T x, bool descending) {
  uint64_t key;
  if constexpr (kIsFloating<T>) {
    const double value = static_cast<double>(get(&x));
    if (value != value) return ~uint64_t{0};
    const double no_minus_zero = value + 0.0;
    __builtin_memcpy(&key, &no_minus_zero, 8);
    key = key & kTop ? ~key : key | kTop;
  } else if constexpr (kIsSame<T, Bool>) {
    key = x.value != 0;
  } else {
    key = static_cast<uint64_t>(static_cast<int64_t>(x)) ^ kTop;
  }
  return descending ? ~key : key;
}

struct Line {
  uint64_t* keys;
  int32_t* places;
};

void sort_short(Line line, int64_t n) {
  for (int64_t i = 1; i < n; ++i) {
    const uint64_t key = line.keys[i];
    const int32_t place = line.places[i];
    int64_t k = i;
    for (; k > 0 && line.keys[k - 1] > key; --k) {
      line.keys[k] = line.keys[k - 1];
      line.places[k] = line.places[k - 1];
    }
    line.keys[k] = key;
    line.places[k] = place;
  }
}

// Returns the one of the two that holds the result.
Line sort_line(Line line, Line spare, int64_t n) {
  if (n <= kShort) {
    sort_short(line, n);
    return line;
  }
  int64_t counts[8][256] = {};
  for (int64_t i = 0; i < n; ++i) {
    for (int pass = 0; pass < 8; ++pass) ++counts[pass][line.keys[i] >> (8 * pass) & 255];
  }
  for (int pass = 0; pass < 8; ++pass) {
    int64_t* count = counts[pass];
    if (count[line.keys[0] >> (8 * pass) & 255] == n) continue;
    int64_t before = 0;
    for (int digit = 0; digit < 256; ++digit) {
      const int64_t here = count[digit];
      count[digit] = before;
      before += here;
    }
    for (int64_t i = 0; i < n; ++i) {
      const int64_t to = count[line.keys[i] >> (8 * pass) & 255]++;
      spare.keys[to] = line.keys[i];
      spare.places[to] = line.places[i];
    }
    const Line done = spare;
    spare = line;
    line = done;
  }
  return line;
}

// Whether entry a comes after entry b in the result.
LF_INLINE bool after(Line line, int64_t a, int64_t b) {
  return line.keys[a] != line.keys[b] ? line.keys[a] > line.keys[b] : line.places[a] > line.places[b];
}
LF_INLINE void swap(Line line, int64_t a, int64_t b) {
  const uint64_t key = line.keys[a];
  const int32_t place = line.places[a];
  line.keys[a] = line.keys[b], line.places[a] = line.places[b];
  line.keys[b] = key, line.places[b] = place;
}
// The heap has its last entry (in the order of the result) at the root.
void sift(Line heap, int64_t at, int64_t n) {
  for (int64_t child; (child = 2 * at + 1) < n; at = child) {
    if (child + 1 < n && after(heap, child + 1, child)) ++child;
    if (!after(heap, child, at)) return;
    swap(heap, child, at);
  }
}

// The first k entries of the sorted line.
template <class T>
Line best(const T* x, int64_t n, int64_t step, int64_t k, Line heap) {
  for (int64_t i = 0; i < k; ++i) {
    heap.keys[i] = key_of(x[i * step], true);
    heap.places[i] = static_cast<int32_t>(i);
  }
  for (int64_t i = k / 2 - 1; i >= 0; --i) sift(heap, i, k);
  for (int64_t i = k; i < n; ++i) {
    const uint64_t key = key_of(x[i * step], true);
    if (key >= heap.keys[0]) continue;  // an equal one comes later
    heap.keys[0] = key;
    heap.places[0] = static_cast<int32_t>(i);
    sift(heap, 0, k);
  }
  for (int64_t left = k - 1; left > 0; --left) {
    swap(heap, 0, left);
    sift(heap, 0, left);
  }
  return heap;
}

// Lines along the axis, each to its first k places.
template <class T>
void order(const KernelArgs* args, int axis, int64_t k, bool descending) {
  const TensorView &x = args->inputs[0], &values = args->outputs[0], &places = args->outputs[1];
  const int64_t n = x.shape[axis], inner = x.span(axis + 1, x.rank), lines = x.span(0, axis) * inner;
  const bool use_heap = k < n / 16;
  cpu::parallel_for(lines, 4096 / (n + 1) + 1, [&](int64_t begin, int64_t end) {
    const auto size = static_cast<size_t>(use_heap ? k : n);
    const Line first{static_cast<uint64_t*>(cpu::scratch(0, size * 8)), static_cast<int32_t*>(cpu::scratch(1, size * 4))};
    const Line second{static_cast<uint64_t*>(cpu::scratch(2, size * 8)), static_cast<int32_t*>(cpu::scratch(3, size * 4))};
    for (int64_t line = begin; line < end; ++line) {
      const int64_t outer = line / inner, lane = line % inner;
      const T* from = x.as<const T>() + outer * n * inner + lane;
      Line done = first;
      if (use_heap) {
        best(from, n, inner, k, first);
      } else {
        for (int64_t i = 0; i < n; ++i) {
          first.keys[i] = key_of(from[i * inner], descending);
          first.places[i] = static_cast<int32_t>(i);
        }
        done = sort_line(first, second, n);
      }
      const int64_t to = outer * k * inner + lane;
      for (int64_t i = 0; i < k; ++i) {
        values.as<T>()[to + i * inner] = from[done.places[i] * inner];
        places.as<int32_t>()[to + i * inner] = done.places[i];
      }
    }
  });
}

int32_t order_any(const KernelArgs* args, int64_t given_axis, int64_t k, bool descending) {
  const TensorView& x = args->inputs[0];
  const int axis = static_cast<int>(given_axis < 0 ? given_axis + x.rank : given_axis);
  if (args->outputs[0].numel > 0) {
    visit_all(x.dtype, [&](auto type) { order<decltype(type)>(args, axis, k < 0 ? x.shape[axis] : k, descending); });
  }
  return kOk;
}

int32_t sort(const KernelArgs* args) { return order_any(args, args->integer(0), -1, args->flag(1)); }
int32_t top_k(const KernelArgs* args) { return order_any(args, args->integer(1), args->integer(0), true); }

}  // namespace

LF_CPU_KERNEL(sort, sort)
LF_CPU_KERNEL(top_k, top_k)

}  // namespace lf
#endif
