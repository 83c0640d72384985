// Runs unchanged CUDA kernels on the CPU: what their sources may use of CUDA, and the function that launches them.
//
// A source is compiled by g++ with `-include emulator.h` and linked with emulator.cpp and fiber.cpp (build.py does so).
// Each thread of a block is a fiber that runs until it waits at a barrier or a shuffle; blocks run one after another.
// What the kernels of gpubp do not use is not here: dynamic shared memory, atomics, votes, the other shuffles.
#pragma once
#include <math.h>  // a CUDA source may call its functions without including it

#include <cstdint>
#include <cstring>
#include <utility>

struct uint3 {
  unsigned x, y, z;
};

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
};

#define __global__
#define __device__
#define __launch_bounds__(...)
#define __forceinline__ inline __attribute__((always_inline))
// Blocks follow one another, so one copy is enough. It is thread-local because the emulator can find such variables, to
// fill them with NaN bytes before each block, and because ThreadSanitizer knows that a new thread has new ones.
// AddressSanitizer guards the bounds of plain static variables only.
#ifdef __SANITIZE_ADDRESS__
#define __shared__ static
#else
#define __shared__ static thread_local
#endif

extern uint3 threadIdx, blockIdx;
extern dim3 blockDim, gridDim;

namespace emulator {

// The order in which the threads of a block, and the blocks, have their turns.
enum Order { FORWARD, REVERSE, RANDOM };

struct Site {
  const char* file;
  int line;
};

void wait_for_block(Site site);
std::uint64_t exchange(unsigned mask, std::uint64_t value, int lane_mask, int width, Site site);
const char* run(const void* kernel, dim3 grid, dim3 block, void (*body)(void*), void* context, Order order,
                unsigned seed);

template <typename... Parameters, std::size_t... Indices>
void call(void (*kernel)(Parameters...), void** arguments, std::index_sequence<Indices...>) {
  kernel(*static_cast<Parameters*>(arguments[Indices])...);
}

// Launches a kernel on pointers to its arguments, as cuLaunchKernel does, and waits for it. Returns what went wrong, a
// text that lasts until the next launch, or null.
template <typename... Parameters>
const char* launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, void** arguments, Order order = FORWARD,
                   unsigned seed = 0) {
  auto thread = [=] { call(kernel, arguments, std::index_sequence_for<Parameters...>{}); };
  auto body = [](void* context) { (*static_cast<decltype(thread)*>(context))(); };
  return run(reinterpret_cast<const void*>(kernel), grid, block, body, &thread, order, seed);
}

// The size of each of a kernel's parameters, then a 0.
template <typename... Parameters>
const int* parameter_sizes(void (*)(Parameters...)) {
  static const int sizes[] = {int(sizeof(Parameters))..., 0};
  return sizes;
}

}  // namespace emulator

inline void __syncthreads(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  emulator::wait_for_block({file, line});
}

template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int lane_mask, int width = 32, const char* file = __builtin_FILE(),
                  int line = __builtin_LINE()) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8, "a shuffle exchanges values of 4 or 8 bytes");
  std::uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof value);
  bits = emulator::exchange(mask, bits, lane_mask, width, {file, line});
  std::memcpy(&value, &bits, sizeof value);
  return value;
}
