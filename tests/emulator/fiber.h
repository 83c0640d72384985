// A fiber: a stack of its own and the place to go on from. The sanitizers are told of every switch.
#pragma once
#include <cstddef>

namespace emulator {

class Fiber {
 public:
  Fiber();                 // the code that is running now
  Fiber(void (*entry)());  // on a new stack; `entry` never returns
  ~Fiber();
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;

  // Suspends the running code, to go on when `current` is resumed, and goes on in this fiber.
  void resume_from(Fiber& current);

 private:
  void arrived();
  static void begin();

  void (*entry)() = nullptr;
  void* mapping = nullptr;       // the memory of its stack, where it is this object's
  void* place = nullptr;         // its stack pointer, or its ucontext_t
  const void* bottom = nullptr;  // of its stack, and the size: for AddressSanitizer
  std::size_t size = 0;
  void* fake_stack = nullptr;    // AddressSanitizer's
  void* clock = nullptr;         // ThreadSanitizer's
};

// Whether ThreadSanitizer watches this program.
extern const bool races_are_watched;

// For ThreadSanitizer: what came before a release of a tag happened before what follows an acquire of it.
void release(void* tag);
void acquire(void* tag);

}  // namespace emulator
