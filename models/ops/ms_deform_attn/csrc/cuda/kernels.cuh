// Kernels of multi-scale deformable attention. Written without a GPU at hand: checked on a CPU by an emulation of the
// grid (emulation/), compiled for sm_80 to sm_100, never timed.
//
// Forward and backward: a lane holds kVector neighbouring channels (16 bytes where the channels allow), four or more
// lanes make a row. Four places are worked out at once, one per lane, and handed round by shuffles. In the backward
// the products with the output's gradient are summed over the lanes so that each lane ends with the sums of the place
// that it worked out: no atomics, no shared memory, no barriers. Only the gradient of `value` needs atomics, in float32
// or float64, four at a time where the GPU can (sm_90); `gather_value_gradient` does without, in a fixed order.
#pragma once

#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <cstring>
#include <type_traits>

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

// Neighbouring channels of a cell as they lie in memory; half precisions are kept as words, two channels each, because
// the compiler takes longer for 16-bit pieces.
template <class T, int kSize>
using Raw = std::conditional_t<(sizeof(T) == 2 && kSize % 2 == 0), Pack<uint32_t, (kSize + 1) / 2>, Pack<T, kSize>>;

template <class T, int kSize>
SOC_DEVICE Raw<T, kSize> load_raw(const T* from) {
  return *reinterpret_cast<const Raw<T, kSize>*>(from);
}

SOC_DEVICE void widen_word(uint32_t word, float (&pair)[2], c10::BFloat16) {
  pair[0] = __builtin_bit_cast(float, word << 16);  // bfloat16 is the upper half of float32
  pair[1] = __builtin_bit_cast(float, word & 0xffff0000u);
}
SOC_DEVICE void widen_word(uint32_t word, float (&pair)[2], c10::Half) {
#ifdef __CUDA_ARCH__
  __half2 halves;
  memcpy(&halves, &word, sizeof(word));
  const float2 both = __half22float2(halves);
  pair[0] = both.x;
  pair[1] = both.y;
#else
  pair[0] = c10::Half(static_cast<unsigned short>(word), c10::Half::from_bits());
  pair[1] = c10::Half(static_cast<unsigned short>(word >> 16), c10::Half::from_bits());
#endif
}

// The channels in the type of the sums.
template <class T, int kSize>
SOC_DEVICE void widen(const Raw<T, kSize>& raw, Real<T> (&channels)[kSize]) {
  if constexpr (sizeof(T) == 2 && kSize % 2 == 0) {
#pragma unroll
    for (int i = 0; i < kSize / 2; ++i) {
      float pair[2];
      widen_word(raw.at[i], pair, T{});
      channels[2 * i] = pair[0];
      channels[2 * i + 1] = pair[1];
    }
  } else {
#pragma unroll
    for (int i = 0; i < kSize; ++i) {
      channels[i] = static_cast<Real<T>>(raw.at[i]);
    }
  }
}

// Attention weights (or their gradients): of the type of the values, or of that of the sums.
template <class T>
struct Weights {
  std::conditional_t<std::is_const_v<T>, const void*, void*> data;
  bool is_wide;

  using Own = std::remove_const_t<T>;
  using Wide = Real<Own>;

  SOC_DEVICE Wide get(int64_t index) const {
    if (std::is_same_v<Own, Wide> || is_wide) {
      return static_cast<const Wide*>(data)[index];
    }
    return static_cast<Wide>(static_cast<const Own*>(data)[index]);
  }
  SOC_DEVICE void set(int64_t index, Wide weight) const {
    if (std::is_same_v<Own, Wide> || is_wide) {
      static_cast<Wide*>(data)[index] = weight;
    } else {
      static_cast<Own*>(data)[index] = static_cast<Own>(weight);
    }
  }
};

// The address `cell` steps of `stride` bytes further, with the one instruction that there is for it. Left to itself the
// compiler multiplies 64-bit numbers, and takes four.
template <class T>
SOC_DEVICE T* at_cell(T* first, int32_t cell, int32_t stride) {
#ifdef __CUDA_ARCH__
  T* address;
  asm("mad.wide.s32 %0, %1, %2, %3;" : "=l"(address) : "r"(cell), "r"(stride), "l"(first));
  __builtin_assume(__isGlobal(address));
  return address;
#else
  using Byte = std::conditional_t<std::is_const_v<T>, const char, char>;
  return reinterpret_cast<T*>(reinterpret_cast<Byte*>(first) + static_cast<int64_t>(cell) * stride);
#endif
}

// The same number, which the compiler then keeps in registers instead of working it out anew wherever it is used.
template <class Number>
SOC_DEVICE Number kept(Number number) {
#ifdef __CUDA_ARCH__
  if constexpr (sizeof(Number) == 8) {
    asm("" : "+l"(number));
  } else {
    asm("" : "+r"(number));
  }
#endif
  return number;
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

template <class R>
struct OwnPlace {
  Place<R> place;
  Level level;
  R attention;
};

// What this lane works out for the row; nothing where the row has no such place.
template <class T>
SOC_DEVICE OwnPlace<Real<T>> own_place(
    const Levels& levels,
    const Cursor& cursor,
    int32_t num_levels,
    const Real<T>* locations,
    const Weights<const T>& weights,
    int64_t place) {
  if (cursor.level >= num_levels) {
    return {{0, 0u, 0, 0}, {0, 0, 0}, 0};
  }
  const Level level = level_at(levels, cursor.level);
  const Pack<Real<T>, 2> xy = load_pack<Real<T>, 2>(locations + 2 * place);
  return {place_of(level, xy.at[0], xy.at[1]), level, weights.get(place)};
}

// A place as the lane that worked it out hands it to the others of its row. Corners off the map have the weight zero
// and are replaced by their neighbours on the map, so that all four can be read without asking.
template <class R>
struct Handout {
  int32_t cell;
  uint32_t steps;  // bit 0: any corner is on the map; bit 1: cells to the right; from bit 2: cells to the row below
  R weights[4];

  SOC_DEVICE bool is_on_map() const { return steps & 1u; }
  SOC_DEVICE int32_t corner_cell(int corner) const {
    const int32_t right = static_cast<int32_t>(steps >> 1 & 1u), below = static_cast<int32_t>(steps >> 2);
    return cell + (corner & 1 ? right : 0) + (corner & 2 ? below : 0);
  }
};

template <class R>
SOC_DEVICE Handout<R> handout_of(const OwnPlace<R>& own) {
  const Place<R>& place = own.place;
  Handout<R> handout;
  corner_weights(place, own.attention, handout.weights);
  const uint32_t has_left = (place.corners | place.corners >> 2) & 1u;
  const uint32_t has_right = (place.corners >> 1 | place.corners >> 3) & 1u;
  const uint32_t has_top = (place.corners & 3u) != 0u, has_bottom = place.corners >> 2 != 0u;
  handout.cell = place.cell + (has_left ? 0 : 1) + (has_top ? 0 : own.level.width);
  handout.steps = (has_top & has_bottom ? static_cast<uint32_t>(own.level.width) << 2 : 0u) |
                  (has_left & has_right) << 1 | (place.corners != 0u ? 1u : 0u);
#pragma unroll
  for (int corner = 0; corner < 4; ++corner) {
    handout.weights[corner] = place.corners >> corner & 1u ? handout.weights[corner] : R(0);
  }
  return handout;
}

template <class R>
SOC_DEVICE Handout<R> hand_round(const Handout<R>& own, int from) {
  Handout<R> handout;
  handout.cell = __shfl_sync(kWholeWarp, own.cell, from, kPlacesAtOnce);
  handout.steps = __shfl_sync(kWholeWarp, own.steps, from, kPlacesAtOnce);
#pragma unroll
  for (int corner = 0; corner < 4; ++corner) {
    handout.weights[corner] = __shfl_sync(kWholeWarp, own.weights[corner], from, kPlacesAtOnce);
  }
  return handout;
}

// Blocks per multiprocessor that the compiler leaves registers for: 64 per thread, 128 where more is needed.
template <class T>
constexpr int kForwardBlocks = sizeof(T) == 8 ? 4 : 8;
constexpr int kBackwardBlocks = 4;

template <class T, int kVector>
__global__ void __launch_bounds__(kThreads, kForwardBlocks<T>) forward_kernel(
    const T* __restrict__ value,
    const __grid_constant__ Levels levels,
    const Real<T>* __restrict__ locations,
    const Weights<const T> weights,
    T* __restrict__ output,
    const __grid_constant__ Plan plan) {
  const Sizes& sizes = plan.sizes;
  const int32_t places = sizes.levels * sizes.points, stride = kept(plan.cell_bytes);
  const int32_t lane = threadIdx.x & ((1 << plan.lane_bits) - 1);
  for (int64_t tile = blockIdx.x; tile < plan.tiles; tile += gridDim.x) {
    const Row row = row_of(plan, tile, threadIdx.x >> plan.lane_bits);
    const int64_t number = row_number(sizes, row);
    const int64_t own_places = kept(number * places + lane % kPlacesAtOnce);
    // Lanes without channels or without a row come along: shuffles need whole warps.
    for (int32_t first = 0; first < sizes.channels; first += kVector << plan.lane_bits) {
      const int32_t channel = first + lane * kVector;
      const bool has_channels = channel < sizes.channels;
      const T* channels = kept(value + map_offset(sizes, row.batch, row.head) + channel);
      Real<T> sums[kVector] = {};
      Real<T> outside = Real<T>(0);  // zero times the weights of this lane's places off the map: not a number shows
      Cursor cursor(lane % kPlacesAtOnce, sizes.points);
      for (int32_t done = 0; done < places; done += kPlacesAtOnce, cursor.advance(sizes.points)) {
        const OwnPlace<Real<T>> found =
            own_place<T>(levels, cursor, sizes.levels, locations, weights, own_places + done);
        const Handout<Real<T>> own = handout_of(found);
        outside += own.is_on_map() ? Real<T>(0) : Real<T>(0) * found.attention;
#pragma unroll
        for (int from = 0; from < kPlacesAtOnce; ++from) {
          const Handout<Real<T>> place = hand_round(own, from);
          if (place.is_on_map() && has_channels) {
            Raw<T, kVector> cells[4];
#pragma unroll
            for (int corner = 0; corner < 4; ++corner) {
              cells[corner] = load_raw<T, kVector>(at_cell(channels, place.corner_cell(corner), stride));
            }
#pragma unroll
            for (int corner = 0; corner < 4; ++corner) {
              Real<T> wide[kVector];
              widen<T, kVector>(cells[corner], wide);
#pragma unroll
              for (int i = 0; i < kVector; ++i) {
                sums[i] += place.weights[corner] * wide[i];
              }
            }
          }
        }
      }
#pragma unroll
      for (int other = 1; other < kPlacesAtOnce; other *= 2) {
        outside += __shfl_xor_sync(kWholeWarp, outside, other);
      }
      if (row.exists && has_channels) {
        Pack<T, kVector> result;
#pragma unroll
        for (int i = 0; i < kVector; ++i) {
          result.at[i] = static_cast<T>(sums[i] + outside);
        }
        *reinterpret_cast<Pack<T, kVector>*>(output + number * sizes.channels + channel) = result;
      }
    }
  }
}

// Adds `scale * from` to `to`. The order in which the lanes of the GPU arrive is not fixed.
template <class R, int kVector>
SOC_DEVICE void scatter_add(R* to, R scale, const R (&from)[kVector]) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 900
  constexpr bool four_at_once = false;
#else
  constexpr bool four_at_once = sizeof(R) == 4 && kVector % 4 == 0;
#endif
  if constexpr (four_at_once) {
#pragma unroll
    for (int i = 0; i < kVector; i += 4) {
      atomicAdd(
          reinterpret_cast<float4*>(to + i),
          make_float4(scale * from[i], scale * from[i + 1], scale * from[i + 2], scale * from[i + 3]));
    }
  } else {
#pragma unroll
    for (int i = 0; i < kVector; ++i) {
      atomicAdd(to + i, scale * from[i]);
    }
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
  for (int32_t other = kPlacesAtOnce; other < (1 << lane_bits); other *= 2) {
#pragma unroll
    for (int corner = 0; corner < 4; ++corner) {
      dots[0][corner] += __shfl_xor_sync(kWholeWarp, dots[0][corner], other);
    }
  }
}

// grad_value may be null: then somebody else gathers it.
template <class T, int kVector>
__global__ void __launch_bounds__(kThreads, kBackwardBlocks) backward_kernel(
    const T* __restrict__ grad_output,
    const T* __restrict__ value,
    const __grid_constant__ Levels levels,
    const Real<T>* __restrict__ locations,
    const Weights<const T> weights,
    Real<T>* __restrict__ grad_value,
    Real<T>* __restrict__ grad_locations,
    const Weights<T> grad_weights,
    const __grid_constant__ Plan plan) {
  const Sizes& sizes = plan.sizes;
  const int32_t places = sizes.levels * sizes.points;
  const int32_t stride = kept(plan.cell_bytes), grad_stride = kept(plan.grad_cell_bytes);
  const int32_t lane = threadIdx.x & ((1 << plan.lane_bits) - 1);
  const int32_t width = kVector << plan.lane_bits;  // channels that a row's lanes hold at once
  for (int64_t tile = blockIdx.x; tile < plan.tiles; tile += gridDim.x) {
    const Row row = row_of(plan, tile, threadIdx.x >> plan.lane_bits);
    const int64_t number = row_number(sizes, row);
    const int64_t own_places = kept(number * places + lane % kPlacesAtOnce);
    const int64_t map = map_offset(sizes, row.batch, row.head);
    Real<T> gradient[kVector];
    int32_t held = -1;  // first of the channels whose gradient is in registers
    Cursor cursor(lane % kPlacesAtOnce, sizes.points);
    for (int32_t done = 0; done < places; done += kPlacesAtOnce, cursor.advance(sizes.points)) {
      const OwnPlace<Real<T>> own =
          own_place<T>(levels, cursor, sizes.levels, locations, weights, own_places + done);
      const Handout<Real<T>> own_handout = handout_of(own);
      Real<T> dots[kPlacesAtOnce][4] = {};
      for (int32_t first = 0; first < sizes.channels; first += width) {
        const int32_t channel = first + lane * kVector;
        const bool takes_part = channel < sizes.channels && row.exists;  // a repeated row adds nothing
        const T* channels = kept(value + map + channel);
        Real<T>* grad_channels = kept(grad_value + map + channel);
        if (held != first) {
          held = first;
          Raw<T, kVector> raw = {};
          if (takes_part) {
            raw = load_raw<T, kVector>(grad_output + number * sizes.channels + channel);
          }
          widen<T, kVector>(raw, gradient);
        }
#pragma unroll
        for (int from = 0; from < kPlacesAtOnce; ++from) {
          const Handout<Real<T>> place = hand_round(own_handout, from);
          if (place.is_on_map() && takes_part) {
            Raw<T, kVector> cells[4];
#pragma unroll
            for (int corner = 0; corner < 4; ++corner) {
              cells[corner] = load_raw<T, kVector>(at_cell(channels, place.corner_cell(corner), stride));
            }
            if (grad_value != nullptr) {
#pragma unroll
              for (int corner = 0; corner < 4; ++corner) {
                if (place.weights[corner] != Real<T>(0)) {
                  scatter_add(
                      at_cell(grad_channels, place.corner_cell(corner), grad_stride), place.weights[corner], gradient);
                }
              }
            }
#pragma unroll
            for (int corner = 0; corner < 4; ++corner) {
              Real<T> wide[kVector];
              widen<T, kVector>(cells[corner], wide);
#pragma unroll
              for (int i = 0; i < kVector; ++i) {
                dots[from][corner] += gradient[i] * wide[i];
              }
            }
          }
        }
      }
      sum_over_lanes(dots, lane, plan.lane_bits);
      if (row.exists && lane < kPlacesAtOnce && cursor.level < sizes.levels) {
        const PlaceGradient<Real<T>> result = place_gradient(own.place, own.level, own.attention, dots[0]);
        const int64_t place = own_places + done;
        *reinterpret_cast<Pack<Real<T>, 2>*>(grad_locations + 2 * place) = {{result.x, result.y}};
        grad_weights.set(place, result.attention);
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
    const Weights<const T> weights,
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
        Place<Real<T>> own = {};
        Real<T> own_weights[4] = {};
        if (query < sizes.queries) {
          const int64_t row = (batch * sizes.queries + query) * sizes.heads + head;
          const int64_t place = (row * sizes.levels + index) * sizes.points + point;
          const Pack<Real<T>, 2> xy = load_pack<Real<T>, 2>(locations + 2 * place);
          own = place_of(level, xy.at[0], xy.at[1]);
          corner_weights(own, weights.get(place), own_weights);
        }
        uint32_t touched = 0u;
        for (int corner = 0; corner < 4; ++corner) {
          const int64_t cell = own.cell + (corner & 1) + (corner & 2 ? level.width : 0) - first_cell;
          if ((own.corners >> corner & 1u) && cell >= 0 && cell < kCellsAtOnce) {
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
            const Real<T> weight = __shfl_sync(kWholeWarp, own_weights[corner], from);
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
