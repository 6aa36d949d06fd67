// What the CUDA kernels of deformable attention are measured against: the published algorithm in its shape, float32.
//
// Forward: a thread per output channel, which computes every sample for itself. Backward: a block per (batch, query,
// head) with a thread per channel; for each sample the threads leave their parts of the gradients of location and
// weight in shared memory, the first thread adds them up one by one, and each channel of each corner is one atomic
// addition.
// Written for this comparison only. It has never run: no GPU was at hand.
#include <cuda_runtime.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/macros.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <tuple>
#include <vector>

namespace {

using torch::stable::Tensor;

constexpr int kMaxLevels = 16, kThreads = 256;

struct Levels {
  int height[kMaxLevels], width[kMaxLevels], start[kMaxLevels];
};

struct Sizes {
  int batch, tokens, queries, heads, channels, levels, points;
};

__device__ float value_or_zero(const float* map, int row, int column, int height, int width, int stride) {
  const bool inside = row >= 0 && row < height && column >= 0 && column < width;
  return inside ? map[(row * width + column) * stride] : 0.0f;
}

__global__ void baseline_forward(const float* value, Levels levels, const float* locations, const float* weights,
                                 float* output, Sizes s) {
  const int total = s.batch * s.queries * s.heads * s.channels;
  for (int index = blockIdx.x * blockDim.x + threadIdx.x; index < total; index += gridDim.x * blockDim.x) {
    const int channel = index % s.channels;
    const int row = index / s.channels;
    const int head = row % s.heads;
    const int batch = row / s.heads / s.queries;
    const int stride = s.heads * s.channels;
    int sample_index = row * s.levels * s.points;
    float sum = 0.0f;
    for (int level = 0; level < s.levels; ++level) {
      const int height = levels.height[level], width = levels.width[level];
      const float* map = value + (batch * s.tokens + levels.start[level]) * stride + head * s.channels + channel;
      for (int point = 0; point < s.points; ++point, ++sample_index) {
        const float x = locations[2 * sample_index] * width - 0.5f, y = locations[2 * sample_index + 1] * height - 0.5f;
        if (x > -1 && y > -1 && x < width && y < height) {
          const int left = static_cast<int>(floorf(x)), top = static_cast<int>(floorf(y));
          const float dx = x - left, dy = y - top;
          const float sample = (1 - dy) * (1 - dx) * value_or_zero(map, top, left, height, width, stride) +
                               (1 - dy) * dx * value_or_zero(map, top, left + 1, height, width, stride) +
                               dy * (1 - dx) * value_or_zero(map, top + 1, left, height, width, stride) +
                               dy * dx * value_or_zero(map, top + 1, left + 1, height, width, stride);
          sum += weights[sample_index] * sample;
        }
      }
    }
    output[index] = sum;
  }
}

__device__ void scatter(float* map, int row, int column, int height, int width, int stride, float gradient) {
  if (row >= 0 && row < height && column >= 0 && column < width) {
    atomicAdd(map + (row * width + column) * stride, gradient);
  }
}

__global__ void baseline_backward(const float* grad_output, const float* value, Levels levels, const float* locations,
                                  const float* weights, float* grad_value, float* grad_locations, float* grad_weights,
                                  Sizes s) {
  extern __shared__ float parts[];  // x, y and weight of each channel
  const int channel = threadIdx.x, row = blockIdx.x;
  const int head = row % s.heads, batch = row / s.heads / s.queries;
  const int stride = s.heads * s.channels;
  const float gradient = grad_output[row * s.channels + channel];
  int sample_index = row * s.levels * s.points;
  for (int level = 0; level < s.levels; ++level) {
    const int height = levels.height[level], width = levels.width[level];
    const int offset = (batch * s.tokens + levels.start[level]) * stride + head * s.channels + channel;
    for (int point = 0; point < s.points; ++point, ++sample_index) {
      const float x = locations[2 * sample_index] * width - 0.5f, y = locations[2 * sample_index + 1] * height - 0.5f;
      const float weight = weights[sample_index];
      float along_x = 0.0f, along_y = 0.0f, sample = 0.0f;
      if (x > -1 && y > -1 && x < width && y < height) {
        const int left = static_cast<int>(floorf(x)), top = static_cast<int>(floorf(y));
        const float dx = x - left, dy = y - top;
        const float v00 = value_or_zero(value + offset, top, left, height, width, stride);
        const float v01 = value_or_zero(value + offset, top, left + 1, height, width, stride);
        const float v10 = value_or_zero(value + offset, top + 1, left, height, width, stride);
        const float v11 = value_or_zero(value + offset, top + 1, left + 1, height, width, stride);
        const float scaled = weight * gradient;
        scatter(grad_value + offset, top, left, height, width, stride, (1 - dy) * (1 - dx) * scaled);
        scatter(grad_value + offset, top, left + 1, height, width, stride, (1 - dy) * dx * scaled);
        scatter(grad_value + offset, top + 1, left, height, width, stride, dy * (1 - dx) * scaled);
        scatter(grad_value + offset, top + 1, left + 1, height, width, stride, dy * dx * scaled);
        along_x = scaled * width * ((1 - dy) * (v01 - v00) + dy * (v11 - v10));
        along_y = scaled * height * ((1 - dx) * (v10 - v00) + dx * (v11 - v01));
        sample = gradient * ((1 - dy) * ((1 - dx) * v00 + dx * v01) + dy * ((1 - dx) * v10 + dx * v11));
      }
      parts[3 * channel] = along_x;
      parts[3 * channel + 1] = along_y;
      parts[3 * channel + 2] = sample;
      __syncthreads();
      if (channel == 0) {
        float sum_x = 0.0f, sum_y = 0.0f, sum_weight = 0.0f;
        for (int i = 0; i < s.channels; ++i) {
          sum_x += parts[3 * i];
          sum_y += parts[3 * i + 1];
          sum_weight += parts[3 * i + 2];
        }
        grad_locations[2 * sample_index] = sum_x;
        grad_locations[2 * sample_index + 1] = sum_y;
        grad_weights[sample_index] = sum_weight;
      }
      __syncthreads();
    }
  }
}

Sizes sizes_of(const Tensor& value, const Tensor& locations) {
  STD_TORCH_CHECK(value.is_cuda() && value.scalar_type() == torch::headeronly::ScalarType::Float &&
                      value.is_contiguous() && locations.is_contiguous(),
                  "the baseline takes contiguous float32 tensors on a GPU");
  STD_TORCH_CHECK(locations.size(3) <= kMaxLevels && value.numel() < 0x7fffffff && locations.numel() < 0x7fffffff,
                  "the baseline takes 16 levels and 32-bit sizes");
  return {static_cast<int>(value.size(0)),     static_cast<int>(value.size(1)),     static_cast<int>(locations.size(1)),
          static_cast<int>(value.size(2)),     static_cast<int>(value.size(3)),     static_cast<int>(locations.size(3)),
          static_cast<int>(locations.size(4))};
}

Levels levels_of(const std::vector<int64_t>& shapes) {
  Levels levels{};
  int start = 0;
  for (size_t i = 0; i < shapes.size() / 2; ++i) {
    levels.height[i] = static_cast<int>(shapes[2 * i]);
    levels.width[i] = static_cast<int>(shapes[2 * i + 1]);
    levels.start[i] = start;
    start += levels.height[i] * levels.width[i];
  }
  return levels;
}

cudaStream_t current_stream(const Tensor& tensor) {
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(tensor.get_device(), &stream));
  return static_cast<cudaStream_t>(stream);
}

const float* in(const Tensor& tensor) { return static_cast<const float*>(tensor.const_data_ptr()); }
float* out(Tensor& tensor) { return static_cast<float*>(tensor.mutable_data_ptr()); }

Tensor forward(const Tensor& value, const std::vector<int64_t>& shapes, const Tensor& locations,
               const Tensor& weights) {
  const Sizes s = sizes_of(value, locations);
  const torch::stable::accelerator::DeviceGuard guard(value.get_device());
  Tensor output = torch::stable::new_empty(value, {s.batch, s.queries, int64_t(s.heads) * s.channels});
  const int total = s.batch * s.queries * s.heads * s.channels;
  baseline_forward<<<(total + kThreads - 1) / kThreads, kThreads, 0, current_stream(value)>>>(
      in(value), levels_of(shapes), in(locations), in(weights), out(output), s);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  return output;
}

std::tuple<Tensor, Tensor, Tensor> backward(const Tensor& grad_output, const Tensor& value,
                                            const std::vector<int64_t>& shapes, const Tensor& locations,
                                            const Tensor& weights) {
  const Sizes s = sizes_of(value, locations);
  const torch::stable::accelerator::DeviceGuard guard(value.get_device());
  Tensor grad_value = torch::stable::new_zeros(value, {s.batch, s.tokens, s.heads, s.channels});
  Tensor grad_locations = torch::stable::empty_like(locations), grad_weights = torch::stable::empty_like(weights);
  const size_t shared = 3 * sizeof(float) * static_cast<size_t>(s.channels);
  baseline_backward<<<s.batch * s.queries * s.heads, s.channels, shared, current_stream(value)>>>(
      in(grad_output), in(value), levels_of(shapes), in(locations), in(weights), out(grad_value), out(grad_locations),
      out(grad_weights), s);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  return {grad_value, grad_locations, grad_weights};
}

}  // namespace

STABLE_TORCH_LIBRARY(soc_ms_deform_attn_baseline, m) {
  m.def("forward(Tensor value, int[] shapes, Tensor locations, Tensor weights) -> Tensor");
  m.def(
      "backward(Tensor grad_output, Tensor value, int[] shapes, Tensor locations, Tensor weights) "
      "-> (Tensor, Tensor, Tensor)");
}

STABLE_TORCH_LIBRARY_IMPL(soc_ms_deform_attn_baseline, CUDA, m) {
  m.impl("forward", TORCH_BOX(&forward));
  m.impl("backward", TORCH_BOX(&backward));
}
