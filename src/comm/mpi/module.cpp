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

#include "comm/collectives.h"
#include "comm/mpi/progress.h"
#include "comm/mpi/table.h"

namespace sluice::mpi {
namespace {

constexpr int kCollectiveTag = 1, kMessageTag = 2;

// Never destroyed: a process may end without MPI_Finalize, with calls under way.
Progress& progress = *new Progress;
std::string& failure = *new std::string;

// Remembers what failed; returns whether it did.
bool failed(int rc, const char* what) {
  if (rc == MPI_SUCCESS) return false;
  char text[MPI_MAX_ERROR_STRING] = {};
  int length = 0;
  MPI_Error_string(rc, text, &length);
  failure = std::string(what) + ": " + text;
  return true;
}

// Messages of one group's collectives.
struct Transport {
  int comm;  // of progress
  bool begin_send(const void* data, size_t bytes, int to) {
    return !failed(progress.begin_send(comm, data, bytes, to, kCollectiveTag), "send");
  }
  bool begin_recv(void* data, size_t bytes, int from) {
    return !failed(progress.begin_recv(comm, data, bytes, from, kCollectiveTag), "receive");
  }
  bool wait() { return !failed(progress.wait(), "a collective"); }
};
struct Group {
  int comm;
  Collectives<Transport> collectives;
};
std::vector<Group*>& groups = *new std::vector<Group*>;

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
  int rank = 0, comm = 0;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  if (failed(progress.join(ranks, n, comm), "MPI_Comm_create_group")) return 1;
  const int place = static_cast<int>(std::find(ranks, ranks + n, rank) - ranks);
  auto* group = new Group{comm, Collectives<Transport>(Transport{comm}, place, n)};
  groups.push_back(group);
  *out = group;
  return 0;
}

int all_reduce(void* group, float* data, size_t n) {
  Progress::Turn turn(progress);
  return static_cast<Group*>(group)->collectives.all_reduce(data, n) ? 0 : 1;
}

int all_gather(void* group, void* out, const void* in, size_t bytes) {
  Progress::Turn turn(progress);
  return static_cast<Group*>(group)->collectives.all_gather(out, in, bytes) ? 0 : 1;
}

int broadcast(void* group, void* data, size_t bytes, int root) {
  Progress::Turn turn(progress);
  return static_cast<Group*>(group)->collectives.broadcast(data, bytes, root) ? 0 : 1;
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
