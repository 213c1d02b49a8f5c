// permute: the axes of a tensor in another order; out's axis i is x's axis axes[i]. flip: some axes backwards. Any dtype;
// bound by bytes. Both read x with strides: runs are copied whole, swapped inner axes go through 16-byte square tiles.
#ifdef LF_SCHEMA_PASS
#include "core/op.h"

namespace lf {
namespace {

// Axes that must lie inside x and differ from each other.
void check_axes(const OpCall& call) {
  const TensorView& x = call.in(0);
  for (int i = 0; i < call.list_size(0); ++i) {
    const int64_t axis = call.item(0, i);
    bool twice = false;
    for (int j = 0; j < i; ++j) twice = twice || call.item(0, j) == axis;
    if (axis < 0 || axis >= x.rank || twice) {
      call.fail_hint(kShape, "every axis at most once, 0 <= axis < rank", "axes[%d] = %lld does not suit shape %s", i,
                     (long long)axis, shape_text(x).c_str());
    }
  }
}

LF_OP({.name = "permute",
       .inputs = {{"x"}},
       .attrs = {{"axes", AttrType::kIntegers}},
       .shape =
           [](OpCall& call) {
             const TensorView& x = call.in(0);
             if (call.list_size(0) != x.rank) {
               call.fail(kShape, "%d axes given for shape %s, needs each of its axes once", call.list_size(0), shape_text(x).c_str());
             }
             check_axes(call);
             int64_t shape[kMaxRank];
             for (int i = 0; i < x.rank; ++i) shape[i] = x.shape[call.item(0, i)];
             call.output(x.dtype, shape, x.rank);
           },
       .cost = io_cost<0>})

LF_OP({.name = "flip",
       .inputs = {{"x"}},
       .attrs = {{"axes", AttrType::kIntegers}},
       .shape =
           [](OpCall& call) {
             check_axes(call);
             call.output_like(call.in(0));
           },
       .cost = io_cost<0>})

}  // namespace
}  // namespace lf
#else
#include "cpu/kernel.h"

namespace lf {
namespace {

constexpr int64_t kGrainBytes = 1 << 16;

// How a dense output reads its input: element (i0, i1, ...) comes from first + i0 strides[0] + i1 strides[1] + ...
struct Reading {
  int rank = 0;
  int64_t sizes[kMaxRank], strides[kMaxRank], first = 0;

  // Adds the next inner axis; axes that continue the one before are merged with it.
  void push(int64_t size, int64_t stride) {
    if (size == 1) return;
    if (rank > 0 && strides[rank - 1] == stride * size) {
      sizes[rank - 1] *= size;
      strides[rank - 1] = stride;
      return;
    }
    sizes[rank] = size;
    strides[rank++] = stride;
  }
};

// Where the item `flat` of the axes [0, count) but `skipped` begins: in the input, and (second) in the output.
struct Place {
  int64_t in, out;
};
LF_INLINE Place place_of(const Reading& reading, const int64_t* out_strides, int64_t flat, int count, int skipped) {
  Place place{reading.first, 0};
  for (int i = count - 1; i >= 0; --i) {
    if (i == skipped) continue;
    const int64_t k = flat % reading.sizes[i];
    flat /= reading.sizes[i];
    place.in += k * reading.strides[i];
    place.out += k * out_strides[i];
  }
  return place;
}

// A square of n x n elements in 16-byte vectors is transposed by log2(n) rounds of interleaving its halves.
template <class T>
struct Tile {
  static constexpr int n = 16 / static_cast<int>(sizeof(T));
  typedef T V __attribute__((vector_size(16)));
  static LF_INLINE V low(V a, V b) {
    if constexpr (n == 2) return __builtin_shufflevector(a, b, 0, 2);
    else if constexpr (n == 4) return __builtin_shufflevector(a, b, 0, 4, 1, 5);
    else if constexpr (n == 8) return __builtin_shufflevector(a, b, 0, 8, 1, 9, 2, 10, 3, 11);
    else return __builtin_shufflevector(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
  }
  static LF_INLINE V high(V a, V b) {
    if constexpr (n == 2) return __builtin_shufflevector(a, b, 1, 3);
    else if constexpr (n == 4) return __builtin_shufflevector(a, b, 2, 6, 3, 7);
    else if constexpr (n == 8) return __builtin_shufflevector(a, b, 4, 12, 5, 13, 6, 14, 7, 15);
    else return __builtin_shufflevector(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
  }
  // out[j * out_stride + i] = in[i * in_stride + j] for i, j < n
  static LF_INLINE void transpose(const T* in, int64_t in_stride, T* out, int64_t out_stride) {
    V rows[n], next[n];
    for (int i = 0; i < n; ++i) __builtin_memcpy(&rows[i], in + i * in_stride, 16);
    for (int round = 1; round < n; round *= 2) {
      for (int i = 0; i < n / 2; ++i) {
        next[2 * i] = low(rows[i], rows[i + n / 2]);
        next[2 * i + 1] = high(rows[i], rows[i + n / 2]);
      }
      for (int i = 0; i < n; ++i) rows[i] = next[i];
    }
    for (int i = 0; i < n; ++i) __builtin_memcpy(out + i * out_stride, &rows[i], 16);
  }
};

// out[j * out_stride + i] = in[i * in_stride + j] for i < wide, j < high: blocks of one cache line each way.
template <class T>
void transpose_block(const T* in, int64_t in_stride, T* out, int64_t out_stride, int64_t wide, int64_t high) {
  constexpr int64_t n = Tile<T>::n;
  int64_t j = 0;
  for (; j + n <= high; j += n) {
    int64_t i = 0;
    for (; i + n <= wide; i += n) Tile<T>::transpose(in + i * in_stride + j, in_stride, out + j * out_stride + i, out_stride);
    for (; i < wide; ++i) {
      for (int64_t k = j; k < j + n; ++k) out[k * out_stride + i] = in[i * in_stride + k];
    }
  }
  for (; j < high; ++j) {
    for (int64_t i = 0; i < wide; ++i) out[j * out_stride + i] = in[i * in_stride + j];
  }
}

template <class T>
void read(const Reading& reading, const T* in, T* out, int64_t numel) {
  int64_t out_strides[kMaxRank];
  int64_t stride = 1;
  for (int i = reading.rank - 1; i >= 0; --i) {
    out_strides[i] = stride;
    stride *= reading.sizes[i];
  }
  const int last = reading.rank - 1;
  const int64_t run = reading.sizes[last], step = reading.strides[last];
  int dense = last;  // the axis along which the input is dense
  for (int i = 0; i < last && step != 1; ++i) {
    if (reading.strides[i] == 1) dense = i;
  }
  if (dense == last) {
    const int64_t bytes = run * static_cast<int64_t>(sizeof(T));
    cpu::parallel_for(numel / run, kGrainBytes / bytes + 1, [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r) {
        const T* from = in + place_of(reading, out_strides, r, last, -1).in;
        T* to = out + r * run;
        if (step == 1) {
          __builtin_memcpy(to, from, static_cast<size_t>(bytes));
        } else {
          for (int64_t i = 0; i < run; ++i) to[i] = from[i * step];
        }
      }
    });
    return;
  }
  // Planes of (dense, last), each in blocks; a block's lines stay in the first cache.
  constexpr int64_t kBlock = 128 / static_cast<int64_t>(sizeof(T)) < 32 ? 32 : 128 / static_cast<int64_t>(sizeof(T));
  const int64_t high = reading.sizes[dense], across = (run + kBlock - 1) / kBlock, down = (high + kBlock - 1) / kBlock;
  const int64_t planes = numel / (run * high);
  const int64_t block_bytes = kBlock * kBlock * static_cast<int64_t>(sizeof(T));
  cpu::parallel_for(planes * down * across, kGrainBytes / block_bytes + 1, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t i = task % across * kBlock, j = task / across % down * kBlock;
      const Place place = place_of(reading, out_strides, task / across / down, last, dense);
      const int64_t wide = run - i < kBlock ? run - i : kBlock, tall = high - j < kBlock ? high - j : kBlock;
      transpose_block(in + place.in + i * step + j, step, out + place.out + j * out_strides[dense] + i, out_strides[dense],
                      wide, tall);
    }
  });
}

int32_t read_any(Reading& reading, const KernelArgs* args) {
  const TensorView &x = args->inputs[0], &out = args->outputs[0];
  if (out.numel == 0) return kOk;
  if (reading.rank == 0) reading.sizes[reading.rank] = reading.strides[reading.rank] = 1, reading.rank = 1;
  switch (dtype_size(x.dtype)) {
    case 1: read(reading, x.as<const uint8_t>(), out.as<uint8_t>(), out.numel); break;
    case 2: read(reading, x.as<const uint16_t>(), out.as<uint16_t>(), out.numel); break;
    case 4: read(reading, x.as<const uint32_t>(), out.as<uint32_t>(), out.numel); break;
    default: read(reading, x.as<const uint64_t>(), out.as<uint64_t>(), out.numel); break;
  }
  return kOk;
}

int32_t permute(const KernelArgs* args) {
  const TensorView& x = args->inputs[0];
  Reading reading;
  for (int i = 0; i < x.rank; ++i) {
    const int axis = static_cast<int>(args->item(0, i));
    reading.push(x.shape[axis], x.span(axis + 1, x.rank));
  }
  return read_any(reading, args);
}

int32_t flip(const KernelArgs* args) {
  const TensorView& x = args->inputs[0];
  Reading reading;
  for (int axis = 0; axis < x.rank; ++axis) {
    int64_t stride = x.span(axis + 1, x.rank);
    for (int i = 0; i < args->list_size(0); ++i) {
      if (args->item(0, i) != axis) continue;
      reading.first += (x.shape[axis] - 1) * stride;
      stride = -stride;
      break;
    }
    reading.push(x.shape[axis], stride);
  }
  return read_any(reading, args);
}

}  // namespace

LF_CPU_KERNEL(permute, permute)
LF_CPU_KERNEL(flip, flip)

}  // namespace lf
#endif
