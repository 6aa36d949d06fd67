// Just enough of CUDA for kernels without barriers to run on a CPU, from the same source.
//
// Blocks and warps run one after the other. The 32 lanes of a warp are coroutines: a shuffle or ballot puts a lane to
// sleep until all the others have reached one of the same kind. A warp whose lanes part ways there stops the program,
// where a GPU would hang or compute nonsense.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <vector>

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

#define __global__
#define __device__
#define __host__
#define __shared__ static  // blocks run one after the other
#define __grid_constant__
#define __launch_bounds__(...)

namespace simt {

struct Index {
  unsigned x;
};

constexpr int kLanes = 32;
constexpr size_t kStackBytes = 512 * 1024;

#if defined(__x86_64__)
// Keeps the registers that a function must keep on the stack of the one, and takes them from that of the other.
// swapcontext would do, but asks the operating system each time, which is nine tenths of the tests' time.
extern "C" void simt_switch(void** from, void* to);
asm(R"(
.text
.globl simt_switch
.type simt_switch, @function
simt_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size simt_switch, .-simt_switch
)");

struct Context {
  void* stack_pointer = nullptr;
  void prepare(std::vector<char>& stack, void (*entry)()) {
    const uintptr_t top = reinterpret_cast<uintptr_t>(stack.data() + stack.size()) & ~uintptr_t(15);
    void** words = reinterpret_cast<void**>(top) - 8;  // six registers, where to go, and where never to return to
    std::memset(words, 0, 8 * sizeof(void*));
    words[6] = reinterpret_cast<void*>(entry);
    stack_pointer = words;
  }
  static void change(Context& from, Context& to) { simt_switch(&from.stack_pointer, to.stack_pointer); }
};
#else
struct Context {
  ucontext_t context{};
  void prepare(std::vector<char>& stack, void (*entry)()) {
    getcontext(&context);
    context.uc_stack.ss_sp = stack.data();
    context.uc_stack.ss_size = stack.size();
    makecontext(&context, entry, 0);
  }
  static void change(Context& from, Context& to) { swapcontext(&from.context, &to.context); }
};
#endif
constexpr size_t kSlotBytes = 8;

class Warp {
 public:
  static Warp& instance() {
    static Warp warp;
    return warp;
  }

  void run(unsigned first_thread, Index& thread, const std::function<void()>& kernel) {
    kernel_ = &kernel;
    for (Lane& lane : lanes_) {
      lane.meetings = 0;
      lane.is_finished = false;
      lane.context.prepare(lane.stack, &Warp::begin);
    }
    for (int finished = 0; finished < kLanes;) {
      finished = 0;
      for (running_ = 0; running_ < kLanes; ++running_) {
        thread.x = first_thread + static_cast<unsigned>(running_);
        if (!lanes_[running_].is_finished) {
          Context::change(scheduler_, lanes_[running_].context);
        }
        finished += lanes_[running_].is_finished;
      }
      for (const Lane& lane : lanes_) {
        const bool agrees = lane.is_finished == lanes_[0].is_finished && lane.meetings == lanes_[0].meetings &&
                            (lane.is_finished || lane.kind == lanes_[0].kind);
        if (!agrees) {
          std::fprintf(stderr, "the lanes of a warp part ways at a shuffle\n");
          std::abort();
        }
      }
    }
  }

  int lane() const { return running_; }

  // Leaves `value`, waits for the other lanes, and returns what lane `source(i)` left, for i = 0, 1, ... of `results`.
  template <class T>
  void meet(int kind, const T& value, const std::function<int(int)>& source, T* results, int num_results) {
    static_assert(sizeof(T) <= kSlotBytes);
    Lane& own = lanes_[running_];
    // Two sets of slots: a lane may leave its next value before the others have read this one.
    const int set = own.meetings++ % 2;
    own.kind = kind * 16 + static_cast<int>(sizeof(T));
    std::memcpy(slots_[set][running_], &value, sizeof(T));
    Context::change(own.context, scheduler_);
    for (int i = 0; i < num_results; ++i) {
      std::memcpy(results + i, slots_[set][source(i)], sizeof(T));
    }
  }

 private:
  struct Lane {
    Context context;
    std::vector<char> stack = std::vector<char>(kStackBytes);
    long meetings = 0;
    int kind = 0;
    bool is_finished = false;
  };

  static void begin() {
    Warp& warp = instance();
    (*warp.kernel_)();
    warp.lanes_[warp.running_].is_finished = true;
    Context::change(warp.lanes_[warp.running_].context, warp.scheduler_);
  }

  std::vector<Lane> lanes_ = std::vector<Lane>(kLanes);
  char slots_[2][kLanes][kSlotBytes] = {};
  Context scheduler_;
  const std::function<void()>* kernel_ = nullptr;
  int running_ = 0;
};

}  // namespace simt

inline simt::Index threadIdx, blockIdx, gridDim;

namespace simt {

inline void launch(int64_t grid, int threads, const std::function<void()>& kernel) {
  gridDim.x = static_cast<unsigned>(grid);
  for (blockIdx.x = 0; blockIdx.x < gridDim.x; ++blockIdx.x) {
    for (int first = 0; first < threads; first += kLanes) {
      Warp::instance().run(static_cast<unsigned>(first), threadIdx, kernel);
    }
  }
}

}  // namespace simt

template <class T>
T __shfl_sync(unsigned, T value, int source, int width = simt::kLanes) {
  const int lane = simt::Warp::instance().lane();
  T result;
  simt::Warp::instance().meet(
      1, value, [=](int) { return (lane & ~(width - 1)) | (source & (width - 1)); }, &result, 1);
  return result;
}

template <class T>
T __shfl_xor_sync(unsigned, T value, int other) {
  const int lane = simt::Warp::instance().lane();
  T result;
  simt::Warp::instance().meet(2, value, [=](int) { return lane ^ other; }, &result, 1);
  return result;
}

inline unsigned __ballot_sync(unsigned, bool vote) {
  int votes[simt::kLanes];
  simt::Warp::instance().meet(3, static_cast<int>(vote), [](int i) { return i; }, votes, simt::kLanes);
  unsigned result = 0;
  for (int lane = 0; lane < simt::kLanes; ++lane) {
    result |= static_cast<unsigned>(votes[lane]) << lane;
  }
  return result;
}

inline int __ffs(int bits) { return __builtin_ffs(bits); }

struct alignas(16) float4 {
  float x, y, z, w;
};

inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

inline float4 operator+(const float4& a, const float4& b) { return {a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w}; }

template <class T>
T atomicAdd(T* address, T value) {
  const T before = *address;
  *address = before + value;
  return before;
}
