// How the work is laid out over blocks, warps and lanes. Host code computes a plan, kernels only read it.
//
// A row is one (batch, query, head): `lanes` neighbouring lanes of a warp work on its channels. A tile is the rows of
// one block: consecutive queries of one head of one batch entry, because neighbours on the map read the same tokens.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "sample.h"

namespace soc_msda {

constexpr int kWarp = 32;
constexpr int kThreads = 128;
constexpr int kSamplesAtOnce = 4;   // a row computes this many samples together, one per lane
constexpr int kTokensAtOnce = 8;    // tokens whose gradient one warp gathers in the deterministic backward
constexpr int64_t kMaxGrid = 0x7fffffff;

struct Sizes {
  int64_t batch, tokens, queries;
  int32_t heads, channels, levels, points;
};

// No row, no sample or no channel: the output is zero, and no kernel is to be launched.
inline bool is_empty(const Sizes& sizes) {
  return sizes.batch == 0 || sizes.queries == 0 || sizes.heads == 0 || sizes.channels == 0 || sizes.levels == 0 ||
         sizes.points == 0;
}

struct Plan {
  Sizes sizes;
  int32_t lane_bits;       // log2 of the lanes of a row
  int32_t rows_per_tile;
  int32_t token_bytes, grad_token_bytes;  // from token to token in value and in the sums of its gradient
  int64_t tiles_per_head;  // of one head of one batch entry
  int64_t tiles;
  int64_t grid;            // blocks; each takes every grid-th tile
};

struct GatherPlan {
  Sizes sizes;
  int64_t spans;           // stretches of kTokensAtOnce tokens in one batch entry
  int32_t channel_blocks;  // stretches of kWarp channels in one head
  int64_t warps;
  int64_t grid;            // blocks; each of their warps takes every (grid * warps per block)-th piece of work
};

// Quotient of numbers that are not negative. Division of 64-bit numbers is a long routine on a GPU, and rarely needed.
SOC_HD int64_t quotient(int64_t number, int64_t divisor) {
  if (((number | divisor) >> 32) == 0) {
    return static_cast<uint32_t>(number) / static_cast<uint32_t>(divisor);
  }
  return number / divisor;
}

struct Row {
  int64_t batch, query;
  int32_t head;
  bool exists;  // the last tile of a head may hold fewer rows than a block; the rest repeat its last row
};

SOC_HD Row row_of(const Plan& plan, int64_t tile, int32_t row_in_tile) {
  const int64_t batch_head = quotient(tile, plan.tiles_per_head);
  Row row;
  row.batch = quotient(batch_head, plan.sizes.heads);
  row.head = static_cast<int32_t>(batch_head - row.batch * plan.sizes.heads);
  row.query = (tile - batch_head * plan.tiles_per_head) * plan.rows_per_tile + row_in_tile;
  row.exists = row.query < plan.sizes.queries;
  row.query = row.exists ? row.query : plan.sizes.queries - 1;
  return row;
}

// Number of the row in locations, weights and output.
SOC_HD int64_t row_number(const Sizes& sizes, const Row& row) {
  return (row.batch * sizes.queries + row.query) * sizes.heads + row.head;
}

// First element of a head's map in `value`.
SOC_HD int64_t map_offset(const Sizes& sizes, int64_t batch, int32_t head) {
  return (batch * sizes.tokens * sizes.heads + head) * sizes.channels;
}

inline int64_t blocks_for(int64_t work, int64_t max_grid) {
  return work < max_grid ? work : max_grid;
}

// `vector` is how many channels a lane reads at once; it divides the channels. Sizes of elements are in bytes.
inline Plan plan_rows(
    const Sizes& sizes, int32_t vector, int32_t element_size, int32_t sum_size, int64_t max_grid = kMaxGrid) {
  Plan plan{};
  plan.sizes = sizes;
  plan.lane_bits = 2;  // a row has a lane for each of its kSamplesAtOnce samples
  while ((1 << plan.lane_bits) < kWarp && (int64_t(1) << plan.lane_bits) * vector < sizes.channels) {
    ++plan.lane_bits;
  }
  plan.token_bytes = sizes.heads * sizes.channels * element_size;
  plan.grad_token_bytes = sizes.heads * sizes.channels * sum_size;
  plan.rows_per_tile = kThreads >> plan.lane_bits;
  plan.tiles_per_head = (sizes.queries + plan.rows_per_tile - 1) / plan.rows_per_tile;
  plan.tiles = sizes.batch * sizes.heads * plan.tiles_per_head;
  plan.grid = blocks_for(plan.tiles, max_grid);
  return plan;
}

inline GatherPlan plan_gather(const Sizes& sizes, int64_t max_grid = kMaxGrid) {
  GatherPlan plan{};
  plan.sizes = sizes;
  plan.spans = (sizes.tokens + kTokensAtOnce - 1) / kTokensAtOnce;
  plan.channel_blocks = (sizes.channels + kWarp - 1) / kWarp;
  plan.warps = sizes.batch * sizes.heads * plan.channel_blocks * plan.spans;
  constexpr int64_t warps_per_block = kThreads / kWarp;
  plan.grid = blocks_for((plan.warps + warps_per_block - 1) / warps_per_block, max_grid);
  return plan;
}

// What the kernels count with 32 bits must fit into them; everything else is counted with 64.
// Returns what does not fit, or an empty text.
inline std::string too_large(const Sizes& sizes, const std::vector<Level>& levels) {
  constexpr int64_t limit = 0x7fffffff;
  if (sizes.tokens > limit) {
    return std::to_string(sizes.tokens) + " tokens per batch entry; at most 2147483647 are possible";
  }
  if (int64_t(sizes.heads) * sizes.channels * int64_t(sizeof(double)) > limit) {
    return "the channels of all heads of a token take more than 2147483647 bytes";
  }
  for (const Level& level : levels) {
    if (level.height >= (1 << 24) || level.width >= (1 << 24)) {
      return "a level has a side of 16777216 pixels or more, more than float32 can address";
    }
  }
  return "";
}

}  // namespace soc_msda
