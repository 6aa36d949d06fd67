// Kernels of multi-scale deformable attention. Checked on a CPU by an emulation of the grid (emulation/), and on an H100
// by `scripts/gpu_check.sh`.
//
// Forward and backward: a lane holds kVector neighbouring channels (16 bytes where the channels allow), four or more
// lanes make a row. Four samples are computed at once, one per lane, and shared by shuffles. In the backward the
// products with the output's gradient are summed over the lanes so that each lane ends with the sums of the sample that
// it computed: no atomics, no shared memory, no barriers. Only the gradient of `value` needs atomics, in float32
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

// Neighbouring channels of a token as they lie in memory; half precisions are kept as words, two channels each, because
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

// The address of a token, `stride` bytes from one to the next, by the one instruction that there is for it. Left to
// itself the compiler multiplies 64-bit numbers, and takes four.
template <class T>
SOC_DEVICE T* token_address(T* first, int32_t token, int32_t stride) {
#ifdef __CUDA_ARCH__
  T* address;
  asm("mad.wide.s32 %0, %1, %2, %3;" : "=l"(address) : "r"(token), "r"(stride), "l"(first));
  __builtin_assume(__isGlobal(address));
  return address;
#else
  using Byte = std::conditional_t<std::is_const_v<T>, const char, char>;
  return reinterpret_cast<T*>(reinterpret_cast<Byte*>(first) + static_cast<int64_t>(token) * stride);
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

// The sample that this lane computes: its level and point advance by kSamplesAtOnce without divisions.
struct Cursor {
  int32_t level, point;

  SOC_DEVICE Cursor(int32_t sample, int32_t points) : level(0), point(sample) { carry(points); }
  SOC_DEVICE void advance(int32_t points) {
    point += kSamplesAtOnce;
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
struct OwnSample {
  Sample<R> sample;
  Level level;
  R attention;
};

// The sample that this lane computes for the row; empty where the row has none left.
template <class T>
SOC_DEVICE OwnSample<Real<T>> own_sample(
    const Levels& levels,
    const Cursor& cursor,
    int32_t num_levels,
    const Real<T>* locations,
    const Weights<const T>& weights,
    int64_t sample) {
  if (cursor.level >= num_levels) {
    return {{0, 0u, 0, 0}, {0, 0, 0}, 0};
  }
  const Level level = level_at(levels, cursor.level);
  const Pack<Real<T>, 2> xy = load_pack<Real<T>, 2>(locations + 2 * sample);
  return {sample_at(level, xy.at[0], xy.at[1]), level, weights.get(sample)};
}

// A sample as the lane that computed it shares it with the others of its row. Corners off the map have the weight zero
// and are replaced by their neighbours on the map, so that all four can be read unconditionally.
template <class R>
struct SharedSample {
  int32_t token;
  uint32_t steps;  // bit 0: any corner is on the map; bit 1: tokens to the right; from bit 2: tokens to the row below
  R weights[4];

  SOC_DEVICE bool is_on_map() const { return steps & 1u; }
  SOC_DEVICE int32_t corner_token(int corner) const {
    const int32_t right = static_cast<int32_t>(steps >> 1 & 1u), below = static_cast<int32_t>(steps >> 2);
    return token + (corner & 1 ? right : 0) + (corner & 2 ? below : 0);
  }
};

template <class R>
SOC_DEVICE SharedSample<R> shared_sample(const OwnSample<R>& own) {
  const Sample<R>& sample = own.sample;
  SharedSample<R> shared;
  corner_weights(sample, own.attention, shared.weights);
  const uint32_t has_left = (sample.corners | sample.corners >> 2) & 1u;
  const uint32_t has_right = (sample.corners >> 1 | sample.corners >> 3) & 1u;
  const uint32_t has_top = (sample.corners & 3u) != 0u, has_bottom = sample.corners >> 2 != 0u;
  shared.token = sample.token + (has_left ? 0 : 1) + (has_top ? 0 : own.level.width);
  shared.steps = (has_top & has_bottom ? static_cast<uint32_t>(own.level.width) << 2 : 0u) |
                 (has_left & has_right) << 1 | (sample.corners != 0u ? 1u : 0u);
#pragma unroll
  for (int corner = 0; corner < 4; ++corner) {
    shared.weights[corner] = sample.corners >> corner & 1u ? shared.weights[corner] : R(0);
  }
  return shared;
}

template <class R>
SOC_DEVICE SharedSample<R> share(const SharedSample<R>& own, int from) {
  SharedSample<R> shared;
  shared.token = __shfl_sync(kWholeWarp, own.token, from, kSamplesAtOnce);
  shared.steps = __shfl_sync(kWholeWarp, own.steps, from, kSamplesAtOnce);
#pragma unroll
  for (int corner = 0; corner < 4; ++corner) {
    shared.weights[corner] = __shfl_sync(kWholeWarp, own.weights[corner], from, kSamplesAtOnce);
  }
  return shared;
}

// Channels of a lane: 16 bytes of the values in the forward; in the backward 16 bytes of the sums, so that neighbouring
// lanes add to neighbouring addresses (with eight channels a lane, half of each sector, bfloat16 took twice as long as
// float32 on an H100).
template <class T>
constexpr int kForwardVector = 16 / sizeof(T);
template <class T>
constexpr int kBackwardVector = 16 / sizeof(Real<T>);

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
  const int32_t samples = sizes.levels * sizes.points, stride = kept(plan.token_bytes);
  const int32_t lane = threadIdx.x & ((1 << plan.lane_bits) - 1);
  for (int64_t tile = blockIdx.x; tile < plan.tiles; tile += gridDim.x) {
    const Row row = row_of(plan, tile, threadIdx.x >> plan.lane_bits);
    const int64_t number = row_number(sizes, row);
    const int64_t own_samples = kept(number * samples + lane % kSamplesAtOnce);
    // Lanes without channels or without a row come along: shuffles need whole warps.
    for (int32_t first = 0; first < sizes.channels; first += kVector << plan.lane_bits) {
      const int32_t channel = first + lane * kVector;
      const bool has_channels = channel < sizes.channels;
      const T* channels = kept(value + map_offset(sizes, row.batch, row.head) + channel);
      Real<T> sums[kVector] = {};
      Real<T> outside = Real<T>(0);  // zero times the weights of this lane's samples off the map: NaN stays NaN
      Cursor cursor(lane % kSamplesAtOnce, sizes.points);
      for (int32_t done = 0; done < samples; done += kSamplesAtOnce, cursor.advance(sizes.points)) {
        const OwnSample<Real<T>> computed =
            own_sample<T>(levels, cursor, sizes.levels, locations, weights, own_samples + done);
        const SharedSample<Real<T>> own = shared_sample(computed);
        outside += own.is_on_map() ? Real<T>(0) : Real<T>(0) * computed.attention;
#pragma unroll
        for (int from = 0; from < kSamplesAtOnce; ++from) {
          const SharedSample<Real<T>> sample = share(own, from);
          if (sample.is_on_map() && has_channels) {
            Raw<T, kVector> tokens[4];
#pragma unroll
            for (int corner = 0; corner < 4; ++corner) {
              tokens[corner] = load_raw<T, kVector>(token_address(channels, sample.corner_token(corner), stride));
            }
#pragma unroll
            for (int corner = 0; corner < 4; ++corner) {
              Real<T> wide[kVector];
              widen<T, kVector>(tokens[corner], wide);
#pragma unroll
              for (int i = 0; i < kVector; ++i) {
                sums[i] += sample.weights[corner] * wide[i];
              }
            }
          }
        }
      }
#pragma unroll
      for (int other = 1; other < kSamplesAtOnce; other *= 2) {
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

// Sums `dots[sample][corner]` over the lanes of a row; afterwards dots[0] of a lane belongs to sample lane % 4.
// Each of the first two steps halves what is left to sum: a lane keeps the samples that its neighbour gives away.
template <class R>
SOC_DEVICE void sum_over_lanes(R (&dots)[kSamplesAtOnce][4], int32_t lane, int32_t lane_bits) {
  static_assert(kSamplesAtOnce == 4, "two halvings leave one sample per lane");
#pragma unroll
  for (int half = kSamplesAtOnce / 2; half > 0; half /= 2) {
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
  for (int32_t other = kSamplesAtOnce; other < (1 << lane_bits); other *= 2) {
#pragma unroll
    for (int corner = 0; corner < 4; ++corner) {
      dots[0][corner] += __shfl_xor_sync(kWholeWarp, dots[0][corner], other);
    }
  }
}

// grad_value may be null: then gather_value_gradient_kernel computes it.
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
  const int32_t samples = sizes.levels * sizes.points;
  const int32_t stride = kept(plan.token_bytes), grad_stride = kept(plan.grad_token_bytes);
  const int32_t lane = threadIdx.x & ((1 << plan.lane_bits) - 1);
  const int32_t width = kVector << plan.lane_bits;  // channels that a row's lanes hold at once
  for (int64_t tile = blockIdx.x; tile < plan.tiles; tile += gridDim.x) {
    const Row row = row_of(plan, tile, threadIdx.x >> plan.lane_bits);
    const int64_t number = row_number(sizes, row);
    const int64_t own_samples = kept(number * samples + lane % kSamplesAtOnce);
    const int64_t map = map_offset(sizes, row.batch, row.head);
    Real<T> gradient[kVector];
    int32_t held = -1;  // first of the channels whose gradient is in registers
    Cursor cursor(lane % kSamplesAtOnce, sizes.points);
    for (int32_t done = 0; done < samples; done += kSamplesAtOnce, cursor.advance(sizes.points)) {
      const OwnSample<Real<T>> own =
          own_sample<T>(levels, cursor, sizes.levels, locations, weights, own_samples + done);
      const SharedSample<Real<T>> own_shared = shared_sample(own);
      Real<T> dots[kSamplesAtOnce][4] = {};
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
        for (int from = 0; from < kSamplesAtOnce; ++from) {
          const SharedSample<Real<T>> sample = share(own_shared, from);
          if (sample.is_on_map() && takes_part) {
            Raw<T, kVector> tokens[4];
#pragma unroll
            for (int corner = 0; corner < 4; ++corner) {
              tokens[corner] = load_raw<T, kVector>(token_address(channels, sample.corner_token(corner), stride));
            }
            if (grad_value != nullptr) {
#pragma unroll
              for (int corner = 0; corner < 4; ++corner) {
                if (sample.weights[corner] != Real<T>(0)) {
                  scatter_add(
                      token_address(grad_channels, sample.corner_token(corner), grad_stride),
                      sample.weights[corner],
                      gradient);
                }
              }
            }
#pragma unroll
            for (int corner = 0; corner < 4; ++corner) {
              Real<T> wide[kVector];
              widen<T, kVector>(tokens[corner], wide);
#pragma unroll
              for (int i = 0; i < kVector; ++i) {
                dots[from][corner] += gradient[i] * wide[i];
              }
            }
          }
        }
      }
      sum_over_lanes(dots, lane, plan.lane_bits);
      if (row.exists && lane < kSamplesAtOnce && cursor.level < sizes.levels) {
        const SampleGradient<Real<T>> result = sample_gradient(own.sample, own.level, own.attention, dots[0]);
        const int64_t sample = own_samples + done;
        *reinterpret_cast<Pack<Real<T>, 2>*>(grad_locations + 2 * sample) = {{result.x, result.y}};
        grad_weights.set(sample, result.attention);
      }
    }
  }
}

// Gradient of `value` without atomics: a warp owns kTokensAtOnce tokens and kWarp channels, visits every sample of
// their level, query by query, and adds up those that read its tokens. The order of the sums is fixed.
// Cost: (tokens / 8) * queries * points tests per level and head, so it grows with the square of the size of the map.
template <class T>
__global__ void __launch_bounds__(kThreads) gather_value_gradient_kernel(
    const T* __restrict__ grad_output,
    const __grid_constant__ Levels levels,
    const Real<T>* __restrict__ locations,
    const Weights<const T> weights,
    T* __restrict__ grad_value,
    const __grid_constant__ GatherPlan plan) {
  // A lane only ever touches its own column, so nothing here needs a barrier.
  __shared__ Real<T> all_sums[kThreads / kWarp][kTokensAtOnce][kWarp];
  const Sizes& sizes = plan.sizes;
  const int32_t lane = threadIdx.x % kWarp;
  Real<T>(&sums)[kTokensAtOnce][kWarp] = all_sums[threadIdx.x / kWarp];
  const int64_t step = static_cast<int64_t>(gridDim.x) * (kThreads / kWarp);
  for (int64_t work = static_cast<int64_t>(blockIdx.x) * (kThreads / kWarp) + threadIdx.x / kWarp; work < plan.warps;
       work += step) {
    const int64_t column = quotient(work, plan.spans);
    const int64_t first_token = (work - column * plan.spans) * kTokensAtOnce;
    const int64_t batch_head = quotient(column, plan.channel_blocks);
    const int32_t channel = static_cast<int32_t>(column - batch_head * plan.channel_blocks) * kWarp + lane;
    const int64_t batch = quotient(batch_head, sizes.heads);
    const int32_t head = static_cast<int32_t>(batch_head - batch * sizes.heads);
    const bool has_channel = channel < sizes.channels;
    for (int i = 0; i < kTokensAtOnce; ++i) {
      sums[i][lane] = Real<T>(0);
    }
    for (int32_t index = 0; index < sizes.levels; ++index) {
      const Level level = level_at(levels, index);
      const int64_t end = level.start + static_cast<int64_t>(level.height) * level.width;
      if (end <= first_token || level.start >= first_token + kTokensAtOnce) {
        continue;
      }
      int64_t query = lane / sizes.points;
      int32_t point = lane % sizes.points;
      for (int64_t done = 0; done < sizes.queries * sizes.points; done += kWarp) {
        Sample<Real<T>> own = {};
        Real<T> own_weights[4] = {};
        if (query < sizes.queries) {
          const int64_t row = (batch * sizes.queries + query) * sizes.heads + head;
          const int64_t sample = (row * sizes.levels + index) * sizes.points + point;
          const Pack<Real<T>, 2> xy = load_pack<Real<T>, 2>(locations + 2 * sample);
          own = sample_at(level, xy.at[0], xy.at[1]);
          corner_weights(own, weights.get(sample), own_weights);
        }
        uint32_t touched = 0u;
        for (int corner = 0; corner < 4; ++corner) {
          const int64_t token = own.token + (corner & 1) + (corner & 2 ? level.width : 0) - first_token;
          if ((own.corners >> corner & 1u) && token >= 0 && token < kTokensAtOnce) {
            touched |= 1u << corner;
          }
        }
        for (unsigned hits = __ballot_sync(kWholeWarp, touched != 0u); hits != 0u; hits &= hits - 1u) {
          const int from = __ffs(static_cast<int>(hits)) - 1;
          const uint32_t corners = __shfl_sync(kWholeWarp, touched, from);
          const int32_t token = __shfl_sync(kWholeWarp, own.token, from) - static_cast<int32_t>(first_token);
          const int64_t row =
              (batch * sizes.queries + __shfl_sync(kWholeWarp, query, from)) * sizes.heads + head;
          const Real<T> gradient =
              has_channel ? static_cast<Real<T>>(grad_output[row * sizes.channels + channel]) : Real<T>(0);
          for (int corner = 0; corner < 4; ++corner) {
            const Real<T> weight = __shfl_sync(kWholeWarp, own_weights[corner], from);
            if (corners >> corner & 1u) {
              sums[token + (corner & 1) + (corner & 2 ? level.width : 0)][lane] += weight * gradient;
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
    for (int i = 0; i < kTokensAtOnce; ++i) {
      if (has_channel && first_token + i < sizes.tokens) {
        const int64_t token = (batch * sizes.tokens + first_token + i) * sizes.heads + head;
        grad_value[token * sizes.channels + channel] = static_cast<T>(sums[i][lane]);
      }
    }
  }
}

}  // namespace soc_msda
