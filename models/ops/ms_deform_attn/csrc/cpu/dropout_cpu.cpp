// Dropout on CPUs, with or without a ReLU before it, in one pass and without a mask, on PyTorch's stable C ABI.
//
// Whether a value is kept follows from its index and a seed, so the backward pass need not be told. The index goes
// through a hash of 32 bits (the mixer "lowbias32" of C. Wellons' hash prospector, which is in the public domain), of
// which the upper 16 decide: the same values for any number of threads.

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Exception.h>

#include <algorithm>
#include <cstdint>

namespace {

using torch::headeronly::BFloat16;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;

constexpr int64_t kGrain = 1 << 15;

// bfloat16 is the upper half of a float; rounded to the nearest, to even.
inline float widen(uint16_t bits) { return __builtin_bit_cast(float, static_cast<uint32_t>(bits) << 16); }

inline uint16_t narrow(float x) {
  const uint32_t bits = __builtin_bit_cast(uint32_t, x);
  const uint32_t rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
  return static_cast<uint16_t>(x == x ? rounded : bits >> 16 | 0x40);
}

inline float to_float(float x) { return x; }
inline float to_float(uint16_t x) { return widen(x); }
inline void put(float* to, float x) { *to = x; }
inline void put(uint16_t* to, float x) { *to = narrow(x); }

inline uint32_t mixed(uint32_t x) {
  x = (x ^ x >> 16) * 0x7feb352du;
  x = (x ^ x >> 15) * 0x846ca68bu;
  return x ^ x >> 16;
}

// `zeros` of 65536 values become 0, others are multiplied with `scale`. `to` may be `from`.
template <bool kRelu, typename T>
void drop(const T* from, T* to, int64_t begin, int64_t end, uint64_t seed, uint32_t zeros, float scale) {
  for (int64_t i = begin; i < end; ++i) {
    // Indices above 2^32 go on with another key.
    const uint32_t upper = static_cast<uint32_t>(i >> 32) + static_cast<uint32_t>(seed >> 32);
    const uint32_t key = static_cast<uint32_t>(seed) ^ mixed(upper);
    const uint32_t random = mixed(static_cast<uint32_t>(i) + key) >> 16;
    const float x = to_float(from[i]);
    const float kept = kRelu && x < 0 ? 0.0f : x * scale;
    put(to + i, random < zeros ? 0.0f : kept);
  }
}

// The gradient of ReLU and dropout, which let pass what came out above zero.
template <typename T>
void pass(const T* grad, const T* out, T* to, int64_t begin, int64_t end, float scale) {
  for (int64_t i = begin; i < end; ++i) put(to + i, to_float(out[i]) > 0 ? to_float(grad[i]) * scale : 0.0f);
}

template <typename F>
void by_dtype(const Tensor& x, const F& run) {
  if (x.scalar_type() == ScalarType::Float) return run.template operator()<float, float>();
  if (x.scalar_type() == ScalarType::BFloat16) return run.template operator()<BFloat16, uint16_t>();
  STD_TORCH_CHECK(false, "dropout: float32 and bfloat16 only");
}

void check(const Tensor& x) {
  STD_TORCH_CHECK(x.is_cpu() && x.is_contiguous(), "dropout: tensors lie on the CPU, in order");
}

template <bool kRelu>
void drop_all(const Tensor& from, Tensor& to, int64_t seed, int64_t zeros, double scale) {
  by_dtype(from, [&]<typename Stored, typename T>() {
    const T* in = reinterpret_cast<const T*>(from.const_data_ptr<Stored>());
    T* out = reinterpret_cast<T*>(to.mutable_data_ptr<Stored>());
    torch::stable::parallel_for(0, from.numel(), kGrain, [&](int64_t begin, int64_t end) {
      drop<kRelu>(
          in, out, begin, end, static_cast<uint64_t>(seed), static_cast<uint32_t>(zeros), static_cast<float>(scale));
    });
  });
}

Tensor dropout(const Tensor& x, int64_t seed, int64_t zeros, double scale) {
  check(x);
  Tensor out = torch::stable::new_empty(x, x.sizes());
  drop_all<false>(x, out, seed, zeros, scale);
  return out;
}

void relu_dropout(Tensor x, int64_t seed, int64_t zeros, double scale) {
  check(x);
  drop_all<true>(x, x, seed, zeros, scale);
}

Tensor relu_dropout_backward(const Tensor& grad, const Tensor& out, double scale) {
  check(grad);
  check(out);
  STD_TORCH_CHECK(
      grad.numel() == out.numel() && grad.scalar_type() == out.scalar_type(), "dropout: grad does not fit the output");
  Tensor result = torch::stable::new_empty(grad, grad.sizes());
  by_dtype(grad, [&]<typename Stored, typename T>() {
    const T* in = reinterpret_cast<const T*>(grad.const_data_ptr<Stored>());
    const T* shown = reinterpret_cast<const T*>(out.const_data_ptr<Stored>());
    T* to = reinterpret_cast<T*>(result.mutable_data_ptr<Stored>());
    torch::stable::parallel_for(0, grad.numel(), kGrain, [&](int64_t begin, int64_t end) {
      pass(in, shown, to, begin, end, static_cast<float>(scale));
    });
  });
  return result;
}

}  // namespace

STABLE_TORCH_LIBRARY(soc_dropout_cpu, library) {
  library.def("dropout(Tensor x, int seed, int zeros, float scale) -> Tensor");
  library.def("relu_dropout_(Tensor(a!) x, int seed, int zeros, float scale) -> ()");
  library.def("relu_dropout_backward(Tensor grad, Tensor out, float scale) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(soc_dropout_cpu, CPU, library) {
  library.impl("dropout", TORCH_BOX(&dropout));
  library.impl("relu_dropout_", TORCH_BOX(&relu_dropout));
  library.impl("relu_dropout_backward", TORCH_BOX(&relu_dropout_backward));
}
