// Arithmetic of one sample: which tokens it reads, with which weights, and its gradients.
//
// Compiles as CUDA device code and as plain C++, so that tests run on a CPU what the kernels run on a GPU.
// A token is a pixel of a feature map; tokens of one batch entry are counted over all levels, finest first, row by row.
#pragma once

#include <cmath>
#include <cstdint>

#ifdef __CUDACC__
#define SOC_HD __host__ __device__ __forceinline__
#else
#define SOC_HD inline
#endif

namespace soc_msda {

struct Level {
  int32_t height;
  int32_t width;
  int32_t start;  // first token
};

// So many levels are arguments of a kernel; further ones lie in device memory.
constexpr int kNearLevels = 32;

struct Levels {
  Level nearby[kNearLevels];
  const Level* others;
};

SOC_HD Level level_at(const Levels& levels, int32_t index) {
  return index < kNearLevels ? levels.nearby[index] : levels.others[index - kNearLevels];
}

// The four pixels around a sample, as bits of a set and as indices of an array.
constexpr int kTopLeft = 0, kTopRight = 1, kBottomLeft = 2, kBottomRight = 3;

template <class Real>
struct Sample {
  int32_t token;     // of the top left corner; it may lie outside the map, then its bit is not set
  uint32_t corners;  // bit i: corner i lies on the map
  Real dx, dy;       // offset from the top left corner, in pixels of the map
};

// The sample of a level at (x, y), in [0, 1] from the outer edge of the first to that of the last pixel.
// Samples more than a pixel outside have no corners; comparisons with NaN are false, so NaN counts as outside.
template <class Real>
SOC_HD Sample<Real> sample_at(const Level& level, Real x, Real y) {
  Sample<Real> sample{level.start, 0u, Real(0), Real(0)};
  const Real column = x * Real(level.width) - Real(0.5);
  const Real row = y * Real(level.height) - Real(0.5);
  if (!(column >= Real(-1) && column < Real(level.width) && row >= Real(-1) && row < Real(level.height))) {
    return sample;
  }
#ifdef __CUDA_ARCH__
  const Real left_edge = floor(column), top_edge = floor(row);
#else
  const Real left_edge = std::floor(column), top_edge = std::floor(row);
#endif
  const int32_t left = static_cast<int32_t>(left_edge), top = static_cast<int32_t>(top_edge);
  sample.dx = column - left_edge;
  sample.dy = row - top_edge;
  sample.token = level.start + top * level.width + left;
  const uint32_t columns = (left >= 0 ? 1u : 0u) | (left + 1 < level.width ? 2u : 0u);
  sample.corners = (top >= 0 ? columns : 0u) | (top + 1 < level.height ? columns << 2 : 0u);
  return sample;
}

// Bilinear weights of the corners times the attention weight; corners off the map have one too.
template <class Real>
SOC_HD void corner_weights(const Sample<Real>& sample, Real attention, Real (&weights)[4]) {
  const Real bottom = attention * sample.dy, top = attention - bottom;
  weights[kTopRight] = top * sample.dx;
  weights[kTopLeft] = top - weights[kTopRight];
  weights[kBottomRight] = bottom * sample.dx;
  weights[kBottomLeft] = bottom - weights[kBottomRight];
}

template <class Real>
struct SampleGradient {
  Real x, y, attention;
};

// `products` are those of the output's gradient with the four tokens; what they are for corners off the map is ignored.
template <class Real>
SOC_HD SampleGradient<Real> sample_gradient(
    const Sample<Real>& sample, const Level& level, Real attention, const Real (&products)[4]) {
  if (sample.corners == 0u) {
    return {Real(0), Real(0), Real(0)};
  }
  Real dots[4];
  for (int corner = 0; corner < 4; ++corner) {
    dots[corner] = sample.corners >> corner & 1u ? products[corner] : Real(0);
  }
  const Real along_top = dots[kTopRight] - dots[kTopLeft];
  const Real along_bottom = dots[kBottomRight] - dots[kBottomLeft];
  const Real top = dots[kTopLeft] + sample.dx * along_top;
  const Real bottom = dots[kBottomLeft] + sample.dx * along_bottom;
  return {
      attention * Real(level.width) * (along_top + sample.dy * (along_bottom - along_top)),
      attention * Real(level.height) * (bottom - top),
      top + sample.dy * (bottom - top),
  };
}

}  // namespace soc_msda
