// Runs CUDA kernels on a processor, thread by thread, so that their results can be checked without a GPU.
//
// Threads of a block are fibers that take turns at barriers and shuffles; blocks run one after the other, which makes
// shared memory a static variable. Covers what TVM writes for planish's kernels: no atomics, no tensor cores. It proves
// index arithmetic, guards, barriers and reductions; it says nothing about speed.
#pragma once
#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <type_traits>
#include <utility>
#include <vector>

#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(n)
#define __shared__ static
#define alignas(n) __attribute__((aligned(n)))  // g++ takes no alignas between static and the type

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
};
template <typename T>
struct Two {
  T x, y;
};
template <typename T>
struct Four {
  T x, y, z, w;
};
#define VECTORS(name, type)                                                            \
  using name##2 = Two<type>;                                                           \
  using name##4 = Four<type>;                                                          \
  inline name##2 make_##name##2(type x, type y) { return {x, y}; }                     \
  inline name##4 make_##name##4(type x, type y, type z, type w) { return {x, y, z, w}; }
VECTORS(float, float)
VECTORS(int, int)
VECTORS(uint, unsigned)
VECTORS(short, short)
VECTORS(ushort, unsigned short)
VECTORS(char, signed char)
VECTORS(uchar, unsigned char)
VECTORS(longlong, long long)
#define CUDART_INF_F (float)(INFINITY)
#define CUDART_NAN_F (float)(NAN)
#define CUDART_INF (double)(INFINITY)
#define CUDART_NAN (double)(NAN)
using std::max;
using std::min;

namespace emulated {

constexpr unsigned kWarp = 32;
constexpr size_t kStack = 128 << 10;

// Whoever arrives last lets the others go on; threads that have ended are not waited for.
struct Barrier {
  unsigned size = 0, arrived = 0, turn = 0;
  void release() { arrived = 0, ++turn; }
  void leave() {
    --size;
    if (arrived && arrived == size) release();
  }
};

struct Thread {
  dim3 index;
  unsigned rank = 0;
  bool ended = false;
  ucontext_t context;
};

inline Thread* current = nullptr;
inline dim3 block;
inline ucontext_t scheduler;
inline Barrier whole;
inline std::vector<Barrier> warps;
inline std::vector<unsigned char> lanes;  // 16 bytes for each thread: what shuffles exchange
inline const std::function<void()>* body = nullptr;

inline void wait(Barrier& barrier) {
  unsigned turn = barrier.turn;
  if (++barrier.arrived == barrier.size) return barrier.release();
  while (barrier.turn == turn) swapcontext(&current->context, &scheduler);
}

inline void entry() {
  (*body)();
  current->ended = true;
  warps[current->rank / kWarp].leave();
  whole.leave();
}

template <typename T>
T shuffle(T value, unsigned from, bool inside) {
  static_assert(sizeof(T) <= 16, "a shuffle of one register or a few");
  Barrier& warp = warps[current->rank / kWarp];
  std::memcpy(&lanes[16 * current->rank], &value, sizeof(T));
  wait(warp);
  if (inside && from < lanes.size() / 16) std::memcpy(&value, &lanes[16 * from], sizeof(T));
  wait(warp);
  return value;
}

inline void run(dim3 grid, dim3 threads, const std::function<void()>& kernel) {
  const unsigned count = threads.x * threads.y * threads.z;
  static std::vector<std::unique_ptr<char[]>> stacks;
  while (stacks.size() < count) stacks.emplace_back(new char[kStack]);
  body = &kernel;
  lanes.assign(16 * count, 0);
  std::vector<Thread> all(count);
  for (unsigned b = 0; b < grid.x * grid.y * grid.z; ++b) {
    block = {b % grid.x, b / grid.x % grid.y, b / grid.x / grid.y};
    whole = {count};
    warps.assign((count + kWarp - 1) / kWarp, {kWarp});
    if (count % kWarp) warps.back().size = count % kWarp;
    for (unsigned t = 0; t < count; ++t) {
      all[t].index = {t % threads.x, t / threads.x % threads.y, t / threads.x / threads.y};
      all[t].rank = t;
      all[t].ended = false;
      getcontext(&all[t].context);
      all[t].context.uc_stack.ss_sp = stacks[t].get();
      all[t].context.uc_stack.ss_size = kStack;
      all[t].context.uc_link = &scheduler;
      makecontext(&all[t].context, entry, 0);
    }
    for (bool busy = true; busy;) {
      busy = false;
      for (Thread& thread : all) {
        if (thread.ended) continue;
        busy = true;
        current = &thread;
        swapcontext(&scheduler, &thread.context);
      }
    }
  }
}

template <typename... P, size_t... I>
void call(void (*kernel)(P...), void** arguments, std::index_sequence<I...>) {
  kernel(static_cast<P>(arguments[I])...);
}

template <typename... P>
void launch(void (*kernel)(P...), dim3 grid, dim3 threads, void** arguments) {
  run(grid, threads, [=] { call(kernel, arguments, std::index_sequence_for<P...>()); });
}

}  // namespace emulated

#define threadIdx (emulated::current->index)
#define blockIdx (emulated::block)
inline void __syncthreads() { emulated::wait(emulated::whole); }
inline unsigned __activemask() { return ~0u; }
template <typename T>
T __shfl_down_sync(unsigned, T value, unsigned offset, unsigned width) {
  unsigned rank = emulated::current->rank;
  return emulated::shuffle(value, rank + offset, rank % width + offset < width);
}
template <typename T>
T __shfl_sync(unsigned, T value, unsigned lane, unsigned width) {
  unsigned rank = emulated::current->rank;
  return emulated::shuffle(value, rank / width * width + lane % width, true);
}
