// Kernels of multi-scale deformable attention. Written without a GPU at hand: checked on a CPU by an emulation of the
// grid (tests/cuda_emulation), compiled for sm_80 to sm_100, never timed.
//
// Forward and backward: a lane holds kVector neighbouring channels (16 bytes where the channels allow), four or more
// lanes make a row. Four places are worked out at once, one per lane, and handed round by shuffles. In the backward
// the products with the output's gradient are summed over the lanes so that each lane ends with the sums of the place
// that it worked out: no atomics, no shared memory, no barriers. Only the gradient of `value` needs atomics, in float32
// or float64, four at a time where the GPU can (sm_90); `gather_value_gradient` does without, in a fixed order.
#pragma once

#include "plan.h"

#ifdef __CUDACC__
#define SOC_DEVICE __device__ __forceinline__
#else
#define SOC_DEVICE inline
#endif

namespace soc_msda {

constexpr unsigned kWholeWarp = 0xffffffffu;

// Sums are kept in float32, those of float64 in float64.
template <class T>
struct Accumulator {
  using type = float;
};
template <>
struct Accumulator<double> {
  using type = double;
};
template <class T>
using Real = typename Accumulator<T>::type;

template <class T, int kSize>
struct alignas(sizeof(T) * kSize) Pack {
  T at[kSize];
};

template <class T, int kSize>
SOC_DEVICE Pack<T, kSize> load_pack(const T* from) {
  return *reinterpret_cast<const Pack<T, kSize>*>(from);
}

// A place as the lane that worked it out hands it to its neighbours.
template <class R>
struct Shared {
  int32_t cell;
  uint32_t width_and_corners;
  R weights[4];
};

template <class R>
SOC_DEVICE Shared<R> shared_of(const Place<R>& place, const Level& level, R attention) {
  Shared<R> shared;
  shared.cell = place.cell;
  shared.width_and_corners = static_cast<uint32_t>(level.width) << 4 | place.corners;
  corner_weights(place, attention, shared.weights);
  return shared;
}

template <class R>
SOC_DEVICE Shared<R> hand_round(const Shared<R>& own, int from) {
  Shared<R> shared;
  shared.cell = __shfl_sync(kWholeWarp, own.cell, from, kPlacesAtOnce);
  shared.width_and_corners = __shfl_sync(kWholeWarp, own.width_and_corners, from, kPlacesAtOnce);
#pragma unroll
  for (int corner = 0; corner < 4; ++corner) {
    shared.weights[corner] = __shfl_sync(kWholeWarp, own.weights[corner], from, kPlacesAtOnce);
  }
  return shared;
}

// Elements from the start of the map to a corner; `stride` is from cell to cell.
template <class R>
SOC_DEVICE int64_t corner_offset(const Shared<R>& shared, int corner, int32_t stride) {
  const int32_t width = static_cast<int32_t>(shared.width_and_corners >> 4);
  const int32_t cell = shared.cell + (corner & 1) + (corner & 2 ? width : 0);
  return static_cast<int64_t>(cell) * stride;
}

// The place that this lane works out: its level and point advance by kPlacesAtOnce without divisions.
struct Cursor {
  int32_t level, point;

  SOC_DEVICE Cursor(int32_t place, int32_t points) : level(0), point(place) { carry(points); }
  SOC_DEVICE void advance(int32_t points) {
    point += kPlacesAtOnce;
    carry(points);
  }
  SOC_DEVICE void carry(int32_t points) {
    while (point >= points) {
      point -= points;
      ++level;
    }
  }
};

template <class T>
struct OwnPlace {
  Place<Real<T>> place;
  Level level;
  Real<T> attention;
};

// What this lane works out for the row; nothing where the row has no such place.
template <class T>
SOC_DEVICE OwnPlace<T> own_place(
    const Levels& levels, const Cursor& cursor, int32_t num_levels, const Real<T>* location, const T* weight) {
  if (cursor.level >= num_levels) {
    return {{0, 0u, 0, 0}, {0, 0, 0}, 0};
  }
  const Level level = level_at(levels, cursor.level);
  const Pack<Real<T>, 2> xy = load_pack<Real<T>, 2>(location);
  return {place_of(level, xy.at[0], xy.at[1]), level, static_cast<Real<T>>(*weight)};
}

template <class T, int kVector>
__global__ void __launch_bounds__(kThreads) forward_kernel(
    const T* __restrict__ value,
    const __grid_constant__ Levels levels,
    const Real<T>* __restrict__ locations,
    const T* __restrict__ weights,
    T* __restrict__ output,
    const __grid_constant__ Plan plan) {
  const Sizes& sizes = plan.sizes;
  const int32_t places = sizes.levels * sizes.points, stride = sizes.heads * sizes.channels;
  const int32_t lane = threadIdx.x & ((1 << plan.lane_bits) - 1);
  for (int64_t tile = blockIdx.x; tile < plan.tiles; tile += gridDim.x) {
    const Row row = row_of(plan, tile, threadIdx.x >> plan.lane_bits);
    const int64_t number = row_number(sizes, row);
    const T* map = value + map_offset(sizes, row.batch, row.head);
    // Lanes without channels or without a row come along: shuffles need whole warps.
    for (int32_t first = 0; first < sizes.channels; first += kVector << plan.lane_bits) {
      const int32_t channel = first + lane * kVector;
      const bool has_channels = channel < sizes.channels;
      Real<T> sums[kVector] = {};
      Cursor cursor(lane % kPlacesAtOnce, sizes.points);
      for (int32_t done = 0; done < places; done += kPlacesAtOnce, cursor.advance(sizes.points)) {
        const int64_t place = number * places + done + lane % kPlacesAtOnce;
        const OwnPlace<T> own = own_place<T>(levels, cursor, sizes.levels, locations + 2 * place, weights + place);
        const Shared<Real<T>> own_shared = shared_of(own.place, own.level, own.attention);
#pragma unroll
        for (int from = 0; from < kPlacesAtOnce; ++from) {
          const Shared<Real<T>> shared = hand_round(own_shared, from);
#pragma unroll
          for (int corner = 0; corner < 4; ++corner) {
            Pack<T, kVector> cell = {};
            if ((shared.width_and_corners >> corner & 1u) && has_channels) {
              cell = load_pack<T, kVector>(map + corner_offset(shared, corner, stride) + channel);
            }
#pragma unroll
            for (int i = 0; i < kVector; ++i) {
              sums[i] += shared.weights[corner] * static_cast<Real<T>>(cell.at[i]);
            }
          }
        }
      }
      if (row.exists && has_channels) {
        Pack<T, kVector> result;
#pragma unroll
        for (int i = 0; i < kVector; ++i) {
          result.at[i] = static_cast<T>(sums[i]);
        }
        *reinterpret_cast<Pack<T, kVector>*>(output + number * sizes.channels + channel) = result;
      }
    }
  }
}

// Adds `scale * from` to `to`. The order in which the lanes of the GPU arrive is not fixed.
template <class R, int kVector>
SOC_DEVICE void scatter_add(R* to, R scale, const R (&from)[kVector]) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  if constexpr (sizeof(R) == 4 && kVector % 4 == 0) {
#pragma unroll
    for (int i = 0; i < kVector; i += 4) {
      atomicAdd(
          reinterpret_cast<float4*>(to + i),
          make_float4(scale * from[i], scale * from[i + 1], scale * from[i + 2], scale * from[i + 3]));
    }
    return;
  }
#endif
#pragma unroll
  for (int i = 0; i < kVector; ++i) {
    atomicAdd(to + i, scale * from[i]);
  }
}

// Sums `dots[place][corner]` over the lanes of a row; afterwards dots[0] of a lane belongs to place lane % 4.
// Each of the first two steps halves what is left to sum: a lane keeps the places that its neighbour gives away.
template <class R>
SOC_DEVICE void sum_over_lanes(R (&dots)[kPlacesAtOnce][4], int32_t lane, int32_t lane_bits) {
  static_assert(kPlacesAtOnce == 4, "two halvings leave one place per lane");
#pragma unroll
  for (int half = kPlacesAtOnce / 2; half > 0; half /= 2) {
    const bool upper = lane & half;
#pragma unroll
    for (int i = 0; i < half; ++i) {
#pragma unroll
      for (int corner = 0; corner < 4; ++corner) {
        const R given = upper ? dots[i][corner] : dots[i + half][corner];
        const R kept = upper ? dots[i + half][corner] : dots[i][corner];
        dots[i][corner] = kept + __shfl_xor_sync(kWholeWarp, given, half);
      }
    }
  }
  for (int32_t other = kPlacesAtOnce; other < 1 << lane_bits; other *= 2) {
#pragma unroll
    for (int corner = 0; corner < 4; ++corner) {
      dots[0][corner] += __shfl_xor_sync(kWholeWarp, dots[0][corner], other);
    }
  }
}

// grad_value may be null: then somebody else gathers it.
template <class T, int kVector>
__global__ void __launch_bounds__(kThreads) backward_kernel(
    const T* __restrict__ grad_output,
    const T* __restrict__ value,
    const __grid_constant__ Levels levels,
    const Real<T>* __restrict__ locations,
    const T* __restrict__ weights,
    Real<T>* __restrict__ grad_value,
    Real<T>* __restrict__ grad_locations,
    T* __restrict__ grad_weights,
    const __grid_constant__ Plan plan) {
  const Sizes& sizes = plan.sizes;
  const int32_t places = sizes.levels * sizes.points, stride = sizes.heads * sizes.channels;
  const int32_t lane = threadIdx.x & ((1 << plan.lane_bits) - 1);
  const int32_t width = kVector << plan.lane_bits;  // channels that a row's lanes hold at once
  for (int64_t tile = blockIdx.x; tile < plan.tiles; tile += gridDim.x) {
    const Row row = row_of(plan, tile, threadIdx.x >> plan.lane_bits);
    const int64_t number = row_number(sizes, row);
    const int64_t map = map_offset(sizes, row.batch, row.head);
    Real<T> gradient[kVector];
    int32_t held = -1;  // first of the channels whose gradient is in registers
    Cursor cursor(lane % kPlacesAtOnce, sizes.points);
    for (int32_t done = 0; done < places; done += kPlacesAtOnce, cursor.advance(sizes.points)) {
      const int64_t place = number * places + done + lane % kPlacesAtOnce;
      OwnPlace<T> own = own_place<T>(levels, cursor, sizes.levels, locations + 2 * place, weights + place);
      if (!row.exists) {
        own.place.corners = 0u;  // a repeated row adds nothing
      }
      const Shared<Real<T>> own_shared = shared_of(own.place, own.level, own.attention);
      Real<T> dots[kPlacesAtOnce][4] = {};
      for (int32_t first = 0; first < sizes.channels; first += width) {
        const int32_t channel = first + lane * kVector;
        const bool has_channels = channel < sizes.channels;
        if (held != first) {
          Pack<T, kVector> pack = {};
          if (has_channels) {
            pack = load_pack<T, kVector>(grad_output + number * sizes.channels + channel);
          }
#pragma unroll
          for (int i = 0; i < kVector; ++i) {
            gradient[i] = static_cast<Real<T>>(pack.at[i]);
          }
          held = first;
        }
#pragma unroll
        for (int from = 0; from < kPlacesAtOnce; ++from) {
          const Shared<Real<T>> shared = hand_round(own_shared, from);
#pragma unroll
          for (int corner = 0; corner < 4; ++corner) {
            if ((shared.width_and_corners >> corner & 1u) && has_channels) {
              const int64_t offset = map + corner_offset(shared, corner, stride) + channel;
              const Pack<T, kVector> cell = load_pack<T, kVector>(value + offset);
#pragma unroll
              for (int i = 0; i < kVector; ++i) {
                dots[from][corner] += gradient[i] * static_cast<Real<T>>(cell.at[i]);
              }
              if (grad_value != nullptr) {
                scatter_add(grad_value + offset, shared.weights[corner], gradient);
              }
            }
          }
        }
      }
      sum_over_lanes(dots, lane, plan.lane_bits);
      if (row.exists && lane < kPlacesAtOnce && cursor.level < sizes.levels) {
        const PlaceGradient<Real<T>> result = place_gradient(own.place, own.level, own.attention, dots[0]);
        *reinterpret_cast<Pack<Real<T>, 2>*>(grad_locations + 2 * place) = {{result.x, result.y}};
        grad_weights[place] = static_cast<T>(result.attention);
      }
    }
  }
}

// Gradient of `value` without atomics: a warp owns kCellsAtOnce cells and kWarp channels, looks at every place of
// their level, query by query, and adds up those that touch its cells. The order of the sums is fixed.
// Cost: (cells / 8) * queries * points tests per level and head, so it grows with the square of the size of the map.
template <class T>
__global__ void __launch_bounds__(kThreads) gather_value_gradient_kernel(
    const T* __restrict__ grad_output,
    const __grid_constant__ Levels levels,
    const Real<T>* __restrict__ locations,
    const T* __restrict__ weights,
    T* __restrict__ grad_value,
    const __grid_constant__ GatherPlan plan) {
  // A lane only ever touches its own column, so nothing here needs a barrier.
  __shared__ Real<T> all_sums[kThreads / kWarp][kCellsAtOnce][kWarp];
  const Sizes& sizes = plan.sizes;
  const int32_t lane = threadIdx.x % kWarp;
  Real<T>(&sums)[kCellsAtOnce][kWarp] = all_sums[threadIdx.x / kWarp];
  const int64_t step = static_cast<int64_t>(gridDim.x) * (kThreads / kWarp);
  for (int64_t work = static_cast<int64_t>(blockIdx.x) * (kThreads / kWarp) + threadIdx.x / kWarp; work < plan.warps;
       work += step) {
    const int64_t column = quotient(work, plan.spans);
    const int64_t first_cell = (work - column * plan.spans) * kCellsAtOnce;
    const int64_t batch_head = quotient(column, plan.channel_blocks);
    const int32_t channel = static_cast<int32_t>(column - batch_head * plan.channel_blocks) * kWarp + lane;
    const int64_t batch = quotient(batch_head, sizes.heads);
    const int32_t head = static_cast<int32_t>(batch_head - batch * sizes.heads);
    const bool has_channel = channel < sizes.channels;
    for (int i = 0; i < kCellsAtOnce; ++i) {
      sums[i][lane] = Real<T>(0);
    }
    for (int32_t index = 0; index < sizes.levels; ++index) {
      const Level level = level_at(levels, index);
      const int64_t end = level.start + static_cast<int64_t>(level.height) * level.width;
      if (end <= first_cell || level.start >= first_cell + kCellsAtOnce) {
        continue;
      }
      int64_t query = lane / sizes.points;
      int32_t point = lane % sizes.points;
      for (int64_t done = 0; done < sizes.queries * sizes.points; done += kWarp) {
        Shared<Real<T>> own = {};
        if (query < sizes.queries) {
          const int64_t row = (batch * sizes.queries + query) * sizes.heads + head;
          const int64_t place = (row * sizes.levels + index) * sizes.points + point;
          const Pack<Real<T>, 2> xy = load_pack<Real<T>, 2>(locations + 2 * place);
          own = shared_of(place_of(level, xy.at[0], xy.at[1]), level, static_cast<Real<T>>(weights[place]));
        }
        uint32_t touched = 0u;
        for (int corner = 0; corner < 4; ++corner) {
          const int64_t cell = corner_offset(own, corner, 1) - first_cell;
          if ((own.width_and_corners >> corner & 1u) && cell >= 0 && cell < kCellsAtOnce) {
            touched |= 1u << corner;
          }
        }
        for (unsigned hits = __ballot_sync(kWholeWarp, touched != 0u); hits != 0u; hits &= hits - 1u) {
          const int from = __ffs(static_cast<int>(hits)) - 1;
          const uint32_t corners = __shfl_sync(kWholeWarp, touched, from);
          const int32_t cell = __shfl_sync(kWholeWarp, own.cell, from) - static_cast<int32_t>(first_cell);
          const int64_t row =
              (batch * sizes.queries + __shfl_sync(kWholeWarp, query, from)) * sizes.heads + head;
          const Real<T> gradient =
              has_channel ? static_cast<Real<T>>(grad_output[row * sizes.channels + channel]) : Real<T>(0);
          for (int corner = 0; corner < 4; ++corner) {
            const Real<T> weight = __shfl_sync(kWholeWarp, own.weights[corner], from);
            if (corners >> corner & 1u) {
              sums[cell + (corner & 1) + (corner & 2 ? level.width : 0)][lane] += weight * gradient;
            }
          }
        }
        query += kWarp / sizes.points;
        point += kWarp % sizes.points;
        if (point >= sizes.points) {
          point -= sizes.points;
          ++query;
        }
      }
    }
    for (int i = 0; i < kCellsAtOnce; ++i) {
      if (has_channel && first_cell + i < sizes.cells) {
        const int64_t cell = (batch * sizes.cells + first_cell + i) * sizes.heads + head;
        grad_value[cell * sizes.channels + channel] = static_cast<T>(sums[i][lane]);
      }
    }
  }
}

}  // namespace soc_msda
