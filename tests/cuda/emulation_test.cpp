// SPDX-License-Identifier: Apache-2.0
// The emulation itself: what it lets pass, and the faults that it must show.
#include <atomic>
#include <chrono>
#include <thread>

#include "cuda/device_arrays.h"

namespace sluice {
namespace {
using namespace test;

TEST_CASE("a stream runs its calls in order, and a copy of pageable memory is taken at the call") {
  cudaStream_t stream;
  CUDA_OK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  const DeviceVector<int32_t> a(std::vector<int32_t>{0, 0}), b(std::vector<int32_t>{0, 0});
  for (int32_t i = 1; i < 50; ++i) {
    std::vector<int32_t> host{i, -i}, back(2);
    CUDA_OK(cudaMemcpyAsync(a.data(), host.data(), 8, cudaMemcpyHostToDevice, stream));
    host.assign({7777, 7777});
    CUDA_OK(cudaMemcpyAsync(b.data(), a.data(), 8, cudaMemcpyDeviceToDevice, stream));
    CUDA_OK(cudaMemsetAsync(a.data(), 0, 8, stream));
    CUDA_OK(cudaMemcpyAsync(back.data(), b.data(), 8, cudaMemcpyDeviceToHost, stream));
    CUDA_OK(cudaStreamSynchronize(stream));
    CHECK(back == std::vector<int32_t>{i, -i});
  }
  CUDA_OK(cudaStreamDestroy(stream));
}

TEST_CASE("pinned memory that is written again before its copy has run shows") {
  cudaStream_t stream;
  CUDA_OK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  const DeviceVector<int32_t> device(std::vector<int32_t>{0});
  int32_t* pinned = nullptr;
  CUDA_OK(cudaMallocHost(reinterpret_cast<void**>(&pinned), 4));
  int wrong = 0;
  for (int32_t i = 0; i < 20; ++i) {
    *pinned = i;
    CUDA_OK(cudaMemcpyAsync(device.data(), pinned, 4, cudaMemcpyHostToDevice, stream));
    *pinned = 7777;  // too early
    int32_t back = 0;
    CUDA_OK(cudaMemcpyAsync(&back, device.data(), 4, cudaMemcpyDeviceToHost, stream));
    CUDA_OK(cudaStreamSynchronize(stream));
    wrong += back != i;
  }
  CHECK(wrong > 0);
  CUDA_OK(cudaFreeHost(pinned));
  CUDA_OK(cudaStreamDestroy(stream));
}

// Two streams that use one buffer, the second without waiting for the first, or waiting for its event.
int wrong_orders(bool wait) {
  cudaStream_t first, second;
  cudaEvent_t event;
  CUDA_OK(cudaStreamCreateWithFlags(&first, cudaStreamNonBlocking));
  CUDA_OK(cudaStreamCreateWithFlags(&second, cudaStreamNonBlocking));
  CUDA_OK(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
  const DeviceVector<int32_t> buffer(std::vector<int32_t>{0}), out(std::vector<int32_t>{0});
  int wrong = 0;
  for (int i = 0; i < 60; ++i) {
    CUDA_OK(cudaMemset(buffer.data(), 0, 4));
    CUDA_OK(cudaDeviceSynchronize());
    CUDA_OK(cudaMemsetAsync(buffer.data(), 1, 4, first));
    CUDA_OK(cudaEventRecord(event, first));
    if (wait) CUDA_OK(cudaStreamWaitEvent(second, event, 0));
    CUDA_OK(cudaMemcpyAsync(out.data(), buffer.data(), 4, cudaMemcpyDeviceToDevice, second));
    CUDA_OK(cudaStreamSynchronize(second));
    CUDA_OK(cudaStreamSynchronize(first));
    wrong += out.read()[0] != 0x01010101;
  }
  CUDA_OK(cudaEventDestroy(event));
  CUDA_OK(cudaStreamDestroy(first));
  CUDA_OK(cudaStreamDestroy(second));
  return wrong;
}

TEST_CASE("a stream that does not wait for another's event is caught, one that waits is right") {
  CHECK(wrong_orders(true) == 0);
  CHECK(wrong_orders(false) > 5);
}

TEST_CASE("a copy of pageable memory and a fill may be under way when they return") {
  cudaStream_t other;
  CUDA_OK(cudaStreamCreateWithFlags(&other, cudaStreamNonBlocking));
  const DeviceVector<int32_t> device(std::vector<int32_t>{0});
  int32_t* pinned = nullptr;
  CUDA_OK(cudaMallocHost(reinterpret_cast<void**>(&pinned), 4));
  int late = 0;
  for (int32_t i = 1; i <= 40; ++i) {
    if (i % 2 == 0) {
      CUDA_OK(cudaMemcpy(device.data(), &i, 4, cudaMemcpyHostToDevice));
    } else {
      CUDA_OK(cudaMemset(device.data(), i, 4));
    }
    CUDA_OK(cudaMemcpyAsync(pinned, device.data(), 4, cudaMemcpyDeviceToHost, other));
    CUDA_OK(cudaStreamSynchronize(other));
    late += *pinned != (i % 2 == 0 ? i : i * 0x01010101);
    CUDA_OK(cudaDeviceSynchronize());
  }
  CHECK(late > 5);
  CUDA_OK(cudaFreeHost(pinned));
  CUDA_OK(cudaStreamDestroy(other));
}

TEST_CASE("work runs late while nobody waits, and runs in the end") {
  emulation::set_laziness(20000);
  const DeviceVector<int32_t> device(std::vector<int32_t>{0});
  std::atomic<int> ran{0};
  int late = 0;
  for (int i = 0; i < 20; ++i) {
    ran = 0;
    CUDA_OK(cudaLaunchHostFunc(
        nullptr, [](void* p) { *static_cast<std::atomic<int>*>(p) = 1; }, &ran));
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
    late += ran == 0;
    while (ran == 0) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  CHECK(late > 5);
  emulation::set_laziness(2000);
}

TEST_CASE("a graph is captured once and replayed") {
  cudaStream_t stream, other;
  cudaEvent_t fork, join, idle;
  CUDA_OK(cudaEventCreateWithFlags(&idle, cudaEventDisableTiming));
  CUDA_OK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  CUDA_OK(cudaStreamCreateWithFlags(&other, cudaStreamNonBlocking));
  CUDA_OK(cudaEventCreateWithFlags(&fork, cudaEventDisableTiming));
  CUDA_OK(cudaEventCreateWithFlags(&join, cudaEventDisableTiming));
  const DeviceVector<int32_t> a(std::vector<int32_t>{1}), b(std::vector<int32_t>{2}), c(std::vector<int32_t>{3});
  CUDA_OK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
  CUDA_OK(cudaMemcpyAsync(b.data(), a.data(), 4, cudaMemcpyDeviceToDevice, stream));
  CUDA_OK(cudaEventRecord(fork, stream));
  CUDA_OK(cudaStreamWaitEvent(other, fork, 0));
  CUDA_OK(cudaMemcpyAsync(c.data(), b.data(), 4, cudaMemcpyDeviceToDevice, other));
  CUDA_OK(cudaEventRecord(join, other));
  CUDA_OK(cudaStreamWaitEvent(stream, join, 0));
  CHECK(cudaStreamSynchronize(stream) == cudaErrorStreamCaptureUnsupported);
  void* never = nullptr;
  CHECK(cudaMalloc(&never, 4) == cudaErrorStreamCaptureUnsupported);
  CHECK(cudaEventQuery(idle) == cudaErrorStreamCaptureUnsupported);
  const int32_t pageable = 0;
  CHECK(cudaMemcpyAsync(c.data(), &pageable, 4, cudaMemcpyHostToDevice, stream) == cudaErrorStreamCaptureUnsupported);
  cudaGraph_t graph;
  cudaGraphExec_t exec;
  CUDA_OK(cudaStreamEndCapture(stream, &graph));
  CUDA_OK(cudaGraphInstantiate(&exec, graph, 0));
  CUDA_OK(cudaGraphDestroy(graph));
  CHECK(c.read()[0] == 3);  // recorded, not run
  for (const int32_t value : {5, 6, 7}) {
    CUDA_OK(cudaMemcpy(a.data(), &value, 4, cudaMemcpyHostToDevice));
    CUDA_OK(cudaDeviceSynchronize());
    CUDA_OK(cudaGraphLaunch(exec, stream));
    CUDA_OK(cudaStreamSynchronize(stream));
    CHECK(c.read()[0] == value);
  }
  CUDA_OK(cudaGraphExecDestroy(exec));
  CUDA_OK(cudaStreamDestroy(stream));
  CUDA_OK(cudaStreamDestroy(other));
  for (const cudaEvent_t event : {fork, join, idle}) CUDA_OK(cudaEventDestroy(event));
}

TEST_CASE("device memory starts as noise and its size is counted") {
  size_t before, after, total;
  CUDA_OK(cudaMemGetInfo(&before, &total));
  {
    const DeviceBytes bytes(1000);
    std::vector<unsigned char> host(1000);
    bytes.read(host.data());
    CHECK(host == std::vector<unsigned char>(1000, 0xff));
    CUDA_OK(cudaMemGetInfo(&after, &total));
    CHECK(before - after == 1000);
  }
  CUDA_OK(cudaMemGetInfo(&after, &total));
  CHECK(before == after);
  void* never = nullptr;
  CHECK(cudaMalloc(&never, total + 1) == cudaErrorMemoryAllocation);
}

}  // namespace
}  // namespace sluice
