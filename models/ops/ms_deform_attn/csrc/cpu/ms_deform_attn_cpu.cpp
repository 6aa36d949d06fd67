// Multi-scale deformable attention on CPUs, float32 and float64, on PyTorch's stable C ABI.
//
// Forward: parallel over queries. Backward: parallel over (batch, head), so that every element of every gradient
// belongs to one thread: no atomics, and the same bits every time.
//
// Per query and head, the corners and bilinear weights of all samples are computed first, side by side in vector
// registers; then each sample is four fused multiply-adds of `dim` channels.

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <tuple>
#include <vector>

namespace {

using torch::headeronly::IntHeaderOnlyArrayRef;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// Multiply-adds below which another thread costs more than it brings.
constexpr int64_t kWorkPerThread = 1 << 16;

// Maps of one image larger than this are rearranged for the backward pass.
constexpr int64_t kPackedBytes = 1 << 18;

struct Sizes {
  int64_t batch, tokens, heads, dim, queries, levels, points;
  int64_t samples() const { return levels * points; }
  int64_t work_per_head() const { return samples() * (4 * dim + 16); }
};

// What is known of a sample before its location: the level it falls on. One entry per sample of a query and head.
template <typename T>
struct Maps {
  std::vector<T> width_real, height_real;
  std::vector<int32_t> width, height;
  std::vector<int64_t> start;

  Maps(IntHeaderOnlyArrayRef shapes, int64_t points) {
    int64_t tokens = 0;
    for (size_t level = 0; level < shapes.size() / 2; ++level) {
      const int64_t h = shapes[2 * level], w = shapes[2 * level + 1];
      for (int64_t point = 0; point < points; ++point) {
        width_real.push_back(static_cast<T>(w));
        height_real.push_back(static_cast<T>(h));
        width.push_back(static_cast<int32_t>(w));
        height.push_back(static_cast<int32_t>(h));
        start.push_back(tokens);
      }
      tokens += h * w;
    }
  }
};

// Corners and weights of the samples of one query and head.
template <typename T>
struct Samples {
  explicit Samples(int64_t n)
      : right(n), bottom(n), left_weight(n), right_weight(n), top_weight(n), bottom_weight(n), x0(n), x1(n), y0(n),
        y1(n), flags(n) {}

  std::vector<T> right, bottom;  // offset from the centre of the left (upper) pixels, in pixels of the map
  std::vector<T> left_weight, right_weight, top_weight, bottom_weight;  // zero for pixels outside the map
  std::vector<int32_t> x0, x1, y0, y1;  // the four pixels, moved into the map
  std::vector<int32_t> flags;

  static constexpr int32_t kLeft = 1, kRight = 2, kTop = 4, kBottom = 8;  // which pixels lie on the map

  // `locations`: (x, y) per sample.
  void locate(const Maps<T>& maps, const T* __restrict locations, int64_t n) {
    const T* __restrict widths = maps.width_real.data();
    const T* __restrict heights = maps.height_real.data();
    const int32_t* __restrict width = maps.width.data();
    const int32_t* __restrict height = maps.height.data();
    T* __restrict out_right = right.data();
    T* __restrict out_bottom = bottom.data();
    T* __restrict out_lw = left_weight.data();
    T* __restrict out_rw = right_weight.data();
    T* __restrict out_tw = top_weight.data();
    T* __restrict out_bw = bottom_weight.data();
    int32_t* __restrict out_x0 = x0.data();
    int32_t* __restrict out_x1 = x1.data();
    int32_t* __restrict out_y0 = y0.data();
    int32_t* __restrict out_y1 = y1.data();
    int32_t* __restrict out_flags = flags.data();
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) {
      const T x = locations[2 * i] * widths[i] - T(0.5), y = locations[2 * i + 1] * heights[i] - T(0.5);
      // False for NaN as well; -1 itself counts, because the derivative there is the one from the right.
      // On a map without pixels every location has the coordinate -0.5, which is less than the side of 0.
      const bool inside = (x >= T(-1)) & (x < widths[i]) & (y >= T(-1)) & (y < heights[i]) & (widths[i] > T(0)) &
          (heights[i] > T(0));
      const T safe_x = inside ? x : T(0), safe_y = inside ? y : T(0);
      const T floor_x = std::floor(safe_x), floor_y = std::floor(safe_y);
      const T fx = safe_x - floor_x, fy = safe_y - floor_y;
      const int32_t column = static_cast<int32_t>(floor_x), row = static_cast<int32_t>(floor_y);
      const bool has_left = column >= 0, has_right = column + 1 < width[i];
      const bool has_top = row >= 0, has_bottom = row + 1 < height[i];
      out_right[i] = fx;
      out_bottom[i] = fy;
      out_lw[i] = has_left ? 1 - fx : T(0);
      out_rw[i] = has_right ? fx : T(0);
      out_tw[i] = has_top ? 1 - fy : T(0);
      out_bw[i] = has_bottom ? fy : T(0);
      out_x0[i] = has_left ? column : 0;
      out_x1[i] = has_right ? column + 1 : column;
      out_y0[i] = has_top ? row : 0;
      out_y1[i] = has_bottom ? row + 1 : row;
      const int32_t corners =
          (has_left ? kLeft : 0) | (has_right ? kRight : 0) | (has_top ? kTop : 0) | (has_bottom ? kBottom : 0);
      out_flags[i] = inside ? corners : 0;
    }
  }
};

// kDim: channels of a head where known at compile time, else 0.
template <typename T, int kDim>
void forward_rows(
    const Sizes& sizes, const Maps<T>& maps, const T* value, const T* locations, const T* weights, T* output,
    int64_t begin, int64_t end) {
  const int64_t dim = kDim ? kDim : sizes.dim, n = sizes.samples(), stride = sizes.heads * dim;
  Samples<T> samples(n);
  std::vector<T> row(dim);
  for (int64_t index = begin; index < end; ++index) {
    const T* image = value + index / sizes.queries * sizes.tokens * stride;
    for (int64_t head = 0; head < sizes.heads; ++head) {
      const int64_t group = index * sizes.heads + head;
      const T* weight = weights + group * n;
      samples.locate(maps, locations + 2 * group * n, n);
      const T* map = image + head * dim;
      T fixed[kDim ? kDim : 1];
      T* __restrict sum = kDim ? fixed : row.data();
      for (int64_t d = 0; d < dim; ++d) sum[d] = 0;
      T outside = 0;
      for (int64_t i = 0; i < n; ++i) {
        if (!samples.flags[i]) {
          outside += weight[i] * T(0);  // a weight that is not finite must show
          continue;
        }
        const int64_t top = maps.start[i] + static_cast<int64_t>(samples.y0[i]) * maps.width[i];
        const int64_t bottom = maps.start[i] + static_cast<int64_t>(samples.y1[i]) * maps.width[i];
        const T* __restrict a = map + (top + samples.x0[i]) * stride;
        const T* __restrict b = map + (top + samples.x1[i]) * stride;
        const T* __restrict c = map + (bottom + samples.x0[i]) * stride;
        const T* __restrict e = map + (bottom + samples.x1[i]) * stride;
        const T upper = samples.top_weight[i] * weight[i], lower = samples.bottom_weight[i] * weight[i];
        const T wa = upper * samples.left_weight[i], wb = upper * samples.right_weight[i];
        const T wc = lower * samples.left_weight[i], we = lower * samples.right_weight[i];
#pragma omp simd
        for (int64_t d = 0; d < dim; ++d) sum[d] += wa * a[d] + wb * b[d] + wc * c[d] + we * e[d];
      }
      T* __restrict out = output + group * dim;
      for (int64_t d = 0; d < dim; ++d) out[d] = sum[d] + outside;
    }
  }
}

// Adds `weight * grad` to the gradient of one token and returns the product of the token with `grad`.
template <typename T, int kDim>
inline T add_token(
    const T* __restrict token, T* __restrict grad_token, const T* __restrict grad, T weight, int64_t size) {
  const int64_t dim = kDim ? kDim : size;
  T dot = 0;
#pragma omp simd reduction(+ : dot)
  for (int64_t d = 0; d < dim; ++d) {
    dot += token[d] * grad[d];
    grad_token[d] += weight * grad[d];
  }
  return dot;
}

// Copies rows of `dim` channels that lie `from_stride` apart to rows that lie `to_stride` apart.
template <typename T>
void copy_rows(const T* from, int64_t from_stride, T* to, int64_t to_stride, int64_t rows, int64_t dim) {
  for (int64_t row = 0; row < rows; ++row) std::copy_n(from + row * from_stride, dim, to + row * to_stride);
}

// `begin` to `end` count (batch, head). `grad_value` must hold zeros.
template <typename T, int kDim>
void backward_heads(
    const Sizes& sizes, const Maps<T>& maps, const T* grad_output, const T* value, const T* locations,
    const T* weights, T* grad_value, T* grad_locations, T* grad_weights, int64_t begin, int64_t end) {
  const int64_t dim = kDim ? kDim : sizes.dim, n = sizes.samples(), stride = sizes.heads * dim;
  Samples<T> samples(n);
  // The tokens of one head lie a power of two apart, as a rule, and share a few sets of the cache. Packed, they do not;
  // that pays where the maps are larger than the cache and most tokens are read.
  const bool packs = sizes.heads > 1 && sizes.tokens * stride * static_cast<int64_t>(sizeof(T)) > kPackedBytes &&
      n * sizes.queries > sizes.tokens;
  const int64_t token_stride = packs ? dim : stride;
  std::vector<T> packed(packs ? sizes.tokens * dim : 0), sums(packed.size());
  for (int64_t index = begin; index < end; ++index) {
    const int64_t batch = index / sizes.heads, head = index % sizes.heads;
    const int64_t image = batch * sizes.tokens * stride + head * dim;
    if (packs) copy_rows(value + image, stride, packed.data(), dim, sizes.tokens, dim);
    const T* map = packs ? packed.data() : value + image;
    T* grad_map = packs ? sums.data() : grad_value + image;
    std::fill(sums.begin(), sums.end(), T(0));
    for (int64_t query = 0; query < sizes.queries; ++query) {
      const int64_t group = (batch * sizes.queries + query) * sizes.heads + head;
      const T* grad = grad_output + group * dim;
      const T* weight = weights + group * n;
      T* grad_weight = grad_weights + group * n;
      T* grad_location = grad_locations + 2 * group * n;
      samples.locate(maps, locations + 2 * group * n, n);
      for (int64_t i = 0; i < n; ++i) {
        const int32_t flags = samples.flags[i];
        T a = 0, b = 0, c = 0, e = 0;  // products with the four tokens; zero outside
        if (flags) {
          const int64_t top = maps.start[i] + static_cast<int64_t>(samples.y0[i]) * maps.width[i];
          const int64_t bottom = maps.start[i] + static_cast<int64_t>(samples.y1[i]) * maps.width[i];
          const T upper = samples.top_weight[i] * weight[i], lower = samples.bottom_weight[i] * weight[i];
          const auto add = [&](int64_t token, T scale) {
            return add_token<T, kDim>(map + token * token_stride, grad_map + token * token_stride, grad, scale, dim);
          };
          if (flags & Samples<T>::kTop) {
            if (flags & Samples<T>::kLeft) a = add(top + samples.x0[i], upper * samples.left_weight[i]);
            if (flags & Samples<T>::kRight) b = add(top + samples.x1[i], upper * samples.right_weight[i]);
          }
          if (flags & Samples<T>::kBottom) {
            if (flags & Samples<T>::kLeft) c = add(bottom + samples.x0[i], lower * samples.left_weight[i]);
            if (flags & Samples<T>::kRight) e = add(bottom + samples.x1[i], lower * samples.right_weight[i]);
          }
        }
        const T fx = samples.right[i], fy = samples.bottom[i];
        const T upper = (1 - fx) * a + fx * b, lower = (1 - fx) * c + fx * e;
        grad_weight[i] = (1 - fy) * upper + fy * lower;
        const T scale = flags ? weight[i] : T(0);
        grad_location[2 * i] = scale * maps.width_real[i] * ((1 - fy) * (b - a) + fy * (e - c));
        grad_location[2 * i + 1] = scale * maps.height_real[i] * (lower - upper);
      }
    }
    if (packs) copy_rows(sums.data(), dim, grad_value + image, stride, sizes.tokens, dim);
  }
}

Sizes check(const Tensor& value, IntHeaderOnlyArrayRef shapes, const Tensor& locations, const Tensor& weights) {
  STD_TORCH_CHECK(value.dim() == 4 && locations.dim() == 6 && weights.dim() == 5, "ms_deform_attn: wrong ranks");
  const Sizes sizes{value.size(0),     value.size(1),     value.size(2),    value.size(3),
                    locations.size(1), locations.size(3), locations.size(4)};
  STD_TORCH_CHECK(
      locations.size(0) == sizes.batch && locations.size(2) == sizes.heads && locations.size(5) == 2 &&
          weights.size(0) == sizes.batch && weights.size(1) == sizes.queries && weights.size(2) == sizes.heads &&
          weights.size(3) == sizes.levels && weights.size(4) == sizes.points,
      "ms_deform_attn: value, locations and weights do not fit each other");
  STD_TORCH_CHECK(
      value.is_cpu() && locations.is_cpu() && weights.is_cpu(), "ms_deform_attn: all tensors must be on the CPU");
  STD_TORCH_CHECK(
      locations.scalar_type() == value.scalar_type() && weights.scalar_type() == value.scalar_type(),
      "ms_deform_attn: value, locations and weights must have one dtype");
  STD_TORCH_CHECK(
      static_cast<int64_t>(shapes.size()) == 2 * sizes.levels, "ms_deform_attn: shapes must hold two numbers a level");
  int64_t tokens = 0;
  for (size_t level = 0; level < shapes.size() / 2; ++level) {
    const int64_t h = shapes[2 * level], w = shapes[2 * level + 1];
    STD_TORCH_CHECK(
        h >= 0 && w >= 0 && std::max(h, w) < std::numeric_limits<int32_t>::max(), "ms_deform_attn: bad level shape");
    tokens += h * w;
  }
  STD_TORCH_CHECK(tokens == sizes.tokens, "ms_deform_attn: the levels hold ", tokens, " tokens, value ", sizes.tokens);
  return sizes;
}

// Calls `run` with the dtype and, where it is a common one, the channels of a head as constants.
template <typename F>
void specialise(const Tensor& value, int64_t dim, const F& run) {
  const auto by_dim = [&]<typename T>() {
    switch (dim) {
      case 8: return run.template operator()<T, 8>();
      case 16: return run.template operator()<T, 16>();
      case 24: return run.template operator()<T, 24>();
      case 32: return run.template operator()<T, 32>();
      case 64: return run.template operator()<T, 64>();
      default: return run.template operator()<T, 0>();
    }
  };
  if (value.scalar_type() == ScalarType::Float) return by_dim.template operator()<float>();
  if (value.scalar_type() == ScalarType::Double) return by_dim.template operator()<double>();
  STD_TORCH_CHECK(false, "ms_deform_attn: the CPU kernel computes in float32 and float64 only");
}

int64_t grain(int64_t work) { return std::max<int64_t>(1, kWorkPerThread / std::max<int64_t>(1, work)); }

Tensor forward(const Tensor& value_, IntHeaderOnlyArrayRef shapes, const Tensor& locations_, const Tensor& weights_) {
  const Sizes sizes = check(value_, shapes, locations_, weights_);
  const Tensor value = torch::stable::contiguous(value_), locations = torch::stable::contiguous(locations_);
  const Tensor weights = torch::stable::contiguous(weights_);
  Tensor output = torch::stable::new_empty(value, {sizes.batch, sizes.queries, sizes.heads * sizes.dim});
  specialise(value, sizes.dim, [&]<typename T, int kDim>() {
    const Maps<T> maps(shapes, sizes.points);
    const T* in = value.const_data_ptr<T>();
    const T* at = locations.const_data_ptr<T>();
    const T* by = weights.const_data_ptr<T>();
    T* out = output.mutable_data_ptr<T>();
    torch::stable::parallel_for(
        0, sizes.batch * sizes.queries, grain(sizes.heads * sizes.work_per_head()), [&](int64_t begin, int64_t end) {
          forward_rows<T, kDim>(sizes, maps, in, at, by, out, begin, end);
        });
  });
  return output;
}

std::tuple<Tensor, Tensor, Tensor> backward(
    const Tensor& grad_output_, const Tensor& value_, IntHeaderOnlyArrayRef shapes, const Tensor& locations_,
    const Tensor& weights_, bool /*deterministic: it always is*/) {
  const Sizes sizes = check(value_, shapes, locations_, weights_);
  STD_TORCH_CHECK(
      grad_output_.dim() == 3 && grad_output_.size(0) == sizes.batch && grad_output_.size(1) == sizes.queries &&
          grad_output_.size(2) == sizes.heads * sizes.dim && grad_output_.is_cpu() &&
          grad_output_.scalar_type() == value_.scalar_type(),
      "ms_deform_attn: grad_output does not fit the output");
  const Tensor grad_output = torch::stable::contiguous(grad_output_), value = torch::stable::contiguous(value_);
  const Tensor locations = torch::stable::contiguous(locations_), weights = torch::stable::contiguous(weights_);
  Tensor grad_value = torch::stable::new_zeros(value, value.sizes());
  Tensor grad_locations = torch::stable::new_empty(locations, locations.sizes());
  Tensor grad_weights = torch::stable::new_empty(weights, weights.sizes());
  specialise(value, sizes.dim, [&]<typename T, int kDim>() {
    const Maps<T> maps(shapes, sizes.points);
    const T* grad = grad_output.const_data_ptr<T>();
    const T* in = value.const_data_ptr<T>();
    const T* at = locations.const_data_ptr<T>();
    const T* by = weights.const_data_ptr<T>();
    T* to_value = grad_value.mutable_data_ptr<T>();
    T* to_locations = grad_locations.mutable_data_ptr<T>();
    T* to_weights = grad_weights.mutable_data_ptr<T>();
    torch::stable::parallel_for(
        0, sizes.batch * sizes.heads, grain(2 * sizes.queries * sizes.work_per_head()),
        [&](int64_t begin, int64_t end) {
          backward_heads<T, kDim>(sizes, maps, grad, in, at, by, to_value, to_locations, to_weights, begin, end);
        });
  });
  return {grad_value, grad_locations, grad_weights};
}

}  // namespace

STABLE_TORCH_LIBRARY(soc_ms_deform_attn_cpu, library) {
  library.def("forward(Tensor value, int[] shapes, Tensor locations, Tensor weights) -> Tensor");
  library.def(
      "backward(Tensor grad_output, Tensor value, int[] shapes, Tensor locations, Tensor weights, bool deterministic)"
      " -> (Tensor, Tensor, Tensor)");
}

STABLE_TORCH_LIBRARY_IMPL(soc_ms_deform_attn_cpu, CPU, library) {
  library.impl("forward", TORCH_BOX(&forward));
  library.impl("backward", TORCH_BOX(&backward));
}
