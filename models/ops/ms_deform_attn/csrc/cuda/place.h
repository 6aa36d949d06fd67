// Arithmetic of one sampled place: which cells it reads, with which weights, and its gradients.
//
// Compiles as CUDA device code and as plain C++, so that tests run on a CPU what the kernels run on a GPU.
// Cells of one batch entry are counted over all levels, finest first, row by row.
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
  int32_t start;  // first cell
};

// The first levels travel with the launch; whoever has more keeps the rest in device memory.
constexpr int kNearLevels = 32;

struct Levels {
  Level nearby[kNearLevels];
  const Level* others;
};

SOC_HD Level level_at(const Levels& levels, int32_t index) {
  return index < kNearLevels ? levels.nearby[index] : levels.others[index - kNearLevels];
}

// The four cells round a place, as bits and as places in an array of four.
constexpr int kTopLeft = 0, kTopRight = 1, kBottomLeft = 2, kBottomRight = 3;

template <class Real>
struct Place {
  int32_t cell;      // of the top left corner; it may lie outside the map, then its bit is not set
  uint32_t corners;  // bit i: corner i lies on the map
  Real dx, dy;       // way from the top left corner, in cells
};

// Where (x, y), in [0, 1] from the outer edge of the first to that of the last cell, lies on a level.
// Places further out than one cell have no corners; comparisons with NaN are false, so NaN counts as outside.
template <class Real>
SOC_HD Place<Real> place_of(const Level& level, Real x, Real y) {
  Place<Real> place{level.start, 0u, Real(0), Real(0)};
  const Real column = x * Real(level.width) - Real(0.5);
  const Real row = y * Real(level.height) - Real(0.5);
  if (!(column >= Real(-1) && column < Real(level.width) && row >= Real(-1) && row < Real(level.height))) {
    return place;
  }
#ifdef __CUDA_ARCH__
  const Real left_edge = floor(column), top_edge = floor(row);
#else
  const Real left_edge = std::floor(column), top_edge = std::floor(row);
#endif
  const int32_t left = static_cast<int32_t>(left_edge), top = static_cast<int32_t>(top_edge);
  place.dx = column - left_edge;
  place.dy = row - top_edge;
  place.cell = level.start + top * level.width + left;
  const uint32_t columns = (left >= 0 ? 1u : 0u) | (left + 1 < level.width ? 2u : 0u);
  place.corners = (top >= 0 ? columns : 0u) | (top + 1 < level.height ? columns << 2 : 0u);
  return place;
}

// Bilinear weights of the corners times the attention weight; corners off the map have one too.
template <class Real>
SOC_HD void corner_weights(const Place<Real>& place, Real attention, Real (&weights)[4]) {
  const Real bottom = attention * place.dy, top = attention - bottom;
  weights[kTopRight] = top * place.dx;
  weights[kTopLeft] = top - weights[kTopRight];
  weights[kBottomRight] = bottom * place.dx;
  weights[kBottomLeft] = bottom - weights[kBottomRight];
}

template <class Real>
struct PlaceGradient {
  Real x, y, attention;
};

// `products` are those of the output's gradient with the four cells; what they are for corners off the map is ignored.
template <class Real>
SOC_HD PlaceGradient<Real> place_gradient(
    const Place<Real>& place, const Level& level, Real attention, const Real (&products)[4]) {
  if (place.corners == 0u) {
    return {Real(0), Real(0), Real(0)};
  }
  Real dots[4];
  for (int corner = 0; corner < 4; ++corner) {
    dots[corner] = place.corners >> corner & 1u ? products[corner] : Real(0);
  }
  const Real along_top = dots[kTopRight] - dots[kTopLeft];
  const Real along_bottom = dots[kBottomRight] - dots[kBottomLeft];
  const Real top = dots[kTopLeft] + place.dx * along_top;
  const Real bottom = dots[kBottomLeft] + place.dx * along_bottom;
  return {
      attention * Real(level.width) * (along_top + place.dy * (along_bottom - along_top)),
      attention * Real(level.height) * (bottom - top),
      top + place.dy * (bottom - top),
  };
}

}  // namespace soc_msda
