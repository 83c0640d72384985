// Plays thousands of tapes by kernels/tape.cpp, which stands above this text, and holds every part of every operation against what it
// must have read and written. Arguments: the threads of each play, the plays, how many players there are at once, and whether to fork.
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <random>
#include <thread>
#include <vector>

// A stand-in for OpenBLAS's number of threads; no two may set it at once.
static int openblas = 8;
static int get_openblas() { return openblas; }
static void set_openblas(int threads) { openblas = threads; }

static void fail(const char* what) {
  std::fprintf(stderr, "wrong: %s\n", what);
  std::_Exit(1);
}

// A part adds up a part of what the operation before wrote, in another order of rows: it must have been written whole. The last word is
// how often each part has been done.
static void add(const Word* words, Size top, Size bottom, Size width, Size part) {
  const auto* from = static_cast<const Size*>(words[0].at);
  auto *to = static_cast<Size*>(words[1].at), *times = static_cast<Size*>(words[3].at);
  const Size rows = words[2].size;
  if (openblas != 1) fail("OpenBLAS has more than one thread while a part is done");
  for (Size row = top; row < bottom; ++row)
    for (Size i = 0; i < width; ++i) to[row * width + i] = from[(rows - 1 - row) * width + i] + row;
  ++times[part];
}

struct Tape {
  std::vector<Operation> operations;
  std::vector<std::vector<Size>> arrays, times;
  std::vector<Word> words;
  Tape(std::mt19937& random) {
    const Size rows = 1 + random() % 300, width = 1 + random() % 9, count = 1 + random() % 6;
    arrays.assign(count + 1, std::vector<Size>(rows * width));
    words.resize(4 * count);
    for (Size i = 0; i < count; ++i) {
      const Size parts = 1 + random() % 100, grain = (rows + parts - 1) / parts;
      operations.push_back({add, &words[4 * i], rows, width, grain, random() % 8 != 0});
      times.emplace_back(operations[i].parts());
    }
    for (Size i = 0; i < count; ++i) {
      words[4 * i].at = arrays[i].data();
      words[4 * i + 1].at = arrays[i + 1].data();
      words[4 * i + 2].size = rows;
      words[4 * i + 3].at = times[i].data();
    }
  }
  void play(int threads, std::mt19937& random) {
    for (Size& number : arrays[0]) number = random() % 1000;
    gpubp_play(operations.data(), Size(operations.size()), words.data(), nullptr, 0, nullptr, threads);
    for (Size i = 0; i < Size(operations.size()); ++i) {
      const Size rows = operations[i].rows, width = operations[i].width;
      for (Size row = 0; row < rows; ++row)
        for (Size j = 0; j < width; ++j)
          if (arrays[i + 1][row * width + j] != arrays[i][(rows - 1 - row) * width + j] + row) fail("a part read what was not yet written");
      for (Size& count : times[i])
        if (count != 1) fail("a part was not done once");
        else count = 0;
    }
  }
};

static void plays(int threads, int count, unsigned seed) {
  std::mt19937 random(seed);
  for (int i = 0; i < count; ++i) {
    Tape tape(random);
    for (int again = random() % 4; again >= 0; --again) tape.play(threads, random);
    if (random() % 16 == 0) usleep(random() % 400);  // and the threads may fall asleep
  }
}

static void players(int threads, int count, int at_once) {
  std::vector<std::thread> others;
  for (int player = 1; player < at_once; ++player) others.emplace_back(plays, threads, count, player);
  plays(threads, count, 0);
  for (auto& other : others) other.join();
  if (openblas != 8) fail("OpenBLAS has another number of threads");
}

int main(int, char** arguments) {
  const int threads = std::atoi(arguments[1]), count = std::atoi(arguments[2]), at_once = std::atoi(arguments[3]);
  gpubp_begin(reinterpret_cast<void*>(get_openblas), reinterpret_cast<void*>(set_openblas));
  if (*arguments[4] != '1') {
    players(threads, count, at_once);
    return 0;
  }
  std::thread other(players, threads, count, at_once);
  for (int i = 0; i < 50; ++i) {
    const int child = fork();
    if (!child) {
      alarm(30);
      if (openblas != 8) fail("a child was left with OpenBLAS's number of the moment");
      plays(threads, 20, 1000 + i);
      std::_Exit(openblas == 8 ? 0 : 1);
    }
    int status = 1;
    waitpid(child, &status, 0);
    if (status) fail("a child did not end well");
    usleep(300);
  }
  other.join();
}
