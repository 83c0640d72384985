// The scheduler: gives the threads of a block their turns, and reports what would hang or be undefined on a device.
//
// Compiled without sanitizers: they watch the kernels, and are told here what a barrier orders. A shuffle orders no
// memory, on a device or here.
#include "emulator.h"

#include <algorithm>
#include <cstdio>
#include <deque>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "fiber.h"
#ifdef __linux__
#include <link.h>
extern "C" void* __tls_get_addr(std::size_t* module_and_offset);
#endif

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

namespace emulator {
namespace {

constexpr unsigned WARP = 32;

struct Thread {
  enum State { READY, AT_BARRIER, AT_SHUFFLE, ENDED };

  uint3 index;
  State state;
  Fiber* fiber;         // null until its first turn
  Site site;            // where it waits
  unsigned mask;        // of the shuffle it waits at
  unsigned source;      // the lane it reads there
  std::uint64_t value;  // what it gives to the shuffle, and then what it gets
};

// The launch at hand.
void (*body)(void*);
void* context;
std::string error;

// The block at hand.
std::vector<Thread> threads;
std::vector<unsigned> sequence;  // the numbers of all, in the order of their turns
std::vector<unsigned> turns;     // of those that may go on in this round
std::size_t turn;                // the next of them
unsigned ended, at_barrier, barriers;
char* tags;  // what orders its threads: its start, and in turn its barriers, for a thread may come to the next barrier
             // before another has left this one
Thread* current;
Fiber* scheduler;

// Stacks outlive the threads that run on them, one after another.
std::vector<std::unique_ptr<Fiber>> fibers;
std::deque<Fiber*> idle;
std::size_t taken;  // in this launch

// To ThreadSanitizer a fiber is one thread, so each thread of a launch has its own, as far as its memory goes. After
// that a block gets those of the blocks longest past, and its races with just these are missed.
constexpr std::size_t MOST_WATCHED = 2048;

char end_tag;  // what all threads did happened before what follows the launch

std::string at(Site site) { return std::string(" at ") + site.file + ":" + std::to_string(site.line); }

template <typename Triple>
std::string name(const Triple& index) {
  return "(" + std::to_string(index.x) + "," + std::to_string(index.y) + "," + std::to_string(index.z) + ")";
}

std::string name(unsigned mask) {
  char text[16];
  std::snprintf(text, sizeof text, "0x%08x", mask);
  return text;
}

bool same(Site a, Site b) { return a.line == b.line && (a.file == b.file || std::strcmp(a.file, b.file) == 0); }

unsigned number_of(const Thread& thread) { return unsigned(&thread - threads.data()); }

void wait() {
  release(&end_tag);  // it may wait for ever
  scheduler->resume_from(*current->fiber);
}

[[noreturn]] void fail(const std::string& what) {
  error = what;
  wait();
  __builtin_unreachable();
}

void start_turn() {
  current = &threads[turns[turn++]];
  threadIdx = current->index;
}

// What a fiber does: it runs a thread to its end, then the next in turn if that one has no fiber yet (two switches
// less), else it is idle until the scheduler gives it another.
void live() {
  for (;;) {
    acquire(&tags[0]);
    body(context);
    release(&end_tag);
    ++ended;
    current->state = Thread::ENDED;
    Fiber* own = current->fiber;
    if (turn < turns.size() && !threads[turns[turn]].fiber && !races_are_watched) {
      start_turn();
      current->fiber = own;
    } else {
      if (!races_are_watched) idle.push_back(own);
      scheduler->resume_from(*own);
    }
  }
}

Fiber* take_fiber() {
  bool reusable = !races_are_watched || taken < fibers.size() || fibers.size() >= MOST_WATCHED;
  ++taken;
  if (idle.empty() || !reusable) {
    fibers.push_back(std::make_unique<Fiber>(live));
    return fibers.back().get();
  }
  Fiber* fiber = races_are_watched ? idle.front() : idle.back();
  races_are_watched ? idle.pop_front() : idle.pop_back();
  return fiber;
}

void arrange(std::vector<unsigned>& numbers, Order order, std::mt19937& random) {
  std::iota(numbers.begin(), numbers.end(), 0);
  if (order == REVERSE) std::reverse(numbers.begin(), numbers.end());
  if (order == RANDOM) std::shuffle(numbers.begin(), numbers.end(), random);
}

// The lanes that a thread's shuffle names and that are not there.
unsigned missing_lanes(const Thread& thread) {
  unsigned missing = 0, first = number_of(thread) / WARP * WARP;
  for (unsigned lane = 0; lane < WARP; ++lane) {
    if (!(thread.mask >> lane & 1)) continue;
    bool here = first + lane < threads.size();
    if (here) {
      const Thread& other = threads[first + lane];
      here = other.state == Thread::AT_SHUFFLE && other.mask == thread.mask && same(other.site, thread.site);
    }
    if (!here) missing |= 1u << lane;
  }
  return missing;
}

std::string condition(const Thread& thread) {
  if (thread.state == Thread::ENDED) return "has ended";
  if (thread.state == Thread::AT_BARRIER) return "waits for the block in __syncthreads" + at(thread.site);
  std::string lanes;
  for (unsigned missing = missing_lanes(thread); missing; missing &= missing - 1)
    lanes += (lanes.empty() ? "" : ", ") + std::to_string(__builtin_ctz(missing));
  return "waits for lane " + lanes + " in __shfl_xor_sync with mask " + name(thread.mask) + at(thread.site);
}

// What each thread waits for, those alike told once.
std::string deadlock() {
  struct Group {
    std::string condition;
    const Thread* first;
    unsigned others;
  };
  std::vector<Group> groups;
  for (const Thread& thread : threads) {
    std::string what = condition(thread);
    auto known = std::find_if(groups.begin(), groups.end(), [&](Group& group) { return group.condition == what; });
    if (known == groups.end())
      groups.push_back({what, &thread, 0});
    else
      ++known->others;
  }
  std::string text = "deadlock in block " + name(blockIdx);
  const char* separator = ": ";
  for (const Group& group : groups) {
    text += separator + ("thread " + name(group.first->index));
    if (group.others) text += " and " + std::to_string(group.others) + " more, each";
    text += " " + group.condition;
    separator = "; ";
  }
  return text;
}

// Each shared variable begins as NaNs, as on a device it begins as anything. The module that a kernel is in has no
// thread-local variables other than those of __shared__; under AddressSanitizer it has not even these.
struct SharedMemory {
  std::size_t kernel;        // an address in the module
  std::size_t module, size;  // the number of the module, the size of its thread-local variables
};
SharedMemory shared;

#ifdef __linux__
int find(dl_phdr_info* info, std::size_t, void*) {
  bool holds_kernel = false;
  std::size_t size = 0;
  for (int i = 0; i < info->dlpi_phnum; ++i) {
    const ElfW(Phdr)& part = info->dlpi_phdr[i];
    if (part.p_type == PT_LOAD) holds_kernel |= shared.kernel - (info->dlpi_addr + part.p_vaddr) < part.p_memsz;
    if (part.p_type == PT_TLS) size = part.p_memsz;
  }
  if (holds_kernel) shared = {shared.kernel, info->dlpi_tls_modid, size};
  return holds_kernel;
}

void find_shared_memory(const void* kernel) {
  shared = {reinterpret_cast<std::size_t>(kernel), 0, 0};
  dl_iterate_phdr(find, nullptr);
}

void spoil_shared_memory() {
  std::size_t start[2] = {shared.module, 0};
  if (shared.size) std::memset(__tls_get_addr(start), 0xff, shared.size);
}
#else
void find_shared_memory(const void*) {}
void spoil_shared_memory() {}
#endif

void run_block(Order order, std::mt19937& random) {
  Fiber own;
  scheduler = &own;
  auto own_tags = std::make_unique<char[]>(3);
  tags = own_tags.get();
  spoil_shared_memory();
  threads.clear();
  for (unsigned z = 0; z < blockDim.z; ++z)
    for (unsigned y = 0; y < blockDim.y; ++y)
      for (unsigned x = 0; x < blockDim.x; ++x) threads.push_back({{x, y, z}, Thread::READY, nullptr, {}, 0, 0, 0});
  sequence.resize(threads.size());
  ended = at_barrier = barriers = 0;
  release(&tags[0]);
  do {
    arrange(sequence, order, random);
    turns.clear();
    turn = 0;
    for (unsigned number : sequence)
      if (threads[number].state == Thread::READY) turns.push_back(number);
    while (turn < turns.size() && error.empty()) {
      start_turn();
      if (!current->fiber) current->fiber = take_fiber();
      current->fiber->resume_from(own);
    }
  } while (!turns.empty() && error.empty());
  if (error.empty() && ended < threads.size()) error = deadlock();
  if (races_are_watched)
    for (Thread& thread : threads) idle.push_back(thread.fiber);
}

bool within_limits(dim3 grid, dim3 block) {
  unsigned long long volume = 1ull * block.x * block.y;
  bool block_fits = block.x <= 1024 && block.y <= 1024 && block.z <= 64 && volume * block.z <= 1024;
  bool grid_fits = grid.x <= 0x7fffffff && grid.y <= 0xffff && grid.z <= 0xffff;
  bool all_positive = block.x && block.y && block.z && grid.x && grid.y && grid.z;
  return block_fits && grid_fits && all_positive;
}

}  // namespace

void wait_for_block(Site site) {
  current->site = site;
  current->state = Thread::AT_BARRIER;
  void* tag = &tags[1 + barriers % 2];
  release(tag);
  if (++at_barrier == threads.size()) {
    for (Thread& thread : threads)
      if (!same(thread.site, site))
        fail("divergent __syncthreads in block " + name(blockIdx) + ": thread " + name(thread.index) + " waits" +
             at(thread.site) + ", thread " + name(current->index) + at(site));
    at_barrier = 0;
    ++barriers;
    for (Thread& thread : threads) thread.state = Thread::READY;
  }
  wait();
  acquire(tag);
}

std::uint64_t exchange(unsigned mask, std::uint64_t value, int lane_mask, int width, Site site) {
  Thread& self = *current;
  Thread* warp = &threads[number_of(self) / WARP * WARP];
  unsigned lane = unsigned(&self - warp);
  auto refuse = [&](const std::string& why) {
    fail("__shfl_xor_sync" + at(site) + ", thread " + name(self.index) + " of block " + name(blockIdx) + ": " + why);
  };
  auto named = [&](unsigned other) { return mask >> other & 1; };
  if (width < 1 || width > int(WARP) || width & (width - 1))
    refuse("the width must be 1, 2, 4, 8, 16 or 32, not " + std::to_string(width));
  if (lane_mask < 0 || lane_mask >= int(WARP))
    refuse("the lane mask must be from 0 to 31, not " + std::to_string(lane_mask));
  unsigned source = lane ^ unsigned(lane_mask);
  if (source > (lane | unsigned(width - 1))) source = lane;  // a lane does not read beyond its group
  for (unsigned needed : {lane, source})
    if (!named(needed))
      refuse("it needs lane " + std::to_string(needed) + ", which its mask " + name(mask) + " leaves out");
  self.site = site;
  self.mask = mask;
  self.source = source;
  self.value = value;
  self.state = Thread::AT_SHUFFLE;
  if (!missing_lanes(self)) {  // the last to come hands the values over
    std::uint64_t received[WARP];
    for (unsigned i = 0; i < WARP; ++i)
      if (named(i)) received[i] = warp[warp[i].source].value;
    for (unsigned i = 0; i < WARP; ++i) {
      if (!named(i)) continue;
      warp[i].value = received[i];
      warp[i].state = Thread::READY;
    }
  }
  wait();
  return self.value;
}

const char* run(const void* kernel, dim3 grid, dim3 block, void (*thread_body)(void*), void* thread_context,
                Order order, unsigned seed) {
  error.clear();
  gridDim = grid;
  blockDim = block;
  body = thread_body;
  context = thread_context;
  if (!within_limits(grid, block)) {
    error = "a grid of " + name(grid) + " blocks of " + name(block) + " threads is outside CUDA's limits";
    return error.c_str();
  }
  taken = 0;
  find_shared_memory(kernel);
  std::mt19937 random(seed);
  std::vector<unsigned> blocks(std::size_t(grid.x) * grid.y * grid.z);
  arrange(blocks, order, random);
  for (unsigned number : blocks) {
    blockIdx = {number % grid.x, number / grid.x % grid.y, number / grid.x / grid.y};
    // To ThreadSanitizer blocks are unordered, though they use the same memory; on a thread of its own each has new
    // shared variables.
    if (races_are_watched)
      std::thread([&] { run_block(order, random); }).join();
    else
      run_block(order, random);
    if (!error.empty()) break;
  }
  acquire(&end_tag);
  if (!error.empty()) {  // some of them wait for ever
    idle.clear();
    fibers.clear();
  }
  return error.empty() ? nullptr : error.c_str();
}

}  // namespace emulator
