// feature_attention and its gradient: out_i = phi(q_i)^T S_i / (phi(q_i) . z_i) with S_i = sum_j phi(k_j) v_j^T and z_i = sum_j
// phi(k_j), over all keys or over those up to i (Katharopoulos et al., arXiv 2006.16236; Choromanski et al., arXiv 2009.14794).
// The map is applied while rows are loaded: phi(x) = x, elu(x) + 1, or exp(x - shift) + eps, so features are never stored.
// Tokens pass in chunks of 64: inside a chunk a masked product, across chunks one state [features, width] a head. With
// w_ij = phi(q_i) . phi(k_j), g_i = grad_i / (phi(q_i) . z_i) and d_i = -g_i . out_i the gradients are those of linear attention
// with one more column, of ones in v and of d in g: dw_ij = g_i . v_j + d_i, and dv from w, dphi(q), dphi(k) from dw.
// Its sums over later queries go from the last chunk to the first; nothing is subtracted. A row without keys gives zeros.
// Bound by FLOPs: a chunk and a state of 256 features lie in the second-level cache.
#include "api/kernel.h"

namespace lf {
namespace {

constexpr int64_t kChunk = 64;  // a multiple of every vector width

LF_INLINE int64_t chunks_of(int64_t tokens) { return (tokens + kChunk - 1) / kChunk; }
// Stretches of a head that are summed side by side first, which costs one more product: only where heads are few.
LF_INLINE int64_t segments_of(int64_t heads, int64_t tokens) {
  const int64_t wanted = heads > 0 && heads < 8 ? 8 / heads : 1, most = (chunks_of(tokens) + 3) / 4;
  return wanted < most ? wanted : most > 1 ? most : 1;
}
LF_INLINE int64_t whole_vectors(int64_t n) { return (n + 15) / 16 * 16; }
// Elements of one state: sums of products and of features.
LF_INLINE int64_t state_size(int64_t features, int64_t width) {
  return whole_vectors(features) * whole_vectors(width) + whole_vectors(features);
}

}  // namespace
}  // namespace lf

#ifdef LF_SCHEMA_PASS
#include "core/op.h"

namespace lf {
namespace {

enum Attr { kCausal, kMap, kEps };
enum Map { kNone, kElu, kExp };

const std::vector<AttrSpec>& feature_attrs() {
  static const std::vector<AttrSpec> kAttrs = {
      {"causal", AttrType::kFlag}, {"map", AttrType::kChoice, "none|elu|exp"}, {"eps", AttrType::kNumber}};
  return kAttrs;
}

struct Sizes {
  int64_t batch, queries, keys, heads, kv_heads, features, width;
  DType acc;
};

// `q` and `shifts` are the positions of q and q_shift among the inputs; k and v follow q, k_shift follows q_shift.
Sizes check(const OpCall& call, int q, int shifts) {
  const int k = q + 1, v = q + 2;
  call.check_floating(q);
  for (int i = q; i <= v; ++i) {
    call.check_rank(i, 4, 4);
    call.check_same_dtype(i, q);
  }
  const TensorView &query = call.in(q), &key = call.in(k), &value = call.in(v);
  const Sizes s{query.dim(0), query.dim(1), key.dim(1), query.dim(2), key.dim(2), query.dim(3), value.dim(3),
                query.dtype == DType::kF64 ? DType::kF64 : DType::kF32};
  if (key.dim(0) != s.batch || key.dim(3) != s.features) {
    call.fail(kShape, "k has shape %s, needs batch %lld and %lld features as q", shape_text(key).c_str(), (long long)s.batch,
              (long long)s.features);
  }
  if (value.dim(0) != s.batch || value.dim(1) != s.keys || value.dim(2) != s.kv_heads) {
    call.fail(kShape, "v has shape %s, k %s; their first three axes must be equal", shape_text(value).c_str(),
              shape_text(key).c_str());
  }
  if (s.kv_heads < 1 || s.heads % s.kv_heads) {
    call.fail(kShape, "%lld heads of q are no multiple of %lld of k", (long long)s.heads, (long long)s.kv_heads);
  }
  for (int i = shifts; i < shifts + 2; ++i) {
    if (!call.has(i)) continue;
    const TensorView& of = call.in(i - shifts + q);
    if (call.integer(kMap) != kExp) call.fail_hint(kArgument, "leave it out", "%s is of use to map=exp alone", call.input_name(i));
    call.check_same_dtype(i, q);
    if (call.in(i).rank != 3 || call.in(i).dim(0) != of.dim(0) || call.in(i).dim(1) != of.dim(1) || call.in(i).dim(2) != of.dim(2)) {
      call.fail(kShape, "%s has shape %s, needs [%lld, %lld, %lld]", call.input_name(i), shape_text(call.in(i)).c_str(),
                (long long)of.dim(0), (long long)of.dim(1), (long long)of.dim(2));
    }
  }
  if (!(call.number(kEps) >= 0)) call.fail(kArgument, "eps must not be negative, got %g", call.number(kEps));
  return s;
}

// What the causal rule leaves to do, for one head: pairs inside of chunks, and rows that meet the state of other chunks.
struct Work {
  double pairs = 0, queries, keys;
};
Work work_of(const Sizes& s, bool causal) {
  Work work{0, static_cast<double>(s.queries), static_cast<double>(s.keys)};
  if (!causal) return work;
  work.queries = 0;
  work.keys = static_cast<double>(s.keys ? (s.keys - 1) / kChunk * kChunk : 0);
  for (int64_t i = 0; i < s.queries; ++i) {
    const int64_t at = s.keys - s.queries + i;
    if (at < 0) continue;
    work.pairs += static_cast<double>(at % kChunk + 1);
    if (at >= kChunk) work.queries += 1;
  }
  return work;
}

int64_t workspace_of(const Sizes& s, int64_t states) {
  return s.batch * s.kv_heads * states * state_size(s.features, s.width) * dtype_size(s.acc);
}

LF_OP({.name = "feature_attention",
       .inputs = {{"q"}, {"k"}, {"v"}, {.name = "q_shift", .optional = true}, {.name = "k_shift", .optional = true}},
       .attrs = feature_attrs(),
       .shape =
           [](OpCall& call) {
             const Sizes s = check(call, 0, 3);
             call.output(call.in(0).dtype, {s.batch, s.queries, s.heads, s.width});
             call.output(s.acc, {s.batch, s.queries, s.heads});
           },
       // A pair: w and w v; a query: phi(q) S; a key: its part of S.
       .cost =
           [](const OpCall& call) {
             const Sizes s = check(call, 0, 3);
             const Work work = work_of(s, call.flag(kCausal));
             const double m = static_cast<double>(s.features), d = static_cast<double>(s.width);
             const double heads = static_cast<double>(s.batch * s.heads), kv_heads = static_cast<double>(s.batch * s.kv_heads);
             return io_cost_with_flops(call, 2 * (heads * (work.pairs * (m + d) + work.queries * m * d) + kv_heads * work.keys * m * d));
           },
       .workspace =
           [](const OpCall& call) {
             const Sizes s = check(call, 0, 3);
             return workspace_of(s, segments_of(s.batch * s.kv_heads, s.keys));
           }})

LF_OP({.name = "feature_attention_backward",
       .inputs = {{"grad_out"},
                  {"q"},
                  {"k"},
                  {"v"},
                  {"out"},
                  {"norm"},
                  {.name = "q_shift", .optional = true},
                  {.name = "k_shift", .optional = true}},
       .attrs = feature_attrs(),
       .shape =
           [](OpCall& call) {
             const Sizes s = check(call, 1, 6);
             call.check_same_shape(0, 4);
             call.check_same_dtype(0, 1);
             call.check_same_dtype(4, 1);
             const TensorView& out = call.in(4);
             if (out.rank != 4 || out.dim(0) != s.batch || out.dim(1) != s.queries || out.dim(2) != s.heads || out.dim(3) != s.width) {
               call.fail(kShape, "out has shape %s, which q, k and v cannot give", shape_text(out).c_str());
             }
             call.check_dtype(5, s.acc);
             if (call.in(5).numel != s.batch * s.queries * s.heads) call.fail(kShape, "norm has shape %s", shape_text(call.in(5)).c_str());
             for (int i = 1; i < 4; ++i) call.output_like(call.in(i));
           },
       // A pair: w, dw, and their parts of dphi(q), dphi(k), dv. A query: S g, its part of the sums; a key: the same and dv.
       .cost =
           [](const OpCall& call) {
             const Sizes s = check(call, 1, 6);
             const Work work = work_of(s, call.flag(kCausal));
             const double m = static_cast<double>(s.features), d = static_cast<double>(s.width);
             const double heads = static_cast<double>(s.batch * s.heads), kv_heads = static_cast<double>(s.batch * s.kv_heads);
             return io_cost_with_flops(
                 call, 2 * (heads * (work.pairs * (3 * m + 2 * d) + 2 * work.queries * m * d) + 3 * kv_heads * work.keys * m * d));
           },
       .workspace =
           [](const OpCall& call) {
             const Sizes s = check(call, 1, 6);
             const int64_t heads = s.batch * s.kv_heads;
             return workspace_of(s, segments_of(heads, s.keys) + segments_of(heads, call.flag(kCausal) ? s.keys : s.queries));
           }})

}  // namespace
}  // namespace lf
#else
#include "cpu/scratch.inl"
#include "cpu/simd.h"
#include "cpu/sizes.h"
#include "cpu/small_product.inl"
#include "ops/dtype_dispatch.h"

namespace lf {
namespace {

constexpr int64_t kStrip = 24;  // rows of a chunk that the causal border is followed in; a multiple of kTileRows


enum Map { kNone, kElu, kExp };

template <class T, class Acc>
struct Problem {
  // Rows [tokens][heads][features or width] of one batch entry after the other.
  struct Side {
    const T *x, *shift;
    int64_t tokens, heads;
  };
  Side q, k;
  const T *v, *grad_out, *out;
  const Acc* norm;
  int64_t batch, features, width, group;
  // Of rows in scratch memory: whole vectors.
  int64_t feature_stride, width_stride;
  int64_t offset;  // of the first query among the keys
  bool causal;
  int map;
  Acc eps;

  Problem(const KernelArgs* args, int at, int shifts)
      : q(side(args->inputs[at], args->inputs[shifts])),
        k(side(args->inputs[at + 1], args->inputs[shifts + 1])),
        v(args->inputs[at + 2].as<const T>()),
        grad_out(nullptr),
        out(nullptr),
        norm(nullptr),
        batch(args->inputs[at].shape[0]),
        features(args->inputs[at].shape[3]),
        width(args->inputs[at + 2].shape[3]),
        group(q.heads / k.heads),
        feature_stride(padded(features)),
        width_stride(padded(width)),
        offset(k.tokens - q.tokens),
        causal(args->flag(0)),
        map(static_cast<int>(args->integer(1))),
        eps(static_cast<Acc>(args->number(2))) {}

  static Side side(const TensorView& x, const TensorView& shift) {
    return {x.as<const T>(), shift.present() ? shift.as<const T>() : nullptr, x.shape[1], x.shape[2]};
  }
  static int64_t padded(int64_t n) { return (n + Lanes<Acc>::n - 1) / Lanes<Acc>::n * Lanes<Acc>::n; }

  int64_t kv_heads() const { return batch * k.heads; }
  // Queries of the chunk of keys [first, end): those at its positions.
  int64_t query_at(int64_t position) const { return min64(max64(position - offset, 0), q.tokens); }

  // phi of rows [first, first + rows) of a head; zeros in rows up to a chunk and in columns up to whole vectors.
  void load_features(const Side& side, int64_t b, int64_t head, int64_t first, int64_t rows, Acc* to) const {
    using V = typename Lanes<Acc>::V;
    for (int64_t r = 0; r < rows; ++r) {
      const int64_t row = (b * side.tokens + first + r) * side.heads + head;
      const T* from = side.x + row * features;
      Acc* line = to + r * feature_stride;
      for (int64_t i = features; i < feature_stride; ++i) line[i] = 0;
      if (map == kNone) {
        for_lanes<T>(features, [&](int64_t i, int64_t n) { store_some(line + i, load_some(from + i, n), n); });
      } else if (map == kElu) {
        for_lanes<T>(features, [&](int64_t i, int64_t n) {
          const V x = load_some(from + i, n);
          store_some(line + i, x > 0 ? x + 1 : exp(x), n);
        });
      } else {
        const V shift = splat(side.shift ? static_cast<Acc>(get(side.shift + row)) : Acc{}), more = splat(eps);
        for_lanes<T>(features, [&](int64_t i, int64_t n) { store_some(line + i, exp(load_some(from + i, n) - shift) + more, n); });
      }
    }
    for (int64_t i = rows * feature_stride; i < kChunk * feature_stride; ++i) to[i] = 0;
  }
  // Gradients of rows of features [rows][feature_stride] to those of x.
  void store_gradients(const Side& side, int64_t b, int64_t head, int64_t first, int64_t rows, const Acc* phi, const Acc* grads, T* to) const {
    using V = typename Lanes<Acc>::V;
    for (int64_t r = 0; r < rows; ++r) {
      T* line = to + ((b * side.tokens + first + r) * side.heads + head) * features;
      const Acc *grad = grads + r * feature_stride, *value = phi + r * feature_stride;
      for_lanes<T>(features, [&](int64_t i, int64_t n) {
        V g = load_some(grad + i, n);
        const V y = load_some(value + i, n);
        if (map == kElu) g *= min(y, splat(Acc{1}));
        if (map == kExp) g *= y - eps;
        store_some(line + i, g, n);
      });
    }
  }

  void load_rows(const T* from, int64_t stride, int64_t rows, Acc* to) const {
    for (int64_t r = 0; r < rows; ++r) {
      Acc* line = to + r * width_stride;
      for (int64_t i = width; i < width_stride; ++i) line[i] = 0;
      for_lanes<T>(width, [&](int64_t i, int64_t n) { store_some(line + i, load_some(from + r * stride + i, n), n); });
    }
    for (int64_t i = rows * width_stride; i < kChunk * width_stride; ++i) to[i] = 0;
  }
  void load_values(int64_t b, int64_t head, int64_t first, int64_t rows, Acc* to) const {
    load_rows(v + ((b * k.tokens + first) * k.heads + head) * width, k.heads * width, rows, to);
  }
  // g = grad_out / norm and d = -g . out, both 0 where no key is seen.
  void load_grads(int64_t b, int64_t head, int64_t first, int64_t rows, Acc* to, Acc* d) const {
    using V = typename Lanes<Acc>::V;
    const int64_t row = (b * q.tokens + first) * q.heads + head;
    load_rows(grad_out + row * width, q.heads * width, rows, to);
    for (int64_t r = 0; r < rows; ++r) {
      const Acc total = norm[row + r * q.heads], factor = total != 0 ? 1 / total : Acc{};
      const T* result = out + (row + r * q.heads) * width;
      Acc* line = to + r * width_stride;
      V sum{};
      for_lanes<T>(width, [&](int64_t i, int64_t n) {
        const V g = load_some(line + i, n) * factor;
        store_some(line + i, g, n);
        sum += g * load_some(result + i, n);
      });
      d[r] = -reduce_add(sum);
    }
    for (int64_t r = rows; r < kChunk; ++r) d[r] = 0;
  }
};

// A chunk [kChunk][stride] -> [stride][kChunk]; stride is a whole number of vectors.
template <class Acc>
void turn(const Acc* rows, int64_t stride, Acc* out) {
  if constexpr (sizeof(Acc) == 4) {
    for (int64_t i = 0; i < kChunk; i += kVf) {
      for (int64_t d = 0; d < stride; d += kVf) {
        Vf square[kVf];
        for (int l = 0; l < kVf; ++l) square[l] = load(rows + (i + l) * stride + d);
        transpose(square);
        for (int l = 0; l < kVf; ++l) store(out + (d + l) * kChunk + i, square[l]);
      }
    }
  } else {
    for (int64_t d = 0; d < stride; ++d)
      for (int64_t i = 0; i < kChunk; ++i) out[d * kChunk + i] = rows[i * stride + d];
  }
}

// to += factors^T rows: the column sums of [count][stride], each row times its factor (nullptr: 1).
template <class Acc>
void add_rows_to(const Acc* rows, const Acc* factors, int64_t count, int64_t stride, Acc* to) {
  using V = typename Lanes<Acc>::V;
  for (int64_t i = 0; i < stride; i += Lanes<Acc>::n) {
    V sum = load(to + i);
    for (int64_t r = 0; r < count; ++r) sum += load(rows + r * stride + i) * (factors ? splat(factors[r]) : splat(Acc{1}));
    store(to + i, sum);
  }
}
// rows += factors line^T.
template <class Acc>
void add_to_rows(const Acc* line, const Acc* factors, int64_t count, int64_t stride, Acc* rows) {
  for (int64_t r = 0; r < count; ++r) {
    const auto factor = splat(factors ? factors[r] : Acc{1});
    for (int64_t i = 0; i < stride; i += Lanes<Acc>::n) store(rows + r * stride + i, load(rows + r * stride + i) + factor * load(line + i));
  }
}

// products [count][kChunk] = rows of x, from row `strip` on, times y [depth][kChunk]; entry (r, j) is 0 where j lies behind the
// position `first` + r.
template <class Acc>
void masked_product(int64_t rows, int64_t first, int64_t depth, const Acc* x, int64_t stride, const Acc* y, const Acc* more, Acc* products) {
  for (int64_t r = 0; r < rows; r += kStrip) {
    const int64_t count = min64(kStrip, rows - r), seen = min64(whole_vectors(first + r + count), kChunk);
    small_product<false>(count, seen, depth, x + r * stride, stride, y, kChunk, products + r * kChunk, kChunk, false);
    for (int64_t i = r; i < r + count; ++i) {
      Acc* line = products + i * kChunk;
      if (more) {
        for (int64_t j = 0; j <= first + i; ++j) line[j] += more[i];
      }
      for (int64_t j = first + i + 1; j < kChunk; ++j) line[j] = 0;
    }
  }
}

// The sums over one chunk, added to a state: the product [features][width_stride], or turned [width][feature_stride]; behind it
// those of features.
template <bool kTurned, class T, class Acc>
void add_chunk(const Problem<T, Acc>& p, const Acc* phi, const Acc* rows, const Acc* factors, int64_t count, Acc* state) {
  if (kTurned) {
    small_product<true>(p.width, p.feature_stride, count, rows, p.width_stride, phi, p.feature_stride, state, p.feature_stride, true);
  } else {
    small_product<true>(p.features, p.width_stride, count, phi, p.feature_stride, rows, p.width_stride, state, p.width_stride, true);
  }
  add_rows_to(phi, factors, count, p.feature_stride, state + (kTurned ? p.width * p.feature_stride : p.features * p.width_stride));
}

// What a state holds before a stretch of chunks begins. `own` gives the sums of one stretch; the sums before it (after it, from
// the end on) replace them, and without a causal rule those of all, in the first place.
template <class Acc, class F>
void combine(Acc* states, int64_t heads, int64_t segments, int64_t size, bool causal, bool from_end, F&& own) {
  const bool alone = causal && segments == 1;
  cpu::parallel_for(heads * segments, 1, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      for (int64_t i = 0; i < size; ++i) states[task * size + i] = 0;
      if (!alone) own(task / segments, task % segments, states + task * size);
    }
  });
  if (segments == 1) return;
  cpu::parallel_for(heads, 1, [&](int64_t begin, int64_t end) {
    for (int64_t head = begin; head < end; ++head) {
      Acc* of = states + head * segments * size;
      for (int64_t i = 0; i < size; ++i) {
        Acc sum{};
        for (int64_t n = 0; n < segments; ++n) {
          Acc& here = of[(from_end ? segments - 1 - n : n) * size + i];
          const Acc add = here;
          if (causal) here = sum;
          sum += add;
        }
        if (!causal) of[i] = sum;
      }
    }
  });
}

// f(first, end) for the chunks of one stretch of tokens, or in reverse order.
template <class F>
LF_INLINE void for_chunks(int64_t tokens, int64_t segment, int64_t segments, bool from_end, F&& f) {
  const int64_t chunks = chunks_of(tokens), each = (chunks + segments - 1) / segments;
  const int64_t begin = min64(segment * each, chunks), end = min64(begin + each, chunks);
  for (int64_t n = 0; n < end - begin; ++n) {
    const int64_t first = (from_end ? end - 1 - n : begin + n) * kChunk;
    f(first, min64(first + kChunk, tokens));
  }
}

// The states of phi(k) and v before each stretch.
template <bool kTurned, class T, class Acc>
void key_states(const Problem<T, Acc>& p, Acc* states, int64_t segments, int64_t size) {
  combine(states, p.kv_heads(), segments, size, p.causal, false, [&](int64_t head, int64_t segment, Acc* state) {
    Scratch<Acc> scratch(kChunk * (p.feature_stride + p.width_stride), 2);
    Acc* phi = scratch.take(kChunk * p.feature_stride);
    Acc* values = scratch.take(kChunk * p.width_stride);
    const int64_t b = head / p.k.heads, g = head % p.k.heads;
    for_chunks(p.k.tokens, segment, segments, false, [&](int64_t first, int64_t end) {
      p.load_features(p.k, b, g, first, end - first, phi);
      p.load_values(b, g, first, end - first, values);
      add_chunk<kTurned>(p, phi, values, static_cast<const Acc*>(nullptr), end - first, state);
    });
  });
}

// --- forward ------------------------------------------------------------------------------------------------------------

template <class T, class Acc>
struct Forward {
  const Problem<T, Acc> p;
  T* out;
  Acc* norm;

  // One head's rows [first, first + rows): from the products inside of the chunk (keys_turned [features][kChunk], values; none
  // where keys_turned is null), whose first row is at position `at`, and from the state.
  void attend(int64_t b, int64_t head, int64_t first, int64_t rows, int64_t at, const Acc* keys_turned, const Acc* values,
              const Acc* state, Acc* phi, Acc* weights, Acc* sums) const {
    using V = typename Lanes<Acc>::V;
    p.load_features(p.q, b, head, first, rows, phi);
    if (keys_turned) {
      masked_product(rows, at, p.features, phi, p.feature_stride, keys_turned, static_cast<const Acc*>(nullptr), weights);
      for (int64_t r = 0; r < rows; r += kStrip) {
        const int64_t count = min64(kStrip, rows - r), seen = min64(whole_vectors(at + r + count), kChunk);
        small_product<false>(count, p.width_stride, seen, weights + r * kChunk, kChunk, values, p.width_stride,
                             sums + r * p.width_stride, p.width_stride, false);
      }
    }
    if (state) {
      small_product<false>(rows, p.width_stride, p.features, phi, p.feature_stride, state, p.width_stride, sums, p.width_stride,
                           keys_turned != nullptr);
    }
    for (int64_t r = 0; r < rows; ++r) {
      V sum{};
      if (keys_turned) {
        for (int64_t j = 0; j < kChunk; j += Lanes<Acc>::n) sum += load(weights + r * kChunk + j);
      }
      if (state) {
        const Acc* totals = state + p.features * p.width_stride;
        for (int64_t i = 0; i < p.feature_stride; i += Lanes<Acc>::n) sum += load(phi + r * p.feature_stride + i) * load(totals + i);
      }
      const Acc total = reduce_add(sum);
      const V factor = splat(total != 0 ? 1 / total : Acc{});
      const int64_t row = (b * p.q.tokens + first + r) * p.q.heads + head;
      norm[row] = total;
      for_lanes<T>(p.width, [&](int64_t i, int64_t n) {
        store_some(out + row * p.width + i, load_some(sums + r * p.width_stride + i, n) * factor, n);
      });
    }
  }

  void causal(int64_t head, int64_t segment, int64_t segments, Acc* state) const {
    Scratch<Acc> scratch(kChunk * (3 * p.feature_stride + 2 * p.width_stride + kChunk), 6);
    Acc* phi = scratch.take(kChunk * p.feature_stride);
    Acc* keys = scratch.take(kChunk * p.feature_stride);
    Acc* keys_turned = scratch.take(kChunk * p.feature_stride);
    Acc* values = scratch.take(kChunk * p.width_stride);
    Acc* sums = scratch.take(kChunk * p.width_stride);
    Acc* weights = scratch.take(kChunk * kChunk);
    const int64_t b = head / p.k.heads, g = head % p.k.heads;
    for_chunks(p.k.tokens, segment, segments, false, [&](int64_t first, int64_t end) {
      p.load_features(p.k, b, g, first, end - first, keys);
      p.load_values(b, g, first, end - first, values);
      const int64_t q0 = p.query_at(first), q1 = p.query_at(end);
      if (q0 < q1) turn(keys, p.feature_stride, keys_turned);
      for (int64_t h = g * p.group; q0 < q1 && h < (g + 1) * p.group; ++h) {
        attend(b, h, q0, q1 - q0, q0 + p.offset - first, keys_turned, values, first ? state : nullptr, phi, weights, sums);
      }
      add_chunk<false>(p, keys, values, static_cast<const Acc*>(nullptr), end - first, state);
    });
  }

  void run(Acc* states) const {
    const int64_t segments = segments_of(p.kv_heads(), p.k.tokens), size = state_size(p.features, p.width);
    key_states<false>(p, states, segments, size);
    if (p.causal) {
      cpu::parallel_for(p.kv_heads() * segments, 1, [&](int64_t begin, int64_t end) {
        for (int64_t task = begin; task < end; ++task) causal(task / segments, task % segments, segments, states + task * size);
      });
      // Queries before the first key.
      for (int64_t b = 0; b < p.batch; ++b) {
        const int64_t row = b * p.q.tokens * p.q.heads, rows = min64(max64(-p.offset, 0), p.q.tokens) * p.q.heads;
        for (int64_t i = 0; i < rows; ++i) norm[row + i] = 0;
        for (int64_t i = 0; i < rows * p.width; ++i) put(out + row * p.width + i, 0);
      }
      return;
    }
    const int64_t chunks = chunks_of(p.q.tokens), heads = p.batch * p.q.heads;
    cpu::parallel_for(heads * chunks, 1, [&](int64_t begin, int64_t end) {
      Scratch<Acc> scratch(kChunk * (p.feature_stride + p.width_stride), 2);
      Acc* phi = scratch.take(kChunk * p.feature_stride);
      Acc* sums = scratch.take(kChunk * p.width_stride);
      for (int64_t task = begin; task < end; ++task) {
        const int64_t head = task / chunks, first = task % chunks * kChunk, b = head / p.q.heads, h = head % p.q.heads;
        const Acc* state = states + (b * p.k.heads + h / p.group) * segments * size;
        attend(b, h, first, min64(kChunk, p.q.tokens - first), 0, nullptr, nullptr, state, phi, nullptr, sums);
      }
    });
  }
};

// --- backward: states are turned, [width][features] --------------------------------------------------------------------------

template <class T, class Acc>
struct Backward {
  const Problem<T, Acc> p;
  T *grad_q, *grad_k, *grad_v;

  // dphi(q) of one head's rows, as Forward::attend.
  void query_gradients(int64_t b, int64_t head, int64_t first, int64_t rows, int64_t at, const Acc* keys, const Acc* values_turned,
                       const Acc* state, Acc* phi, Acc* grads, Acc* factors, Acc* weight_grads, Acc* sums) const {
    p.load_features(p.q, b, head, first, rows, phi);
    p.load_grads(b, head, first, rows, grads, factors);
    if (keys) {
      masked_product(rows, at, p.width, grads, p.width_stride, values_turned, factors, weight_grads);
      for (int64_t r = 0; r < rows; r += kStrip) {
        const int64_t count = min64(kStrip, rows - r), seen = min64(whole_vectors(at + r + count), kChunk);
        small_product<false>(count, p.feature_stride, seen, weight_grads + r * kChunk, kChunk, keys, p.feature_stride,
                             sums + r * p.feature_stride, p.feature_stride, false);
      }
    }
    if (state) {
      small_product<false>(rows, p.feature_stride, p.width, grads, p.width_stride, state, p.feature_stride, sums, p.feature_stride,
                           keys != nullptr);
      add_to_rows(state + p.width * p.feature_stride, factors, rows, p.feature_stride, sums);
    }
    p.store_gradients(p.q, b, head, first, rows, phi, sums, grad_q);
  }

  void causal_queries(int64_t head, int64_t segment, int64_t segments, Acc* state) const {
    Scratch<Acc> scratch(kChunk * (3 * p.feature_stride + 3 * p.width_stride + kChunk + 1), 8);
    Acc* phi = scratch.take(kChunk * p.feature_stride);
    Acc* keys = scratch.take(kChunk * p.feature_stride);
    Acc* sums = scratch.take(kChunk * p.feature_stride);
    Acc* values = scratch.take(kChunk * p.width_stride);
    Acc* values_turned = scratch.take(kChunk * p.width_stride);
    Acc* grads = scratch.take(kChunk * p.width_stride);
    Acc* weight_grads = scratch.take(kChunk * kChunk);
    Acc* factors = scratch.take(kChunk);
    const int64_t b = head / p.k.heads, g = head % p.k.heads;
    for_chunks(p.k.tokens, segment, segments, false, [&](int64_t first, int64_t end) {
      p.load_features(p.k, b, g, first, end - first, keys);
      p.load_values(b, g, first, end - first, values);
      const int64_t q0 = p.query_at(first), q1 = p.query_at(end);
      if (q0 < q1) turn(values, p.width_stride, values_turned);
      for (int64_t h = g * p.group; q0 < q1 && h < (g + 1) * p.group; ++h) {
        query_gradients(b, h, q0, q1 - q0, q0 + p.offset - first, keys, values_turned, first ? state : nullptr, phi, grads, factors,
                        weight_grads, sums);
      }
      add_chunk<true>(p, keys, values, static_cast<const Acc*>(nullptr), end - first, state);
    });
  }

  // dphi(k) and dv of one head's keys [first, end) from the state of later queries; those of the chunk's own, where causal, are
  // added in passing, and then the queries to the state.
  struct KeyScratch {
    Acc *phi, *keys, *keys_turned, *sums, *values, *values_turned, *value_sums, *grads, *weights, *weight_grads, *factors;
    explicit KeyScratch(const Problem<T, Acc>& p) {
      Scratch<Acc> scratch(kChunk * (4 * p.feature_stride + 4 * p.width_stride + 2 * kChunk + 1), 11);
      phi = scratch.take(kChunk * p.feature_stride);
      keys = scratch.take(kChunk * p.feature_stride);
      keys_turned = scratch.take(kChunk * p.feature_stride);
      sums = scratch.take(kChunk * p.feature_stride);
      values = scratch.take(kChunk * p.width_stride);
      values_turned = scratch.take(kChunk * p.width_stride);
      value_sums = scratch.take(kChunk * p.width_stride);
      grads = scratch.take(kChunk * p.width_stride);
      weights = scratch.take(kChunk * kChunk);
      weight_grads = scratch.take(kChunk * kChunk);
      factors = scratch.take(kChunk);
    }
  };
  void key_gradients(const KeyScratch& s, int64_t b, int64_t g, int64_t first, int64_t end, Acc* state) const {
    const int64_t count = end - first;
    p.load_features(p.k, b, g, first, count, s.keys);
    p.load_values(b, g, first, count, s.values);
    turn(s.keys, p.feature_stride, s.keys_turned);
    small_product<false>(count, p.feature_stride, p.width, s.values, p.width_stride, state, p.feature_stride, s.sums, p.feature_stride, false);
    add_to_rows(state + p.width * p.feature_stride, static_cast<const Acc*>(nullptr), count, p.feature_stride, s.sums);
    // dv turned: [width][kChunk]
    small_product<false>(p.width, kChunk, p.features, state, p.feature_stride, s.keys_turned, kChunk, s.value_sums, kChunk, false);
    if (p.causal) {
      turn(s.values, p.width_stride, s.values_turned);
      const int64_t q0 = p.query_at(first), rows = p.query_at(end) - q0, at = q0 + p.offset - first;
      for (int64_t h = g * p.group; rows > 0 && h < (g + 1) * p.group; ++h) {
        p.load_features(p.q, b, h, q0, rows, s.phi);
        p.load_grads(b, h, q0, rows, s.grads, s.factors);
        masked_product(rows, at, p.features, s.phi, p.feature_stride, s.keys_turned, static_cast<const Acc*>(nullptr), s.weights);
        masked_product(rows, at, p.width, s.grads, p.width_stride, s.values_turned, s.factors, s.weight_grads);
        small_product<true>(count, p.feature_stride, rows, s.weight_grads, kChunk, s.phi, p.feature_stride, s.sums, p.feature_stride, true);
        small_product<true>(p.width, kChunk, rows, s.grads, p.width_stride, s.weights, kChunk, s.value_sums, kChunk, true);
        add_chunk<true>(p, s.phi, s.grads, s.factors, rows, state);
      }
    }
    p.store_gradients(p.k, b, g, first, count, s.keys, s.sums, grad_k);
    for (int64_t r = 0; r < count; ++r) {
      T* to = grad_v + ((b * p.k.tokens + first + r) * p.k.heads + g) * p.width;
      for (int64_t i = 0; i < p.width; ++i) put(to + i, s.value_sums[i * kChunk + r]);
    }
  }

  void run(Acc* states) const {
    const int64_t size = state_size(p.features, p.width), kv_heads = p.kv_heads();
    const int64_t segments = segments_of(kv_heads, p.k.tokens), later = segments_of(kv_heads, p.causal ? p.k.tokens : p.q.tokens);
    Acc* sums = states + kv_heads * segments * size;
    key_states<true>(p, states, segments, size);
    if (p.causal) {
      cpu::parallel_for(kv_heads * segments, 1, [&](int64_t begin, int64_t end) {
        for (int64_t task = begin; task < end; ++task) causal_queries(task / segments, task % segments, segments, states + task * size);
      });
    } else {
      query_rows(states, segments, size);
    }
    combine(sums, kv_heads, later, size, p.causal, true, [&](int64_t head, int64_t segment, Acc* state) {
      Scratch<Acc> scratch(kChunk * (p.feature_stride + p.width_stride + 1), 3);
      Acc* phi = scratch.take(kChunk * p.feature_stride);
      Acc* grads = scratch.take(kChunk * p.width_stride);
      Acc* factors = scratch.take(kChunk);
      const int64_t b = head / p.k.heads, g = head % p.k.heads;
      for_chunks(p.causal ? p.k.tokens : p.q.tokens, segment, later, true, [&](int64_t first, int64_t end) {
        const int64_t q0 = p.causal ? p.query_at(first) : first, rows = (p.causal ? p.query_at(end) : end) - q0;
        for (int64_t h = g * p.group; rows > 0 && h < (g + 1) * p.group; ++h) {
          p.load_features(p.q, b, h, q0, rows, phi);
          p.load_grads(b, h, q0, rows, grads, factors);
          add_chunk<true>(p, phi, grads, factors, rows, state);
        }
      });
    });
    // Without a causal rule every chunk of keys is a task of its own.
    const int64_t tasks = p.causal ? later : chunks_of(p.k.tokens);
    cpu::parallel_for(kv_heads * tasks, 1, [&](int64_t begin, int64_t end) {
      const KeyScratch scratch(p);
      for (int64_t task = begin; task < end; ++task) {
        const int64_t head = task / tasks, b = head / p.k.heads, g = head % p.k.heads;
        if (p.causal) {
          for_chunks(p.k.tokens, task % tasks, tasks, true, [&](int64_t first, int64_t last) { key_gradients(scratch, b, g, first, last, sums + task * size); });
        } else {
          const int64_t first = task % tasks * kChunk;
          key_gradients(scratch, b, g, first, min64(first + kChunk, p.k.tokens), sums + head * later * size);
        }
      }
    });
    // Queries before the first key.
    for (int64_t b = 0; p.causal && b < p.batch; ++b) {
      const int64_t elements = min64(max64(-p.offset, 0), p.q.tokens) * p.q.heads * p.features;
      for (int64_t i = 0; i < elements; ++i) put(grad_q + b * p.q.tokens * p.q.heads * p.features + i, 0);
    }
  }

  // dphi(q) without a causal rule.
  void query_rows(const Acc* states, int64_t segments, int64_t size) const {
    const int64_t chunks = chunks_of(p.q.tokens);
    cpu::parallel_for(p.batch * p.q.heads * chunks, 1, [&](int64_t begin, int64_t end) {
      Scratch<Acc> scratch(kChunk * (2 * p.feature_stride + p.width_stride + 1), 4);
      Acc* phi = scratch.take(kChunk * p.feature_stride);
      Acc* sums = scratch.take(kChunk * p.feature_stride);
      Acc* grads = scratch.take(kChunk * p.width_stride);
      Acc* factors = scratch.take(kChunk);
      for (int64_t task = begin; task < end; ++task) {
        const int64_t head = task / chunks, first = task % chunks * kChunk, b = head / p.q.heads, h = head % p.q.heads;
        const Acc* state = states + (b * p.k.heads + h / p.group) * segments * size;
        query_gradients(b, h, first, min64(kChunk, p.q.tokens - first), 0, nullptr, nullptr, state, phi, grads, factors, nullptr, sums);
      }
    });
  }
};

template <class F>
void visit(DType dtype, F&& f) {
  visit_floating(dtype, [&](auto type) {
    using T = decltype(type);
    if constexpr (kIsSame<T, double>) f(type, double{});
    else f(type, float{});
  });
}

int32_t feature_attention(const KernelArgs* args) {
  visit(args->inputs[0].dtype, [&](auto type, auto acc) {
    using T = decltype(type);
    using Acc = decltype(acc);
    const Forward<T, Acc> forward{Problem<T, Acc>(args, 0, 3), args->outputs[0].as<T>(), args->outputs[1].as<Acc>()};
    forward.run(static_cast<Acc*>(args->workspace));
  });
  return kOk;
}

int32_t feature_attention_backward(const KernelArgs* args) {
  visit(args->inputs[1].dtype, [&](auto type, auto acc) {
    using T = decltype(type);
    using Acc = decltype(acc);
    Problem<T, Acc> p(args, 1, 6);
    p.grad_out = args->inputs[0].as<const T>();
    p.out = args->inputs[4].as<const T>();
    p.norm = args->inputs[5].as<const Acc>();
    const Backward<T, Acc> backward{p, args->outputs[0].as<T>(), args->outputs[1].as<T>(), args->outputs[2].as<T>()};
    backward.run(static_cast<Acc*>(args->workspace));
  });
  return kOk;
}

}  // namespace

LF_CPU_KERNEL(feature_attention, feature_attention)
LF_CPU_KERNEL(feature_attention_backward, feature_attention_backward)

}  // namespace lf
#endif
