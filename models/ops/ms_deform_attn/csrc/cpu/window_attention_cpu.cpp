// Attention inside windows on CPUs, with a bias per pair of places and its gradient, on PyTorch's stable C ABI.
//
// A window and head at a time: its logits stay in the cache, forward and backward, and nothing of them is stored
// between the two. Computed in float32, whatever the dtype of queries, keys and values. Which token is in which window
// comes as indices, so no tensor in the order of the windows is ever made.
//
// Every element of a gradient is added up in one order for a given number of threads: the same bits every time.

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Exception.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <limits>
#include <mutex>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

namespace {

using torch::headeronly::BFloat16;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// Floats of a register, registers that hold sums at a time, and how many of these lie side by side at most.
#if defined(__AVX512F__)
constexpr int kLanes = 16, kSums = 24, kWide = 6;
#elif defined(__AVX__)
constexpr int kLanes = 8, kSums = 12, kWide = 4;
#elif defined(__aarch64__)
constexpr int kLanes = 4, kSums = 24, kWide = 6;
#else
constexpr int kLanes = 4, kSums = 12, kWide = 4;
#endif

typedef float Vec __attribute__((vector_size(kLanes * sizeof(float)), aligned(4), may_alias));
typedef int32_t IntVec __attribute__((vector_size(kLanes * sizeof(int32_t))));

constexpr float kLog2OfE = 1.44269504088896341f;

// Queries at a time; their logits and the gradients of these should fit into a core's own cache.
constexpr int64_t kBlock = 48;

// Rows of a window lie far apart in memory, so they are asked for this many places ahead.
constexpr int64_t kAhead = 16;

inline Vec load(const float* from) { return *reinterpret_cast<const Vec*>(from); }
inline void store(float* to, Vec x) { *reinterpret_cast<Vec*>(to) = x; }
inline Vec all_of(float x) { return x - Vec{}; }

inline int64_t padded(int64_t count) { return (count + kLanes - 1) / kLanes * kLanes; }

inline float sum_of(Vec x) {
  float sum = 0;
  for (int i = 0; i < kLanes; ++i) sum += x[i];
  return sum;
}

// 2^x for x <= 0, to two ulps; NaN stays NaN. The whole part goes into the exponent, the rest, from -1/2 to 1/2,
// through a polynomial. What is below 2^-101, as all that a mask hides, is 0: products with it would be subnormal
// numbers, which are slow.
inline Vec power_of_two(const Vec x) {
  const Vec lowest = all_of(-101.0f);
  const Vec y = x < lowest ? lowest : x;
  const Vec shifted = y + (12582912.0f + 127);  // 1.5 * 2^23: the sum is rounded to a whole number
  const Vec rest = y - (shifted - (12582912.0f + 127));
  Vec z = all_of(1.5403530e-4f);
  z = z * rest + 1.3333558e-3f;
  z = z * rest + 9.6181291e-3f;
  z = z * rest + 5.5504109e-2f;
  z = z * rest + 0.24022651f;
  z = z * rest + 0.69314718f;
  z = z * rest + 1.0f;
  IntVec bits;
  std::memcpy(&bits, &shifted, sizeof(bits));
  const IntVec exponent = bits << 23;  // what is above falls out
  Vec power;
  std::memcpy(&power, &exponent, sizeof(power));
  return x < lowest ? Vec{} : z * power;
}

// A matrix of floats: how far its rows and the numbers of a row are apart.
struct Matrix {
  const float* at;
  int64_t row, step = 1;

  const float* from(int64_t i, int64_t j) const { return at + i * row + j * step; }
  Matrix below(int64_t i) const { return {from(i, 0), row, step}; }
  Matrix right_of(int64_t j) const { return {from(0, j), row, step}; }
};

// out = start + a * b, for R rows and V registers; `start` may be `out`.
template <int R, int V>
inline void multiply_tile(Matrix a, Matrix b, Matrix start, float* out, int64_t out_row, int64_t depth) {
  Vec sums[R][V];
  for (int r = 0; r < R; ++r)
    for (int v = 0; v < V; ++v) sums[r][v] = load(start.at + r * start.row + v * kLanes);
  for (int64_t k = 0; k < depth; ++k) {
    Vec right[V];
    for (int v = 0; v < V; ++v) right[v] = load(b.at + k * b.row + v * kLanes);
    for (int r = 0; r < R; ++r) {
      const Vec left = all_of(a.at[r * a.row + k * a.step]);
      for (int v = 0; v < V; ++v) sums[r][v] += left * right[v];
    }
  }
  for (int r = 0; r < R; ++r)
    for (int v = 0; v < V; ++v) store(out + r * out_row + v * kLanes, sums[r][v]);
}

template <int R, int V>
inline void multiply_rows(Matrix a, Matrix b, Matrix start, float* out, int64_t out_row, int64_t rows, int64_t depth) {
  int64_t i = 0;
  for (; i + R <= rows; i += R)
    multiply_tile<R, V>(a.below(i), b, start.below(i), out + i * out_row, out_row, depth);
  if constexpr (R > 1) {
    if (i < rows) multiply_rows<R / 2, V>(a.below(i), b, start.below(i), out + i * out_row, out_row, rows - i, depth);
  }
}

template <int V>
inline void multiply_columns(
    int vectors, Matrix a, Matrix b, Matrix start, float* out, int64_t out_row, int64_t rows, int64_t depth) {
  if (vectors == V) return multiply_rows<std::min(12, kSums / V), V>(a, b, start, out, out_row, rows, depth);
  if constexpr (V > 1) multiply_columns<V - 1>(vectors, a, b, start, out, out_row, rows, depth);
}

// out = start + a * b; the number of columns is a multiple of kLanes; rows of `b` and of `start` have a step of 1.
void multiply(
    Matrix a, Matrix b, Matrix start, float* out, int64_t out_row, int64_t rows, int64_t depth, int64_t columns) {
  for (int64_t done = 0; done < columns;) {
    // Shares of about the same size: thirteen registers are taken as 5, 4 and 4.
    const int64_t left = (columns - done) / kLanes, parts = (left + kWide - 1) / kWide;
    const int64_t vectors = (left + parts - 1) / parts;
    multiply_columns<kWide>(
        static_cast<int>(vectors), a, b.right_of(done), start.right_of(done), out + done, out_row, rows, depth);
    done += vectors * kLanes;
  }
}

// out += a * b
void add_product(
    Matrix a, Matrix b, std::vector<float>& out, int64_t out_row, int64_t rows, int64_t depth, int64_t columns) {
  multiply(a, b, {out.data(), out_row}, out.data(), out_row, rows, depth, columns);
}

struct Sizes {
  int64_t tokens, places, windows, heads, channels;
  int64_t wide() const { return padded(places); }     // a row of logits
  int64_t narrow() const { return padded(channels); }  // a query
  int64_t row() const { return heads * channels; }
};

// What is added to the logit of each pair of places.
struct Pairs {
  const float *bias, *masks;
  const int64_t* mask_of_window;
};

// A window and head: what is gathered for it, and where its results are made.
template <typename T>
struct Window {
  const Sizes& sizes;
  const Pairs& pairs;
  const T* qkv;
  const int64_t* rows;
  float scale;
  int64_t wide, narrow, count = 0, head = 0;  // `count` places hold a token
  const float *bias = nullptr, *mask = nullptr;
  const int64_t* row_of_place = nullptr;
  std::vector<int64_t> place, token;
  std::vector<float> keys_across, queries, logits;

  Window(const Sizes& sizes, const Pairs& pairs, const T* qkv, const int64_t* rows, float scale)
      : sizes(sizes),
        pairs(pairs),
        qkv(qkv),
        rows(rows),
        scale(scale),
        wide(sizes.wide()),
        narrow(sizes.narrow()),
        place(sizes.places),
        token(sizes.places),
        keys_across(sizes.channels * wide),
        queries(kBlock * narrow),
        logits(kBlock * wide) {}

  // `part`: 0 queries, 1 keys, 2 values.
  const T* row(int64_t index, int part) const {
    return qkv + (index * 3 + part) * sizes.row() + head * sizes.channels;
  }

  void go_to(int64_t of_head, int64_t window) {
    head = of_head;
    row_of_place = rows + window * sizes.places;
    bias = pairs.bias + head * sizes.places * sizes.places;
    const int64_t which = pairs.mask_of_window[window];
    mask = which < 0 ? nullptr : pairs.masks + which * sizes.places * sizes.places;
    count = 0;
    for (int64_t i = 0; i < sizes.places; ++i) {
      if (row_of_place[i] >= sizes.tokens) continue;  // padding asks nothing
      place[count] = i;
      token[count++] = row_of_place[i];
    }
    for (int64_t i = 0; i < std::min(kAhead, sizes.places); ++i) fetch(i);
    across(1, keys_across);
  }

  void fetch(int64_t i) const {
    constexpr int64_t line = 64 / sizeof(T);
    for (int part = 0; part < 3; ++part)
      for (int64_t c = 0; c < sizes.channels; c += line) __builtin_prefetch(row(row_of_place[i], part) + c);
  }

  // Keys or values, a row for each channel.
  void across(int part, std::vector<float>& to) const {
    for (int64_t i = 0; i < sizes.places; ++i) {
      if (part == 1 && i + kAhead < sizes.places) fetch(i + kAhead);
      const T* from = row(row_of_place[i], part);
      for (int64_t c = 0; c < sizes.channels; ++c) to[c * wide + i] = static_cast<float>(from[c]);
    }
  }

  // Keys or values, a row for each place.
  void along(int part, std::vector<float>& to) const {
    for (int64_t i = 0; i < sizes.places; ++i) {
      const T* from = row(row_of_place[i], part);
      for (int64_t c = 0; c < sizes.channels; ++c) to[i * narrow + c] = static_cast<float>(from[c]);
    }
  }

  // Whether the biases of these queries can be read where they are: they follow each other, and behind the last row
  // there are floats to fill its last register.
  bool reads_in_place(int64_t first, int64_t size) const {
    const int64_t places = sizes.places, last = head * places + first + size - 1;
    return mask == nullptr && count == places && last * places + wide <= sizes.heads * places * places;
  }

  // Of the queries from `first` on: e^(logit - largest) in `logits`, and their sum in `sums`.
  void weigh(int64_t first, int64_t size, float* sums) {
    const int64_t places = sizes.places;
    const bool in_place = reads_in_place(first, size);
    for (int64_t i = 0; i < size; ++i) {
      const T* from = row(token[first + i], 0);
      for (int64_t c = 0; c < sizes.channels; ++c) queries[i * narrow + c] = static_cast<float>(from[c]) * scale;
      if (in_place) continue;
      float* to = logits.data() + i * wide;
      const float* added = bias + place[first + i] * places;
      if (mask == nullptr) {
        std::copy_n(added, places, to);
      } else {
        const float* also = mask + place[first + i] * places;
        for (int64_t j = 0; j < places; ++j) to[j] = added[j] + also[j];
      }
    }
    const Matrix start = in_place ? Matrix{bias + first * places, places} : Matrix{logits.data(), wide};
    multiply(
        {queries.data(), narrow}, {keys_across.data(), wide}, start, logits.data(), wide, size, sizes.channels, wide);
    for (int64_t i = 0; i < size; ++i) {
      float* of_query = logits.data() + i * wide;
      std::fill(of_query + places, of_query + wide, -std::numeric_limits<float>::infinity());
      Vec largest = load(of_query);
      for (int64_t j = kLanes; j < wide; j += kLanes) {
        const Vec x = load(of_query + j);
        largest = x > largest ? x : largest;
      }
      float top = largest[0];
      for (int j = 1; j < kLanes; ++j) top = std::max(top, largest[j]);
      top *= kLog2OfE;
      Vec sum{};
      for (int64_t j = 0; j < wide; j += kLanes) {
        const Vec weight = power_of_two(load(of_query + j) * kLog2OfE - top);
        store(of_query + j, weight);
        sum += weight;
      }
      sums[i] = sum_of(sum);
    }
  }
};

template <typename T>
void forward_windows(
    const Sizes& sizes, const Pairs& pairs, const T* qkv, const int64_t* rows, float scale, T* out, int64_t begin,
    int64_t end) {
  Window<T> window(sizes, pairs, qkv, rows, scale);
  const int64_t wide = window.wide, narrow = window.narrow;
  std::vector<float> values(wide * narrow), attended(kBlock * narrow);
  float sums[kBlock];
  for (int64_t task = begin; task < end; ++task) {
    window.go_to(task / sizes.windows, task % sizes.windows);
    window.along(2, values);
    for (int64_t first = 0; first < window.count; first += kBlock) {
      const int64_t size = std::min(kBlock, window.count - first);
      window.weigh(first, size, sums);
      std::fill(attended.begin(), attended.end(), 0.0f);
      add_product({window.logits.data(), wide}, {values.data(), narrow}, attended, narrow, size, sizes.places, narrow);
      for (int64_t i = 0; i < size; ++i) {
        T* to = out + window.token[first + i] * sizes.row() + window.head * sizes.channels;
        const float factor = 1 / sums[i];
        for (int64_t c = 0; c < sizes.channels; ++c) to[c] = static_cast<T>(attended[i * narrow + c] * factor);
      }
    }
  }
}

// Sums of a range of tasks that other ranges add to as well.
struct Shared {
  int64_t begin;
  std::vector<std::pair<int64_t, std::vector<float>>> biases;  // of heads
  std::vector<float> padding;
};

template <typename T>
Shared backward_windows(
    const Sizes& sizes, const Pairs& pairs, const T* grad_out, const T* qkv, const int64_t* rows, float scale,
    T* grad_qkv, int64_t begin, int64_t end) {
  Window<T> window(sizes, pairs, qkv, rows, scale);
  const int64_t wide = window.wide, narrow = window.narrow, channels = sizes.channels;
  std::vector<float> keys(wide * narrow), values_across(channels * wide), grads(kBlock * narrow);
  std::vector<float> grad_logits(kBlock * wide), grad_queries(kBlock * narrow);
  std::vector<float> grad_keys(sizes.places * narrow), grad_values(sizes.places * narrow);
  float sums[kBlock];
  Shared shared{begin, {}, std::vector<float>(3 * sizes.row())};
  for (int64_t task = begin; task < end; ++task) {
    const int64_t head = task / sizes.windows;
    window.go_to(head, task % sizes.windows);
    if (shared.biases.empty() || shared.biases.back().first != head)
      shared.biases.emplace_back(head, std::vector<float>(sizes.places * wide));
    float* grad_bias = shared.biases.back().second.data();
    window.along(1, keys);
    window.across(2, values_across);
    std::fill(grad_keys.begin(), grad_keys.end(), 0.0f);
    std::fill(grad_values.begin(), grad_values.end(), 0.0f);
    for (int64_t first = 0; first < window.count; first += kBlock) {
      const int64_t size = std::min(kBlock, window.count - first);
      window.weigh(first, size, sums);
      for (int64_t i = 0; i < size; ++i) {
        const T* from = grad_out + window.token[first + i] * sizes.row() + head * channels;
        for (int64_t c = 0; c < channels; ++c) grads[i * narrow + c] = static_cast<float>(from[c]);
      }
      std::fill(grad_logits.begin(), grad_logits.end(), 0.0f);
      add_product({grads.data(), narrow}, {values_across.data(), wide}, grad_logits, wide, size, channels, wide);
      for (int64_t i = 0; i < size; ++i) {
        float *weights = window.logits.data() + i * wide, *grad = grad_logits.data() + i * wide;
        float* to_bias = grad_bias + window.place[first + i] * wide;
        const float factor = 1 / sums[i];
        Vec sum{};
        for (int64_t j = 0; j < wide; j += kLanes) {
          const Vec weight = load(weights + j) * factor;
          store(weights + j, weight);
          sum += weight * load(grad + j);
        }
        const float mean = sum_of(sum);
        for (int64_t j = 0; j < wide; j += kLanes) {
          const Vec of_logit = load(weights + j) * (load(grad + j) - mean);
          store(grad + j, of_logit);
          store(to_bias + j, load(to_bias + j) + of_logit);
        }
      }
      const int64_t places = sizes.places;
      const Matrix weights_across{window.logits.data(), 1, wide}, logits_across{grad_logits.data(), 1, wide};
      add_product(weights_across, {grads.data(), narrow}, grad_values, narrow, places, size, narrow);
      add_product(logits_across, {window.queries.data(), narrow}, grad_keys, narrow, places, size, narrow);
      std::fill(grad_queries.begin(), grad_queries.end(), 0.0f);
      add_product({grad_logits.data(), wide}, {keys.data(), narrow}, grad_queries, narrow, size, places, narrow);
      for (int64_t i = 0; i < size; ++i) {
        T* to = grad_qkv + window.token[first + i] * 3 * sizes.row() + head * channels;
        for (int64_t c = 0; c < channels; ++c) to[c] = static_cast<T>(grad_queries[i * narrow + c] * scale);
      }
    }
    for (int part = 1; part < 3; ++part) {
      const float* from = part == 1 ? grad_keys.data() : grad_values.data();
      for (int64_t i = 0; i < sizes.places; ++i, from += narrow) {
        const int64_t row = window.row_of_place[i];
        const int64_t at = part * sizes.row() + head * channels;
        if (row < sizes.tokens) {
          T* to = grad_qkv + row * 3 * sizes.row() + at;
          for (int64_t c = 0; c < channels; ++c) to[c] = static_cast<T>(from[c]);
        } else {
          for (int64_t c = 0; c < channels; ++c) shared.padding[at + c] += from[c];
        }
      }
    }
  }
  return shared;
}

Sizes check(
    const Tensor& qkv, const Tensor& rows, const Tensor& bias, const Tensor& masks, const Tensor& mask_of_window,
    int64_t tokens) {
  STD_TORCH_CHECK(
      qkv.dim() == 2 && rows.dim() == 1 && bias.dim() == 3 && masks.dim() == 3 && mask_of_window.dim() == 1,
      "window_attention: wrong ranks");
  const int64_t heads = bias.size(0), places = bias.size(1), windows = mask_of_window.size(0);
  STD_TORCH_CHECK(
      heads > 0 && places > 0 && bias.size(2) == places && qkv.size(1) % (3 * heads) == 0 && qkv.size(1) > 0,
      "window_attention: qkv and bias do not fit each other");
  STD_TORCH_CHECK(
      masks.size(0) == 0 || (masks.size(1) == places && masks.size(2) == places),
      "window_attention: masks and bias do not fit each other");
  STD_TORCH_CHECK(rows.size(0) == windows * places, "window_attention: a row for each place of each window");
  STD_TORCH_CHECK(qkv.size(0) == tokens || qkv.size(0) == tokens + 1, "window_attention: qkv has too few or many rows");
  for (const Tensor* tensor : {&qkv, &rows, &bias, &masks, &mask_of_window}) {
    STD_TORCH_CHECK(
        tensor->is_cpu() && tensor->is_contiguous(), "window_attention: all tensors lie on the CPU, in order");
  }
  STD_TORCH_CHECK(
      rows.scalar_type() == ScalarType::Long && mask_of_window.scalar_type() == ScalarType::Long &&
          bias.scalar_type() == ScalarType::Float && masks.scalar_type() == ScalarType::Float,
      "window_attention: wrong dtypes");
  const int64_t *row = rows.const_data_ptr<int64_t>(), *mask = mask_of_window.const_data_ptr<int64_t>();
  for (int64_t i = 0; i < windows * places; ++i)
    STD_TORCH_CHECK(row[i] >= 0 && row[i] < qkv.size(0), "window_attention: a row that qkv has not");
  for (int64_t i = 0; i < windows; ++i)
    STD_TORCH_CHECK(mask[i] >= -1 && mask[i] < masks.size(0), "window_attention: a mask that is not there");
  return {tokens, places, windows, heads, qkv.size(1) / (3 * heads)};
}

template <typename F>
void by_dtype(const Tensor& qkv, const F& run) {
  if (qkv.scalar_type() == ScalarType::Float) return run.template operator()<float>();
  if (qkv.scalar_type() == ScalarType::BFloat16) return run.template operator()<BFloat16>();
  STD_TORCH_CHECK(false, "window_attention: float32 and bfloat16 only");
}

Tensor forward(
    const Tensor& qkv, const Tensor& rows, const Tensor& bias, const Tensor& masks, const Tensor& mask_of_window,
    int64_t tokens, double scale) {
  const Sizes sizes = check(qkv, rows, bias, masks, mask_of_window, tokens);
  Tensor out = torch::stable::new_empty(qkv, {tokens, sizes.row()});
  const Pairs pairs{
      bias.const_data_ptr<float>(), masks.const_data_ptr<float>(), mask_of_window.const_data_ptr<int64_t>()};
  by_dtype(qkv, [&]<typename T>() {
    const T* in = qkv.const_data_ptr<T>();
    const int64_t* at = rows.const_data_ptr<int64_t>();
    T* to = out.mutable_data_ptr<T>();
    torch::stable::parallel_for(0, sizes.heads * sizes.windows, 1, [&](int64_t begin, int64_t end) {
      forward_windows<T>(sizes, pairs, in, at, static_cast<float>(scale), to, begin, end);
    });
  });
  return out;
}

std::tuple<Tensor, Tensor> backward(
    const Tensor& grad_out, const Tensor& qkv, const Tensor& rows, const Tensor& bias, const Tensor& masks,
    const Tensor& mask_of_window, int64_t tokens, double scale) {
  const Sizes sizes = check(qkv, rows, bias, masks, mask_of_window, tokens);
  STD_TORCH_CHECK(
      grad_out.dim() == 2 && grad_out.size(0) == tokens && grad_out.size(1) == sizes.row() && grad_out.is_cpu() &&
          grad_out.is_contiguous() && grad_out.scalar_type() == qkv.scalar_type(),
      "window_attention: grad_out does not fit the output");
  Tensor grad_qkv = torch::stable::new_empty(qkv, qkv.sizes());
  Tensor grad_bias = torch::stable::new_zeros(bias, bias.sizes());
  const Pairs pairs{
      bias.const_data_ptr<float>(), masks.const_data_ptr<float>(), mask_of_window.const_data_ptr<int64_t>()};
  std::vector<Shared> parts;
  std::mutex lock;
  by_dtype(qkv, [&]<typename T>() {
    const T *grad = grad_out.const_data_ptr<T>(), *in = qkv.const_data_ptr<T>();
    const int64_t* at = rows.const_data_ptr<int64_t>();
    T* to = grad_qkv.mutable_data_ptr<T>();
    torch::stable::parallel_for(0, sizes.heads * sizes.windows, 1, [&](int64_t begin, int64_t end) {
      Shared part = backward_windows<T>(sizes, pairs, grad, in, at, static_cast<float>(scale), to, begin, end);
      const std::lock_guard<std::mutex> guard(lock);
      parts.push_back(std::move(part));
    });
    std::sort(parts.begin(), parts.end(), [](const Shared& a, const Shared& b) { return a.begin < b.begin; });
    float* to_bias = grad_bias.mutable_data_ptr<float>();
    std::vector<float> padding(3 * sizes.row());
    for (const Shared& part : parts) {
      for (const auto& [head, sums] : part.biases)
        for (int64_t i = 0; i < sizes.places; ++i)
          for (int64_t j = 0; j < sizes.places; ++j)
            to_bias[(head * sizes.places + i) * sizes.places + j] += sums[i * sizes.wide() + j];
      for (size_t i = 0; i < padding.size(); ++i) padding[i] += part.padding[i];
    }
    if (qkv.size(0) > tokens) {
      T* last = to + tokens * 3 * sizes.row();
      for (size_t i = 0; i < padding.size(); ++i) last[i] = static_cast<T>(padding[i]);
    }
  });
  return {grad_qkv, grad_bias};
}

}  // namespace

STABLE_TORCH_LIBRARY(soc_window_attention_cpu, library) {
  library.def(
      "forward(Tensor qkv, Tensor rows, Tensor bias, Tensor masks, Tensor mask_of_window, int tokens, float scale)"
      " -> Tensor");
  library.def(
      "backward(Tensor grad_out, Tensor qkv, Tensor rows, Tensor bias, Tensor masks, Tensor mask_of_window, int tokens,"
      " float scale) -> (Tensor, Tensor)");
}

STABLE_TORCH_LIBRARY_IMPL(soc_window_attention_cpu, CPU, library) {
  library.impl("forward", TORCH_BOX(&forward));
  library.impl("backward", TORCH_BOX(&backward));
}
