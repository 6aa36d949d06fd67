// Runs the CUDA kernels of deformable attention on the CPU: emulate CASES RESULTS.
//
// Both files are binary and written and read by emulator.py beside this file. Every tensor gets memory of exactly
// its size, so that the address sanitizer sees each read or write outside.
#include "simt.h"

#include <fstream>
#include <memory>
#include <stdexcept>
#include <type_traits>

#include "kernels.cuh"

namespace {

using namespace soc_msda;

struct Free {
  void operator()(void* memory) const { std::free(memory); }
};

class Buffer {
 public:
  Buffer(int64_t elements, size_t element_size, int fill) : bytes_(static_cast<size_t>(elements) * element_size) {
    void* memory = nullptr;
    if (posix_memalign(&memory, 16, bytes_ > 0 ? bytes_ : 1) != 0) {
      throw std::runtime_error("no memory");
    }
    std::memset(memory, fill, bytes_);
    memory_.reset(static_cast<char*>(memory));
  }

  void read(std::istream& in) { in.read(memory_.get(), static_cast<std::streamsize>(bytes_)); }
  void write(std::ostream& out) const { out.write(memory_.get(), static_cast<std::streamsize>(bytes_)); }

  template <class T>
  T* as() const {
    return reinterpret_cast<T*>(memory_.get());
  }

 private:
  size_t bytes_;
  std::unique_ptr<char, Free> memory_;
};

int64_t read_number(std::istream& in) {
  int64_t number = 0;
  in.read(reinterpret_cast<char*>(&number), sizeof(number));
  if (!in) {
    throw std::runtime_error("the file of cases ends too early");
  }
  return number;
}

void write_number(std::ostream& out, int64_t number) {
  out.write(reinterpret_cast<const char*>(&number), sizeof(number));
}

enum Task : int64_t { kForward, kBackward, kDeterministicBackward, kPlan };
constexpr int kZero = 0, kNotANumber = 0xff;  // bytes; all ones are NaN in every floating-point format

struct Case {
  Task task;
  bool weights_are_wide, one_channel_per_lane;
  int64_t max_grid;
  Sizes sizes;
  std::vector<Level> levels;
  Levels table;
};

template <class T, int kVector>
void run_rows(const Case& c, const Buffer& value, const Buffer& locations, const Buffer& weights,
              const Buffer& grad_output, Buffer& output, Real<T>* grad_value, Buffer& grad_locations,
              Buffer& grad_weights) {
  const Plan plan = plan_rows(c.sizes, kVector, sizeof(T), sizeof(Real<T>), c.max_grid);
  simt::launch(plan.grid, kThreads, [&] {
    if (c.task == kForward) {
      forward_kernel<T, kVector>(value.as<T>(), c.table, locations.as<Real<T>>(),
                                 {weights.as<void>(), c.weights_are_wide}, output.as<T>(), plan);
    } else {
      backward_kernel<T, kVector>(grad_output.as<T>(), value.as<T>(), c.table, locations.as<Real<T>>(),
                                  {weights.as<void>(), c.weights_are_wide}, grad_value, grad_locations.as<Real<T>>(),
                                  {grad_weights.as<void>(), c.weights_are_wide}, plan);
    }
  });
}

template <class T>
void run(const Case& c, std::istream& in, std::ostream& out) {
  const Sizes& s = c.sizes;
  const int64_t rows = s.batch * s.queries * s.heads, samples = rows * s.levels * s.points;
  const int64_t elements = s.batch * s.tokens * s.heads * s.channels;
  const size_t weight_size = c.weights_are_wide ? sizeof(Real<T>) : sizeof(T);
  Buffer value(elements, sizeof(T), kZero), locations(2 * samples, sizeof(Real<T>), kZero);
  Buffer weights(samples, weight_size, kZero), grad_output(rows * s.channels, sizeof(T), kZero);
  value.read(in);
  locations.read(in);
  weights.read(in);
  if (c.task != kForward) {
    grad_output.read(in);
  }
  // What the kernels must fill is not a number before; what is empty is zero without them.
  const int fill = is_empty(s) ? kZero : kNotANumber;
  Buffer output(rows * s.channels, sizeof(T), fill);
  Buffer scattered(elements, sizeof(Real<T>), kZero), gathered(elements, sizeof(T), fill);
  Buffer grad_locations(2 * samples, sizeof(Real<T>), fill), grad_weights(samples, weight_size, fill);
  Real<T>* grad_value = c.task == kDeterministicBackward ? nullptr : scattered.as<Real<T>>();
  const auto run_with = [&]<int kVector>(std::integral_constant<int, kVector>) {
    run_rows<T, kVector>(c, value, locations, weights, grad_output, output, grad_value, grad_locations, grad_weights);
  };
  const int vector = c.task == kForward ? kForwardVector<T> : kBackwardVector<T>;
  if (!is_empty(s) && (s.channels % vector != 0 || c.one_channel_per_lane)) {
    run_with(std::integral_constant<int, 1>{});
  } else if (!is_empty(s) && c.task == kForward) {
    run_with(std::integral_constant<int, kForwardVector<T>>{});
  } else if (!is_empty(s)) {
    run_with(std::integral_constant<int, kBackwardVector<T>>{});
  }
  if (c.task == kForward) {
    output.write(out);
    return;
  }
  if (c.task == kDeterministicBackward && !is_empty(s) && s.tokens > 0) {
    const GatherPlan plan = plan_gather(s, c.max_grid);
    simt::launch(plan.grid, kThreads, [&] {
      gather_value_gradient_kernel<T>(grad_output.as<T>(), c.table, locations.as<Real<T>>(),
                                      {weights.as<void>(), c.weights_are_wide}, gathered.as<T>(), plan);
    });
  }
  (c.task == kDeterministicBackward ? gathered : scattered).write(out);
  grad_locations.write(out);
  grad_weights.write(out);
}

void write_plan(const Case& c, int64_t vector, int64_t tile, int64_t row_in_tile, std::ostream& out) {
  const Plan plan = plan_rows(c.sizes, static_cast<int32_t>(vector), 4, 4, c.max_grid);
  const GatherPlan gather = plan_gather(c.sizes, c.max_grid);
  const Row row = row_of(plan, tile < 0 ? plan.tiles + tile : tile, static_cast<int32_t>(row_in_tile));
  for (const int64_t number :
       {int64_t(1) << plan.lane_bits, int64_t(plan.rows_per_tile), plan.tiles, plan.grid, row.batch, row.query,
        int64_t(row.head), int64_t(row.exists), row_number(c.sizes, row), map_offset(c.sizes, row.batch, row.head),
        gather.warps, gather.grid, int64_t(too_large(c.sizes, c.levels).empty())}) {
    write_number(out, number);
  }
}

void run_case(std::istream& in, std::ostream& out) {
  Case c;
  c.task = static_cast<Task>(read_number(in));
  const int64_t dtype = read_number(in);
  c.weights_are_wide = read_number(in) != 0;
  c.one_channel_per_lane = read_number(in) != 0;
  c.max_grid = read_number(in);
  Sizes& s = c.sizes;
  s.batch = read_number(in);
  s.tokens = read_number(in);
  s.queries = read_number(in);
  s.heads = static_cast<int32_t>(read_number(in));
  s.channels = static_cast<int32_t>(read_number(in));
  s.levels = static_cast<int32_t>(read_number(in));
  s.points = static_cast<int32_t>(read_number(in));
  int64_t start = 0;
  c.table = Levels{};
  for (int32_t i = 0; i < s.levels; ++i) {
    const int64_t height = read_number(in), width = read_number(in);
    c.levels.push_back({static_cast<int32_t>(height), static_cast<int32_t>(width), static_cast<int32_t>(start)});
    start += height * width;
  }
  std::vector<Level> others;
  for (int32_t i = 0; i < s.levels; ++i) {
    if (i < kNearLevels) {
      c.table.nearby[i] = c.levels[i];
    } else {
      others.push_back(c.levels[i]);
    }
  }
  c.table.others = others.data();
  if (c.task == kPlan) {
    const int64_t vector = read_number(in), tile = read_number(in), row_in_tile = read_number(in);
    write_plan(c, vector, tile, row_in_tile, out);
    return;
  }
  switch (dtype) {
    case 0: run<double>(c, in, out); break;
    case 1: run<float>(c, in, out); break;
    case 2: run<c10::Half>(c, in, out); break;
    case 3: run<c10::BFloat16>(c, in, out); break;
    default: throw std::runtime_error("unknown dtype");
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) {
    std::fprintf(stderr, "usage: emulate CASES RESULTS\n");
    return 2;
  }
  std::ifstream in(argv[1], std::ios::binary);
  std::ofstream out(argv[2], std::ios::binary);
  const int64_t num_cases = read_number(in);
  for (int64_t i = 0; i < num_cases; ++i) {
    run_case(in, out);
  }
  return out ? 0 : 1;
}
