// A tape: kernels and matrix products in the order in which they were recorded, played by a pool of threads.
//
// Every operation was cut into parts when it was recorded; the threads take parts until none is left, and the next operation begins
// when all are done. A thread that waits spins for a while and then sleeps. Products are parts too, each a product that OpenBLAS computes on
// the thread that asks: its own threads stay asleep, so that two pools do not fight for the cores.
#include <pthread.h>
#include <sched.h>
#include <time.h>

#include <atomic>
#include <condition_variable>
#include <mutex>

#include "host.hpp"

namespace {

struct Operation {
  void (*run)(const Word* words, Size top, Size bottom, Size width, Size part);
  const Word* words;
  Size rows, width, grain;  // a part is `grain` rows
  Size shared;              // whether it is worth more than one thread

  Size parts() const { return (rows + grain - 1) / grain; }
  void part(Size i) const {
    const Size top = i * grain;
    run(words, top, smaller(top + grain, rows), width, i);
  }
};

// -- the threads ----------------------------------------------------------------------------------------------------------------

constexpr int MOST_THREADS = 256;
constexpr long SPIN = 200000;    // nanoseconds: longer than the Python between two steps of a training
constexpr long WINDOW = 20000000;  // of playing, after which it is asked whether more than one thread paid
constexpr long ALONE = 5000000, MOST_ALONE = 256 * ALONE;  // for how long it is then done without, twice as long each time in a row

inline void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

long now() {
  timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return time.tv_sec * 1000000000L + time.tv_nsec;
}

// What there is to take: a generation, which tells operations apart, its number of parts and the next part.
struct Ticket {
  unsigned generation;
  unsigned short parts, next;
};

struct Pool {
  std::mutex in_use;
  int threads = 1;  // with the one that plays the tape
  std::atomic<int> allowed{1};
  long worked = 0, waited = 0, alone = ALONE, alone_until = 0;
  alignas(64) std::atomic<Ticket> ticket{Ticket{0, 0, 0}};
  std::atomic<const Operation*> operation{nullptr};
  alignas(64) std::atomic<int> done{0};
  std::atomic<int> player_core{-1};
  alignas(64) std::atomic<int> asleep{0};
  pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
  pthread_cond_t woken = PTHREAD_COND_INITIALIZER;

  // Take parts of this generation until there are none. The operation read belongs to the ticket that the exchange confirms.
  void take_parts(unsigned generation) {
    for (Ticket seen = ticket.load();;) {
      if (seen.generation != generation || seen.next >= seen.parts) return;
      const Operation* here = operation.load();
      if (!ticket.compare_exchange_weak(seen, Ticket{generation, seen.parts, static_cast<unsigned short>(seen.next + 1)})) continue;
      here->part(seen.next);
      done.fetch_add(1);
      seen = ticket.load();
    }
  }

  void play(const Operation& next) {
    const Size parts = next.parts();
    done.store(0);
    operation.store(&next);
    const unsigned generation = ticket.load().generation + 1;
    ticket.store(Ticket{generation, static_cast<unsigned short>(parts), 0});
    if (asleep.load() > 0) {
      pthread_mutex_lock(&mutex);
      pthread_cond_broadcast(&woken);
      pthread_mutex_unlock(&mutex);
    }
#if defined(__linux__)
    player_core.store(sched_getcpu());
#endif
    const long begun = now();
    take_parts(generation);
    const long own = now();
    for (int turns = 1; done.load() != parts; ++turns) turns % 64 ? pause() : (void)sched_yield();
    judge(own - begun, now() - own);
  }

  // The system may wake a thread on the very core where the player spins, and take its time to see that another is idle.
  void leave_the_player_alone() const {
#if defined(__linux__)
    const int core = player_core.load();
    if (sched_getcpu() != core) return;
    cpu_set_t all, others;
    if (sched_getaffinity(0, sizeof all, &all)) return;
    others = all;
    CPU_CLR(core, &others);
    if (CPU_COUNT(&others) && !sched_setaffinity(0, sizeof others, &others)) sched_setaffinity(0, sizeof all, &all);
#endif
  }

  // Others may want the cores: a thread that the system has set aside in the middle of a part keeps everyone waiting for
  // milliseconds. Alone the player would have worked `allowed` times as long, and waited for nobody.
  void judge(long working, long waiting) {
    worked += working, waited += waiting;
    if (worked + waited < WINDOW) return;
    if (waited > (allowed - 1) * worked) {
      const long time = now();
      alone = time < alone_until + 4 * WINDOW ? smaller(2 * alone, MOST_ALONE) : ALONE;
      alone_until = time + alone;
    }
    worked = waited = 0;
  }

  unsigned awaited(unsigned seen) {
    long until = 0;
    for (unsigned turns = 1;; ++turns) {
      if (const unsigned found = ticket.load().generation; found != seen) return found;
      pause();
      if (turns % 64) continue;
      const long time = now();
      if (!until) until = time + SPIN;
      if (time < until) continue;
      pthread_mutex_lock(&mutex);
      asleep.fetch_add(1);
      while (ticket.load().generation == seen) pthread_cond_wait(&woken, &mutex);
      asleep.fetch_sub(1);
      pthread_mutex_unlock(&mutex);
    }
  }

  static void* work(void* number);
  void grow(int wanted) {
    while (threads < wanted && threads < MOST_THREADS) {
      pthread_t thread;
      if (pthread_create(&thread, nullptr, work, reinterpret_cast<void*>(Size(threads)))) return;  // no more to be had: fewer do
      pthread_detach(thread);
      ++threads;
    }
  }
};

// Never destroyed: threads may wait on it while the process ends. A child of fork has none of them, and begins anew.
alignas(64) char memory[sizeof(Pool)];
Pool* pool = new (memory) Pool;

void* Pool::work(void* number) {
  const Size mine = reinterpret_cast<Size>(number);
  for (unsigned seen = 0;;) {
    seen = pool->awaited(seen);
    if (mine >= pool->allowed) continue;
    pool->leave_the_player_alone();
    pool->take_parts(seen);
  }
}

// -- OpenBLAS -------------------------------------------------------------------------------------------------------------------

using GetThreads = int (*)();
using SetThreads = void (*)(int);
GetThreads get_threads;
SetThreads set_threads;
int holders, threads_before;
bool forking;
std::mutex holding;
std::condition_variable changed;

// While anyone plays a tape, OpenBLAS has one thread; then it has as many as before, if nobody else has set them meanwhile.
struct Hold {
  int threads = MOST_THREADS;
  Hold() {
    std::unique_lock<std::mutex> lock(holding);
    changed.wait(lock, [] { return !forking; });
    if (holders++ == 0 && get_threads && (threads_before = get_threads()) != 1) set_threads(1);
    if (get_threads) threads = threads_before;
  }
  ~Hold() {
    const std::lock_guard<std::mutex> lock(holding);
    if (--holders) return;
    if (get_threads && threads_before != 1 && get_threads() == 1) set_threads(threads_before);  // unless someone else has set it
    if (forking) changed.notify_all();
  }
};

// A fork waits until nobody plays, and plays wait until it is done: a child has none of the threads, but all of the locks and counts
// as they were at that moment, OpenBLAS's too.
void before_fork() {
  std::unique_lock<std::mutex> lock(holding);
  changed.wait(lock, [] { return !forking; });
  forking = true;
  changed.wait(lock, [] { return holders == 0; });
}

void after_fork() {
  const std::lock_guard<std::mutex> lock(holding);
  forking = false;
  changed.notify_all();
}

void in_the_child() {
  new (&holding) std::mutex;
  new (&changed) std::condition_variable;
  forking = false;
  new (memory) Pool;
}

static_assert(sizeof(void*) == 8 && sizeof(Operation) == 48, "Python passes operations as rows of six 64-bit integers");

template <typename Int, typename T>
using Gemv = void (*)(int, int, Int, Int, T, const T*, Int, const T*, Int, T, T*, Int);
template <typename Int, typename T>
using Gemm = void (*)(int, int, int, Int, Int, Int, T, const T*, Int, const T*, Int, T, T*, Int);

// out = alpha a b + beta out, row by row; a grid of `down` by `across` parts, the edges of each a multiple of 16.
template <typename Int, typename T>
void product(const Word* words, Size, Size, Size, Size part) {
  const auto gemm = reinterpret_cast<Gemm<Int, T>>(words[0].at);
  const auto *a = static_cast<const T*>(words[1].at), *b = static_cast<const T*>(words[2].at);
  auto* out = static_cast<T*>(words[3].at);
  T alpha, beta;
  read(words[4], alpha);
  read(words[5], beta);
  const bool a_flipped = words[6].size, b_flipped = words[7].size;
  const Size m = words[8].size, n = words[9].size, k = words[10].size, down = words[11].size, across = words[12].size;
  const auto edge = [](Size length, Size parts, Size i) { return smaller((length * i / parts + 8) / 16 * 16, length); };
  const Size i = part / across, j = part % across;
  const Size top = i ? edge(m, down, i) : 0, bottom = i + 1 < down ? edge(m, down, i + 1) : m;
  const Size left = j ? edge(n, across, j) : 0, right = j + 1 < across ? edge(n, across, j + 1) : n;
  if (top >= bottom || left >= right) return;
  const Size a_step = a_flipped ? m : k, b_step = b_flipped ? k : n, height = bottom - top, width = right - left;
  a += a_flipped ? top : top * a_step;
  b += b_flipped ? left * b_step : left;
  out += top * n + left;
  const auto gemv = reinterpret_cast<Gemv<Int, T>>(words[13].at);  // of a vector: up to five times as fast
  if (n == 1 && a_flipped)
    gemv(101, 112, k, height, alpha, a, a_step, b, 1, beta, out, 1);
  else if (n == 1)
    gemv(101, 111, height, k, alpha, a, a_step, b, 1, beta, out, 1);
  else if (m == 1 && b_flipped)
    gemv(101, 111, width, k, alpha, b, b_step, a, 1, beta, out, 1);
  else if (m == 1)
    gemv(101, 112, k, width, alpha, b, b_step, a, 1, beta, out, 1);
  else
    gemm(101, a_flipped ? 112 : 111, b_flipped ? 112 : 111, height, width, k, alpha, a, a_step, b, b_step, beta, out, n);
}

// -- operations that have no device function --------------------------------------------------------------------------------------

template <typename T>
void gather_each(const void* from, const Size* numbers, void* out, Size top, Size bottom) {
  for (Size i = top; i < bottom; ++i) static_cast<T*>(out)[i] = static_cast<const T*>(from)[numbers[i]];
}

// out[i] = from[numbers[i]], rows of so many bytes.
void gather(const Word* words, Size top, Size bottom, Size bytes, Size) {
  const auto* from = static_cast<const char*>(words[0].at);
  const auto* numbers = static_cast<const Size*>(words[1].at);
  auto* out = static_cast<char*>(words[2].at);
  if (bytes == 4) return gather_each<int>(from, numbers, out, top, bottom);
  if (bytes == 8) return gather_each<Size>(from, numbers, out, top, bottom);
  for (Size i = top; i < bottom; ++i) memcpy(out + i * bytes, from + numbers[i] * bytes, bytes);
}

template <typename T>
void one_hot(const Word* words, Size top, Size bottom, Size width, Size) {
  const auto* labels = static_cast<const Size*>(words[0].at);
  auto* out = static_cast<T*>(words[1].at);
  for (Size i = top; i < bottom; ++i)
    for (Size j = 0; j < width; ++j) out[i * width + j] = T(labels[i] == j);
}

// sums = the sums of so many rows, one after the other.
template <typename T>
void add_rows(const Word* words, Size, Size, Size width, Size) {
  const auto* from = static_cast<const T*>(words[0].at);
  auto* sums = static_cast<T*>(words[1].at);
  const Size rows = words[2].size;
  for (Size j = 0; j < width; ++j) sums[j] = from[j];
  for (Size i = 1; i < rows; ++i)
    for (Size j = 0; j < width; ++j) sums[j] += from[i * width + j];
}

}  // namespace

extern "C" {

void gpubp_begin(void* get, void* set) {
  get_threads = reinterpret_cast<GetThreads>(get);
  set_threads = reinterpret_cast<SetThreads>(set);
  static const int prepared = pthread_atfork(before_fork, after_fork, in_the_child);  // once, should two threads begin at once
  (void)prepared;
}

// Where the operations without a device function are, by number.
void* gpubp_operation(int number) {
  void (*const all[])(const Word*, Size, Size, Size, Size) = {
      product<int, float>, product<Size, float>, gather, one_hot<float>, add_rows<float>,
  };
  return reinterpret_cast<void*>(all[number]);
}

// Fill words from `values`, as `places` tell in threes: a word, a value, and at which byte of an object it is or, if 0, that it is
// the value itself. Then play the operations.
void gpubp_play(const Operation* operations, Size count, Word* words, const Size* places, Size threes, const Word* values, int most) {
  for (const Size* place = places; place != places + 3 * threes; place += 3) {
    const Word value = values[place[1]];
    if (place[2])
      memcpy(&words[place[0]], static_cast<const char*>(value.at) + place[2], sizeof value);
    else
      words[place[0]] = value;
  }
  const Hold hold;
  const int threads = hold.threads < most ? hold.threads : most;
  std::unique_lock<std::mutex> mine(pool->in_use, std::defer_lock);
  const bool shared = threads > 1 && mine.try_lock() && now() > pool->alone_until;
  if (shared) {
    pool->grow(threads);
    pool->allowed = threads;
  }
  for (const Operation* each = operations; each != operations + count; ++each) {
    const Size parts = each->parts();
    if (shared && each->shared && parts > 1 && parts < 65536)
      pool->play(*each);
    else
      for (Size i = 0; i < parts; ++i) each->part(i);
  }
}
}
