// Switching between fibers: a few instructions on x86-64, ucontext elsewhere. Compiled without sanitizers.
#include "fiber.h"

#include <sys/mman.h>
#include <unistd.h>

#include <new>

extern "C" {
// Present in a program that a sanitizer watches.
__attribute__((weak)) void __sanitizer_start_switch_fiber(void** fake_stack, const void* bottom, std::size_t size);
__attribute__((weak)) void __sanitizer_finish_switch_fiber(void* fake_stack, const void** bottom, std::size_t* size);
__attribute__((weak)) void* __tsan_get_current_fiber();
__attribute__((weak)) void* __tsan_create_fiber(unsigned flags);
__attribute__((weak)) void __tsan_destroy_fiber(void* fiber);
__attribute__((weak)) void __tsan_switch_to_fiber(void* fiber, unsigned flags);
__attribute__((weak)) void __tsan_acquire(void* tag);
__attribute__((weak)) void __tsan_release(void* tag);
}

namespace {

constexpr std::size_t STACK = 256 << 10;       // reserved; only what is touched takes memory
constexpr std::size_t LINE = 64, LINES = 256;  // stacks begin on different lines of the cache, not all in one set
constexpr unsigned ORDERS_NOTHING = 1;         // a switch: only what orders the threads of a GPU does

#if defined(__x86_64__) && !defined(EMULATOR_UCONTEXT)

// Saves the registers that a called function must keep, changes stacks and restores the others'. It jumps where it
// might return, because the processor would predict a return to the caller.
extern "C" void emulator_switch(void** saved_place, void* place);
asm(R"(
.text
.globl emulator_switch
.hidden emulator_switch
.type emulator_switch, @function
emulator_switch:
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
  popq %rcx
  jmpq *%rcx
.size emulator_switch, .-emulator_switch
)");

void* first_place(char* stack, std::size_t size, void (*begin)()) {
  void** top = reinterpret_cast<void**>(stack + size);
  top[-1] = nullptr;  // the return address of `begin`: the end of a backtrace
  top[-2] = reinterpret_cast<void*>(begin);
  return top - 8;  // below it six registers, all zero in a new mapping
}

void* running_place() { return nullptr; }  // known once it is left
void forget(void*) {}
void switch_places(void*& from, void* to) { emulator_switch(&from, to); }

#else
}  // namespace
#include <ucontext.h>
namespace {

void* running_place() { return new ucontext_t; }

void* first_place(char* stack, std::size_t size, void (*begin)()) {
  ucontext_t* place = new ucontext_t;
  getcontext(place);
  place->uc_stack.ss_sp = stack;
  place->uc_stack.ss_size = size;
  place->uc_link = nullptr;
  makecontext(place, begin, 0);
  return place;
}

void forget(void* place) { delete static_cast<ucontext_t*>(place); }
void switch_places(void*& from, void* to) { swapcontext(static_cast<ucontext_t*>(from), static_cast<ucontext_t*>(to)); }

#endif

emulator::Fiber* left;     // by the last switch
emulator::Fiber* running;  // since the last switch

}  // namespace

namespace emulator {

const bool races_are_watched = __tsan_switch_to_fiber != nullptr;

Fiber::Fiber() : place(running_place()) {
  if (races_are_watched) clock = __tsan_get_current_fiber();
}

Fiber::Fiber(void (*entry)()) : entry(entry), size(STACK) {
  mapping = mmap(nullptr, STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (mapping == MAP_FAILED) throw std::bad_alloc();
  mprotect(mapping, sysconf(_SC_PAGESIZE), PROT_NONE);  // an overflow stops the program at once
  static std::size_t made = 0;
  size -= LINE * (made++ % LINES);
  bottom = mapping;
  place = first_place(static_cast<char*>(mapping), size, begin);
  if (races_are_watched) clock = __tsan_create_fiber(0);
}

Fiber::~Fiber() {
  forget(place);
  if (!mapping) return;
  if (races_are_watched) __tsan_destroy_fiber(clock);
  munmap(mapping, STACK);
}

void Fiber::resume_from(Fiber& current) {
  left = &current;
  running = this;
  if (__sanitizer_start_switch_fiber) __sanitizer_start_switch_fiber(&current.fake_stack, bottom, size);
  if (races_are_watched) __tsan_switch_to_fiber(clock, ORDERS_NOTHING);
  switch_places(current.place, place);
  current.arrived();
}

// The bounds of a thread's own stack are known to AddressSanitizer alone, and only once it is left.
void Fiber::arrived() {
  if (__sanitizer_finish_switch_fiber) __sanitizer_finish_switch_fiber(fake_stack, &left->bottom, &left->size);
}

void Fiber::begin() {
  running->arrived();
  running->entry();
}

void release(void* tag) {
  if (races_are_watched) __tsan_release(tag);
}

void acquire(void* tag) {
  if (races_are_watched) __tsan_acquire(tag);
}

}  // namespace emulator
