// SPDX-License-Identifier: Apache-2.0
// The module's calls: collectives made of point-to-point messages, because MPI's own all-reduce may change the order
// of its sums with the message size, and its own waits burn a core.
#include <mpi.h>
#include <sched.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "comm/mpi/progress.h"
#include "comm/mpi/table.h"
#include "comm/sum.h"

namespace sluice::mpi {
namespace {

constexpr int kCollectiveTag = 1, kMessageTag = 2;
// Up to so many bytes sent per rank an all-reduce takes one round; beyond, two rounds of slices.
constexpr size_t kOneRound = 128 << 10;

// Never destroyed: a process may end without MPI_Finalize, with calls under way.
Progress& progress = *new Progress;
std::string& failure = *new std::string;

struct Group {
  int comm = 0;  // of progress
  int rank = 0, size = 1;
  std::vector<float> scratch;
  std::vector<const float*> parts;
};
std::vector<Group*>& groups = *new std::vector<Group*>;

// Remembers what failed; returns whether it did.
bool failed(int rc, const char* what) {
  if (rc == MPI_SUCCESS) return false;
  char text[MPI_MAX_ERROR_STRING] = {};
  int length = 0;
  MPI_Error_string(rc, text, &length);
  failure = std::string(what) + ": " + text;
  return true;
}

int affinity(cpu_set_t& mask) {
  CPU_ZERO(&mask);
  if (sched_getaffinity(0, sizeof mask, &mask) != 0)
    for (long i = 0; i < std::min<long>(sysconf(_SC_NPROCESSORS_ONLN), CPU_SETSIZE); ++i) CPU_SET(i, &mask);
  return CPU_COUNT(&mask);
}

// Whether the ranks of this host have a CPU each, by the union of their affinity masks.
bool enough_cpus(MPI_Comm world) {
  MPI_Comm host;
  if (MPI_Comm_split_type(world, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &host) != MPI_SUCCESS) return false;
  int ranks = 1;
  MPI_Comm_size(host, &ranks);
  cpu_set_t mine, all;
  affinity(mine);
  static_assert(sizeof(cpu_set_t) % sizeof(unsigned long) == 0);
  MPI_Allreduce(&mine, &all, sizeof(cpu_set_t) / sizeof(unsigned long), MPI_UNSIGNED_LONG, MPI_BOR, host);
  MPI_Comm_free(&host);
  return CPU_COUNT(&all) >= ranks;
}

const char* library() {
  static char text[MPI_MAX_LIBRARY_VERSION_STRING];
  int length = 0;
  MPI_Get_library_version(text, &length);
  return text;
}

int init(int* rank, int* size) {
  // Open MPI's own waits (start, end) yield where ranks share CPUs; ours do in any case.
  cpu_set_t mask;
  const char* local = std::getenv("OMPI_COMM_WORLD_LOCAL_SIZE");
  if (local != nullptr && std::atoi(local) > affinity(mask)) setenv("OMPI_MCA_mpi_yield_when_idle", "1", 0);
  int provided = 0;
  if (failed(MPI_Init_thread(nullptr, nullptr, MPI_THREAD_SERIALIZED, &provided), "MPI_Init_thread")) return 1;
  if (provided < MPI_THREAD_SERIALIZED) {
    failure = std::string("this MPI library offers no MPI_THREAD_SERIALIZED: ") + library();
    return 1;
  }
  MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
  MPI_Comm_rank(MPI_COMM_WORLD, rank);
  MPI_Comm_size(MPI_COMM_WORLD, size);
  prctl(PR_SET_TIMERSLACK, 1000ul, 0, 0, 0);  // 1 us: short sleeps of this thread end when they should
  progress.start(enough_cpus(MPI_COMM_WORLD));
  return 0;
}

int make_group(const int* ranks, int n, void** out) {
  Progress::Turn turn(progress);
  int rank = 0;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  auto* group = new Group;
  group->rank = static_cast<int>(std::find(ranks, ranks + n, rank) - ranks);
  group->size = n;
  if (failed(progress.join(ranks, n, group->comm), "MPI_Comm_create_group")) return 1;
  groups.push_back(group);
  *out = group;
  return 0;
}

// Everyone sends out(q) to q and receives in(q) from q; both return {address, bytes}.
struct Span {
  void* data;
  size_t bytes;
};
template <class Out, class In>
bool exchange(Group& g, const char* what, Out out, In in) {
  for (int i = 1; i < g.size; ++i) {
    const int from = (g.rank + g.size - i) % g.size;
    const Span to = in(from);
    if (failed(progress.begin_recv(g.comm, to.data, to.bytes, from, kCollectiveTag), what)) return false;
  }
  for (int i = 1; i < g.size; ++i) {
    const int to = (g.rank + i) % g.size;
    const Span from = out(to);
    if (failed(progress.begin_send(g.comm, from.data, from.bytes, to, kCollectiveTag), what)) return false;
  }
  return !failed(progress.wait(), what);
}

// data[0, n) of this rank += the others', in rank order. The others' parts lie in scratch, `n` floats each, by rank.
void sum(Group& g, float* data, size_t n) {
  g.parts.clear();
  for (int r = 0; r < g.size; ++r)
    g.parts.push_back(r == g.rank ? data : g.scratch.data() + static_cast<size_t>(r < g.rank ? r : r - 1) * n);
  sum_in_rank_order(data, g.parts, n);
}

int all_reduce(void* group, float* data, size_t n) {
  Group& g = *static_cast<Group*>(group);
  Progress::Turn turn(progress);
  const auto size = static_cast<size_t>(g.size), rank = static_cast<size_t>(g.rank);
  if (n == 0) return 0;
  const bool one_round = n * sizeof(float) * (size - 1) <= kOneRound;
  const auto begin = [&](size_t r) { return one_round ? 0 : n * r / size; };
  const auto length = [&](size_t r) { return one_round ? n : n * (r + 1) / size - n * r / size; };
  const size_t mine = length(rank);
  if (g.scratch.size() < mine * (size - 1)) g.scratch.resize(mine * (size - 1));
  const bool ok = exchange(
      g, "all_reduce",
      [&](int q) {
        const auto r = static_cast<size_t>(q);
        return Span{data + begin(r), length(r) * sizeof(float)};
      },
      [&](int q) {
        const auto r = static_cast<size_t>(q);
        return Span{g.scratch.data() + (r < rank ? r : r - 1) * mine, mine * sizeof(float)};
      });
  if (!ok) return 1;
  sum(g, data + begin(rank), mine);
  if (one_round) return 0;
  return exchange(
             g, "all_reduce",
             [&](int) {
               return Span{data + begin(rank), mine * sizeof(float)};
             },
             [&](int q) {
               const auto r = static_cast<size_t>(q);
               return Span{data + begin(r), length(r) * sizeof(float)};
             })
             ? 0
             : 1;
}

int all_gather(void* group, void* out, const void* in, size_t bytes) {
  Group& g = *static_cast<Group*>(group);
  Progress::Turn turn(progress);
  char* const base = static_cast<char*>(out);
  const auto at = [&](int r) { return base + static_cast<size_t>(r) * bytes; };
  if (bytes > 0 && at(g.rank) != in) std::memmove(at(g.rank), in, bytes);
  return exchange(
             g, "all_gather",
             [&](int) {
               return Span{at(g.rank), bytes};
             },
             [&](int q) {
               return Span{at(q), bytes};
             })
             ? 0
             : 1;
}

// Down a binomial tree rooted at `root`.
int broadcast(void* group, void* data, size_t bytes, int root) {
  Group& g = *static_cast<Group*>(group);
  Progress::Turn turn(progress);
  const int me = (g.rank - root + g.size) % g.size;
  const auto real = [&](int relative) { return (relative + root) % g.size; };
  int bit = 1;
  for (; bit < g.size && !(me & bit); bit <<= 1) {
  }
  if (me != 0) {
    if (failed(progress.begin_recv(g.comm, data, bytes, real(me - bit), kCollectiveTag), "broadcast")) return 1;
    if (failed(progress.wait(), "broadcast")) return 1;
  }
  for (bit >>= 1; bit > 0; bit >>= 1) {
    if (me + bit >= g.size) continue;
    if (failed(progress.begin_send(g.comm, data, bytes, real(me + bit), kCollectiveTag), "broadcast")) return 1;
  }
  return failed(progress.wait(), "broadcast") ? 1 : 0;
}

int send(void* group, const void* data, size_t bytes, int to) {
  Group& g = *static_cast<Group*>(group);
  Progress::Turn turn(progress);
  return failed(progress.send(g.comm, data, bytes, to, kMessageTag), "send") ? 1 : 0;
}

int recv(void* group, void* data, size_t bytes, int from) {
  Group& g = *static_cast<Group*>(group);
  Progress::Turn turn(progress);
  if (failed(progress.begin_recv(g.comm, data, bytes, from, kMessageTag), "recv")) return 1;
  return failed(progress.wait(), "recv") ? 1 : 0;
}

int finish() {
  progress.stop();
  for (Group* group : groups) delete group;
  groups.clear();
  return failed(MPI_Finalize(), "MPI_Finalize") ? 1 : 0;
}

const char* error() { return failure.c_str(); }

constexpr SluiceMpiTable kTable{SLUICE_MPI_ABI, library, init, make_group, all_reduce, all_gather,
                                broadcast,      send,    recv, finish,     error};

}  // namespace
}  // namespace sluice::mpi

extern "C" __attribute__((visibility("default"))) const SluiceMpiTable* sluice_mpi_table() {
  return &sluice::mpi::kTable;
}
