// SPDX-License-Identifier: Apache-2.0
// Ranks are processes that share one device: this program once more, with its place in the environment.
#include "peer_sum.h"

#include <signal.h>
#include <spawn.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <thread>

#include "cuda/device_arrays.h"

namespace sluice {
namespace {
using namespace test;

constexpr int kRounds = 12;

// What the ranks of a group share.
struct Meeting {
  std::atomic<int> arrived[3];  // with its handle; at the end; with all others' areas closed
  cudaIpcMemHandle_t handles[kernels::kPeerRanks];
};

void meet(std::atomic<int>& place, int size) {
  ++place;
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(60);
  while (place < size) {
    REQUIRE(std::chrono::steady_clock::now() < deadline);
    std::this_thread::sleep_for(std::chrono::microseconds(200));
  }
}

struct Round {
  Type type;
  int64_t elements;
};
// Sizes around packs, chunks and whole launches, the same on all ranks.
Round round_of(int n) {
  static constexpr int64_t kSizes[] = {1, 7, 8, 4096, 4097, 65536, 20000, 512, 130001, 2048, 3, 100};
  return {kTypes[n % 3], std::min<int64_t>(kSizes[n % 12], kernels::kPeerBytes / 4)};
}
std::vector<float> part_of(int rank, int n) {
  std::mt19937 random(static_cast<unsigned>(100 * n + rank));
  return normal(random, round_of(n).elements, round_of(n).type);
}
std::vector<float> sum_of(int size, int n) {
  std::vector<float> sum(static_cast<size_t>(round_of(n).elements));
  for (int r = 0; r < size; ++r) {
    const std::vector<float> part = part_of(r, n);
    for (size_t i = 0; i < sum.size(); ++i) sum[i] += part[i];
  }
  for (float& v : sum) v = round_to(v, round_of(n).type);
  return sum;
}

// One rank's life: areas are opened, sums made one by one, then a recorded one replayed.
void be_rank(Meeting& meeting, int rank, int size) {
  void* own = nullptr;
  CUDA_OK(cudaMalloc(&own, kernels::peer_area_bytes(size)));
  CUDA_OK(cudaMemset(own, 0, kernels::peer_area_bytes(size)));
  const DeviceVector<uint32_t> turns(std::vector<uint32_t>(kernels::kPeerBlocks, 0));
  CUDA_OK(cudaDeviceSynchronize());
  CUDA_OK(cudaIpcGetMemHandle(&meeting.handles[rank], own));
  meet(meeting.arrived[0], size);

  kernels::PeerSumParams p{};
  p.rank = rank;
  p.size = size;
  p.turns = turns.data();
  for (int r = 0; r < size; ++r) {
    p.areas[r] = own;
    if (r != rank) CUDA_OK(cudaIpcOpenMemHandle(&p.areas[r], meeting.handles[r], cudaIpcMemLazyEnablePeerAccess));
  }
  cudaStream_t stream;
  CUDA_OK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  for (int n = 0; n < kRounds; ++n) {
    CAPTURE(n);
    DeviceMatrix message(round_of(n).type, 1, round_of(n).elements);
    message.fill(part_of(rank, n));
    p.inout = message.data();
    p.elements = round_of(n).elements;
    p.type = round_of(n).type;
    CUDA_OK(kernels::peer_sum(p, stream));
    CUDA_OK(cudaStreamSynchronize(stream));
    CHECK(message.read() == sum_of(size, n));
  }

  DeviceMatrix message(Type::kBF16, 1, 5000);
  std::vector<float> ones(5000, 1.0f);
  message.fill(ones);
  p.inout = message.data();
  p.elements = 5000;
  p.type = Type::kBF16;
  cudaGraph_t graph;
  cudaGraphExec_t recorded;
  CUDA_OK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
  CUDA_OK(kernels::peer_sum(p, stream));
  CUDA_OK(cudaStreamEndCapture(stream, &graph));
  CUDA_OK(cudaGraphInstantiate(&recorded, graph, 0));
  for (int i = 0; i < 3; ++i) CUDA_OK(cudaGraphLaunch(recorded, stream));
  CUDA_OK(cudaStreamSynchronize(stream));
  CHECK(message.read() == std::vector<float>(5000, static_cast<float>(size * size * size)));

  meet(meeting.arrived[1], size);  // an area stays until everybody has read
  CUDA_OK(cudaGraphExecDestroy(recorded));
  CUDA_OK(cudaGraphDestroy(graph));
  CUDA_OK(cudaStreamDestroy(stream));
  for (int r = 0; r < size; ++r)
    if (r != rank) CUDA_OK(cudaIpcCloseMemHandle(p.areas[r]));
  meet(meeting.arrived[2], size);
  CUDA_OK(cudaFree(own));
}

Meeting& open_meeting(int file) {
  void* memory = ::mmap(nullptr, sizeof(Meeting), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  REQUIRE(memory != MAP_FAILED);
  return *static_cast<Meeting*>(memory);
}

TEST_CASE("one rank of a group" * doctest::skip()) {
  const char* place = std::getenv("SLUICE_PEER_PLACE");  // file:rank:size
  REQUIRE(place != nullptr);
  int file = -1, rank = -1, size = 0;
  REQUIRE(std::sscanf(place, "%d:%d:%d", &file, &rank, &size) == 3);
  be_rank(open_meeting(file), rank, size);
}

TEST_CASE("sums between peers are sums in rank order, for every size, also replayed") {
  for (const int size : {2, 3, 4}) {
    CAPTURE(size);
    const int file = ::memfd_create("meeting", 0);
    REQUIRE(::ftruncate(file, sizeof(Meeting)) == 0);
    std::vector<pid_t> ranks;
    for (int rank = 0; rank < size; ++rank) {
      const std::string place =
          "SLUICE_PEER_PLACE=" + std::to_string(file) + ":" + std::to_string(rank) + ":" + std::to_string(size);
      std::vector<char*> environment;
      for (char** entry = environ; *entry != nullptr; ++entry) environment.push_back(*entry);
      environment.push_back(const_cast<char*>(place.c_str()));
      environment.push_back(nullptr);
      char program[] = "/proc/self/exe", which[] = "-tc=one rank of a group", skipped[] = "--no-skip";
      char* const arguments[] = {program, which, skipped, nullptr};
      pid_t child = -1;
      REQUIRE(::posix_spawn(&child, program, nullptr, nullptr, arguments, environment.data()) == 0);
      ranks.push_back(child);
    }
    for (const pid_t rank : ranks) {
      int status = -1;
      REQUIRE(::waitpid(rank, &status, 0) == rank);
      CHECK(status == 0);
    }
    ::close(file);
  }
}

}  // namespace
}  // namespace sluice
