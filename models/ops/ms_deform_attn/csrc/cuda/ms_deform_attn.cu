// The operators soc_ms_deform_attn_cuda::forward and ::backward, on PyTorch's stable C ABI (target version 2.10).
//
// value [batch, token, head, channel]; shapes [height, width, height, width, ...]; locations [batch, query, head, level,
// point, 2]; weights [batch, query, head, level, point]; output [batch, query, head * channel].
#include <cuda_runtime.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/macros.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <tuple>
#include <vector>

#include "kernels.cuh"

namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using namespace soc_msda;

bool is_aligned(const void* address, size_t bytes) {
  return reinterpret_cast<uintptr_t>(address) % bytes == 0;
}

ScalarType accumulator_of(ScalarType dtype) {
  return dtype == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

// Weights as the kernels take them: those of half precision may be in float32.
ScalarType dtype_of_weights(const Tensor& value, const Tensor& weights) {
  return weights.scalar_type() == value.scalar_type() ? value.scalar_type() : accumulator_of(value.scalar_type());
}

// Contiguous, of that dtype, and aligned to pairs of elements.
Tensor prepared(const Tensor& tensor, ScalarType dtype) {
  Tensor result = tensor.scalar_type() == dtype ? tensor : torch::stable::to(tensor, dtype);
  result = torch::stable::contiguous(result);
  return is_aligned(result.const_data_ptr(), 2 * result.element_size()) ? result : torch::stable::clone(result);
}

cudaStream_t current_stream(const Tensor& tensor) {
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(tensor.get_device(), &stream));
  return static_cast<cudaStream_t>(stream);
}

struct Problem {
  Sizes sizes;
  std::vector<Level> levels;
};

Problem problem_of(
    const Tensor& value, const std::vector<int64_t>& shapes, const Tensor& locations, const Tensor& weights) {
  STD_TORCH_CHECK(value.is_cuda() && locations.is_cuda() && weights.is_cuda(),
                  "value, locations and weights must be CUDA tensors");
  STD_TORCH_CHECK(
      value.get_device() == locations.get_device() && value.get_device() == weights.get_device(),
      "value, locations and weights must be on one device, but are on ", int(value.get_device()), ", ",
      int(locations.get_device()), " and ", int(weights.get_device()));
  STD_TORCH_CHECK(value.dim() == 4 && locations.dim() == 6 && weights.dim() == 5,
                  "value, locations and weights must have 4, 6 and 5 axes, but have ", value.dim(), ", ",
                  locations.dim(), " and ", weights.dim());
  STD_TORCH_CHECK(shapes.size() % 2 == 0, "shapes must be pairs of height and width, but has ", shapes.size(),
                  " numbers");
  const int64_t num_levels = static_cast<int64_t>(shapes.size() / 2);
  for (int64_t axis = 0; axis < 5; ++axis) {
    STD_TORCH_CHECK(locations.size(axis) == weights.size(axis), "locations and weights differ along axis ", axis, ": ",
                    locations.size(axis), " and ", weights.size(axis));
  }
  STD_TORCH_CHECK(locations.size(0) == value.size(0), "locations have batch ", locations.size(0), ", value ",
                  value.size(0));
  STD_TORCH_CHECK(locations.size(2) == value.size(2), "locations have ", locations.size(2), " heads, value ",
                  value.size(2));
  STD_TORCH_CHECK(locations.size(3) == num_levels, "locations have ", locations.size(3), " levels, shapes ",
                  num_levels);
  STD_TORCH_CHECK(locations.size(5) == 2, "locations must be pairs, but their last axis has ", locations.size(5));

  constexpr int64_t limit = 0x7fffffff;
  STD_TORCH_CHECK(value.size(2) <= limit && value.size(3) <= limit && locations.size(4) <= limit &&
                      num_levels * locations.size(4) <= limit - kSamplesAtOnce,
                  "heads, channels, levels or points do not fit into 31 bits");
  Problem problem;
  problem.sizes = {value.size(0),
                   value.size(1),
                   locations.size(1),
                   static_cast<int32_t>(value.size(2)),
                   static_cast<int32_t>(value.size(3)),
                   static_cast<int32_t>(num_levels),
                   static_cast<int32_t>(locations.size(4))};
  int64_t tokens = 0;
  for (int64_t i = 0; i < num_levels; ++i) {
    const int64_t height = shapes[2 * i], width = shapes[2 * i + 1];
    STD_TORCH_CHECK(height >= 0 && width >= 0 && height <= limit && width <= limit, "level ", i, " has shape ", height,
                    " x ", width);
    problem.levels.push_back(
        {static_cast<int32_t>(height), static_cast<int32_t>(width), static_cast<int32_t>(tokens <= limit ? tokens : 0)});
    tokens += height * width;
  }
  STD_TORCH_CHECK(tokens == value.size(1), "the levels have ", tokens, " tokens, value has ", value.size(1));
  const std::string reason =
      too_large(problem.sizes, problem.levels);
  STD_TORCH_CHECK(reason.empty(), "value is too large: ", reason);
  return problem;
}

// The levels as the kernels take them. `storage` keeps the device memory of those that are no arguments of a kernel.
Levels levels_of(const std::vector<Level>& levels, const Tensor& like, cudaStream_t stream, Tensor& storage) {
  Levels result{};
  for (size_t i = 0; i < levels.size() && i < kNearLevels; ++i) {
    result.nearby[i] = levels[i];
  }
  if (levels.size() > kNearLevels) {
    const size_t bytes = (levels.size() - kNearLevels) * sizeof(Level);
    storage = torch::stable::new_empty(like, {static_cast<int64_t>(bytes)}, ScalarType::Byte);
    // From pageable memory: the driver has taken its copy when this returns.
    STD_CUDA_CHECK(cudaMemcpyAsync(
        storage.mutable_data_ptr(), levels.data() + kNearLevels, bytes, cudaMemcpyHostToDevice, stream));
    result.others = static_cast<const Level*>(storage.const_data_ptr());
  }
  return result;
}

template <class Call>
void for_dtype(ScalarType dtype, const Call& call) {
  switch (dtype) {
    case ScalarType::Double: return call(double{});
    case ScalarType::Float: return call(float{});
    case ScalarType::Half: return call(c10::Half{});
    case ScalarType::BFloat16: return call(c10::BFloat16{});
    default: STD_TORCH_CHECK(false, "value must be float64, float32, float16 or bfloat16");
  }
}

// Whether the maps can be read in pieces of so many channels.
template <class T, int kVector>
bool fits_packs(const Sizes& sizes, const void* first, const void* second) {
  constexpr size_t bytes = kVector * sizeof(T);
  return sizes.channels % kVector == 0 && is_aligned(first, bytes) && is_aligned(second, bytes);
}

template <class T, int kVector>
void launch_forward(const Problem& problem, const Tensor& value, const Levels& levels, const Tensor& locations,
                    const Tensor& weights, Tensor& output, cudaStream_t stream) {
  const Plan plan = plan_rows(problem.sizes, kVector, sizeof(T), sizeof(Real<T>));
  forward_kernel<T, kVector><<<static_cast<unsigned>(plan.grid), kThreads, 0, stream>>>(
      static_cast<const T*>(value.const_data_ptr()), levels, static_cast<const Real<T>*>(locations.const_data_ptr()),
      Weights<const T>{weights.const_data_ptr(), weights.scalar_type() != value.scalar_type()}, static_cast<T*>(output.mutable_data_ptr()), plan);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

Tensor forward(const Tensor& value, const std::vector<int64_t>& shapes, const Tensor& locations,
               const Tensor& weights) {
  const Problem problem = problem_of(value, shapes, locations, weights);
  const Sizes& sizes = problem.sizes;
  const torch::stable::accelerator::DeviceGuard guard(value.get_device());
  const std::vector<int64_t> shape{sizes.batch, sizes.queries, int64_t(sizes.heads) * sizes.channels};
  if (is_empty(sizes)) {
    return torch::stable::new_zeros(value, shape);
  }
  const cudaStream_t stream = current_stream(value);
  const ScalarType dtype = value.scalar_type();
  const Tensor tokens = torch::stable::contiguous(value);
  const Tensor points = prepared(locations, accumulator_of(dtype));
  const Tensor attention = prepared(weights, dtype_of_weights(value, weights));
  Tensor output = torch::stable::new_empty(value, shape);
  Tensor storage;
  const Levels levels = levels_of(problem.levels, value, stream, storage);
  for_dtype(dtype, [&](auto element) {
    using T = decltype(element);
    if (fits_packs<T, kForwardVector<T>>(sizes, tokens.const_data_ptr(), output.const_data_ptr())) {
      launch_forward<T, kForwardVector<T>>(problem, tokens, levels, points, attention, output, stream);
    } else {
      launch_forward<T, 1>(problem, tokens, levels, points, attention, output, stream);
    }
  });
  return output;
}

template <class T, int kVector>
void launch_backward(const Problem& problem, const Tensor& grad_output, const Tensor& value, const Levels& levels,
                     const Tensor& locations, const Tensor& weights, Tensor* grad_value, Tensor& grad_locations,
                     Tensor& grad_weights, cudaStream_t stream) {
  const Plan plan = plan_rows(problem.sizes, kVector, sizeof(T), sizeof(Real<T>));
  backward_kernel<T, kVector><<<static_cast<unsigned>(plan.grid), kThreads, 0, stream>>>(
      static_cast<const T*>(grad_output.const_data_ptr()), static_cast<const T*>(value.const_data_ptr()), levels,
      static_cast<const Real<T>*>(locations.const_data_ptr()), Weights<const T>{weights.const_data_ptr(), weights.scalar_type() != value.scalar_type()},
      grad_value == nullptr ? nullptr : static_cast<Real<T>*>(grad_value->mutable_data_ptr()),
      static_cast<Real<T>*>(grad_locations.mutable_data_ptr()), Weights<T>{grad_weights.mutable_data_ptr(), grad_weights.scalar_type() != value.scalar_type()},
      plan);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

template <class T>
void launch_gather(const Problem& problem, const Tensor& grad_output, const Levels& levels, const Tensor& locations,
                   const Tensor& weights, Tensor& grad_value, cudaStream_t stream) {
  const GatherPlan plan = plan_gather(problem.sizes);
  gather_value_gradient_kernel<T><<<static_cast<unsigned>(plan.grid), kThreads, 0, stream>>>(
      static_cast<const T*>(grad_output.const_data_ptr()), levels,
      static_cast<const Real<T>*>(locations.const_data_ptr()),
      Weights<const T>{weights.const_data_ptr(), weights.scalar_type() != grad_output.scalar_type()}, static_cast<T*>(grad_value.mutable_data_ptr()), plan);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

Tensor as_dtype(const Tensor& tensor, ScalarType dtype) {
  return tensor.scalar_type() == dtype ? tensor : torch::stable::to(tensor, dtype);
}

std::tuple<Tensor, Tensor, Tensor> backward(const Tensor& grad_output, const Tensor& value,
                                            const std::vector<int64_t>& shapes, const Tensor& locations,
                                            const Tensor& weights, bool deterministic) {
  const Problem problem = problem_of(value, shapes, locations, weights);
  const Sizes& sizes = problem.sizes;
  STD_TORCH_CHECK(grad_output.is_cuda() && grad_output.get_device() == value.get_device(),
                  "grad_output and value must be on one CUDA device");
  STD_TORCH_CHECK(grad_output.dim() == 3 && grad_output.size(0) == sizes.batch &&
                      grad_output.size(1) == sizes.queries &&
                      grad_output.size(2) == int64_t(sizes.heads) * sizes.channels,
                  "grad_output must have the shape of the output");
  const torch::stable::accelerator::DeviceGuard guard(value.get_device());
  const std::vector<int64_t> value_shape{sizes.batch, sizes.tokens, sizes.heads, sizes.channels};
  const std::vector<int64_t> weights_shape{sizes.batch, sizes.queries, sizes.heads, sizes.levels, sizes.points};
  std::vector<int64_t> locations_shape = weights_shape;
  locations_shape.push_back(2);
  if (is_empty(sizes)) {
    return {torch::stable::new_zeros(value, value_shape), torch::stable::new_zeros(locations, locations_shape),
            torch::stable::new_zeros(weights, weights_shape)};
  }
  const cudaStream_t stream = current_stream(value);
  const ScalarType dtype = value.scalar_type(), sums = accumulator_of(dtype);
  const Tensor gradient = prepared(grad_output, dtype), tokens = torch::stable::contiguous(value);
  const Tensor points = prepared(locations, sums), attention = prepared(weights, dtype_of_weights(value, weights));
  Tensor grad_locations = torch::stable::new_empty(value, locations_shape, sums);
  Tensor grad_weights = torch::stable::new_empty(value, weights_shape, attention.scalar_type());
  Tensor grad_value = deterministic ? torch::stable::new_empty(value, value_shape)
                                    : torch::stable::new_zeros(value, value_shape, sums);
  Tensor storage;
  const Levels levels = levels_of(problem.levels, value, stream, storage);
  for_dtype(dtype, [&](auto element) {
    using T = decltype(element);
    Tensor* scattered = deterministic ? nullptr : &grad_value;
    if (fits_packs<T, kBackwardVector<T>>(sizes, tokens.const_data_ptr(), gradient.const_data_ptr())) {
      launch_backward<T, kBackwardVector<T>>(problem, gradient, tokens, levels, points, attention, scattered,
                                             grad_locations, grad_weights, stream);
    } else {
      launch_backward<T, 1>(problem, gradient, tokens, levels, points, attention, scattered, grad_locations,
                            grad_weights, stream);
    }
    if (deterministic && sizes.tokens > 0) {
      launch_gather<T>(problem, gradient, levels, points, attention, grad_value, stream);
    }
  });
  return {as_dtype(grad_value, dtype), as_dtype(grad_locations, locations.scalar_type()),
          as_dtype(grad_weights, weights.scalar_type())};
}

}  // namespace

STABLE_TORCH_LIBRARY(soc_ms_deform_attn_cuda, m) {
  m.def("forward(Tensor value, int[] shapes, Tensor locations, Tensor weights) -> Tensor");
  m.def(
      "backward(Tensor grad_output, Tensor value, int[] shapes, Tensor locations, Tensor weights, bool deterministic) "
      "-> (Tensor, Tensor, Tensor)");
}

STABLE_TORCH_LIBRARY_IMPL(soc_ms_deform_attn_cuda, CUDA, m) {
  m.impl("forward", TORCH_BOX(&forward));
  m.impl("backward", TORCH_BOX(&backward));
}
