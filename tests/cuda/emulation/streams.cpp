// SPDX-License-Identifier: Apache-2.0
// Streams, events and graphs. Work waits in queues; one thread takes it from a random queue whose head may run.
#include <pthread.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "block.h"
#include "runtime.h"

namespace sluice::emulation {
struct Wait {
  CUstream_st* stream;
  uint64_t until;  // calls of that stream that must be done
};
struct Op {
  std::function<void()> run;  // empty for a wait
  std::vector<Wait> waits;
  std::function<bool()> ready;  // empty: at once
};
struct Node {
  std::function<void()> run;
  std::function<bool()> ready;
};
struct Graph {
  std::vector<Node> nodes;
};
}  // namespace sluice::emulation

struct CUgraph_st : sluice::emulation::Graph {};
struct CUgraphExec_st : sluice::emulation::Graph {};

struct CUstream_st {
  std::deque<sluice::emulation::Op> queue;
  uint64_t queued = 0, done = 0;
  bool blocking = true;  // takes turns with the null stream
  std::shared_ptr<CUgraph_st> capture;
  bool origin = false;  // of a capture
};

struct CUevent_st {
  CUstream_st* stream = nullptr;
  uint64_t until = 0;
  std::shared_ptr<CUgraph_st> capture;
  std::chrono::steady_clock::time_point when;
};

namespace sluice::emulation {
namespace {

using Clock = std::chrono::steady_clock;

struct Executor {
  std::mutex mutex;
  std::condition_variable changed;
  CUstream_st null_stream;
  std::vector<CUstream_st*> streams{&null_stream}, husks;  // husks: of destroyed ones
  int waiting = 0, captures = 0;
  std::thread::id recorder;  // the thread of the last capture
  bool eager = false;        // somebody drew "now"
  int64_t laziness = 2000;
  Clock::time_point last_call = Clock::now();
  bool started = false;
  uint64_t random = 0x853c49e6748fea9bull;
  pid_t owner = 0;

  uint32_t pick() {
    random = random * 6364136223846793005ull + 1442695040888963407ull;
    return static_cast<uint32_t>(random >> 33);
  }

  CUstream_st* ready(bool& polling) {
    std::vector<CUstream_st*> list;
    for (CUstream_st* s : streams) {
      if (s->queue.empty() || (!s->queue.front().run && !s->queue.front().waits.empty() && !passed(s->queue.front())))
        continue;
      const Op& op = s->queue.front();
      if (!passed(op)) continue;
      if (!op.ready || op.ready()) {
        list.push_back(s);
      } else {
        polling = true;
      }
    }
    return list.empty() ? nullptr : list[pick() % list.size()];
  }
  static bool passed(const Op& op) {
    for (const Wait& w : op.waits) {
      if (w.stream->done < w.until) return false;
    }
    return true;
  }

  void loop() {
    std::unique_lock lock(mutex);
    while (true) {
      bool polling = false;
      CUstream_st* stream = ready(polling);
      if (stream == nullptr) {
        eager = false;
        if (polling) {
          changed.wait_for(lock, std::chrono::microseconds(200));
        } else {
          changed.wait(lock);
        }
        continue;
      }
      if (waiting == 0 && !eager) {
        const auto due = last_call + std::chrono::microseconds(laziness);
        if (Clock::now() < due) {
          changed.wait_until(lock, due);
          continue;
        }
      }
      std::function<void()> run = std::move(stream->queue.front().run);
      lock.unlock();
      if (run) run();
      run = nullptr;
      lock.lock();
      stream->queue.pop_front();
      ++stream->done;
      changed.notify_all();
    }
  }

  void start() {
    if (started) return;
    started = true;
    std::thread([this] { loop(); }).detach();
  }
};

// Never destroyed: its thread lives as long as the process.
Executor& executor() {
  static Executor* const e = new Executor;
  return *e;
}

CUstream_st& at(cudaStream_t stream) {
  const bool null = stream == nullptr || stream == cudaStreamLegacy || stream == cudaStreamPerThread;
  return null ? executor().null_stream : *stream;
}

// With the lock held: calls that ask or wait are refused to a thread while it records.
bool recording() { return executor().captures > 0 && executor().recorder == std::this_thread::get_id(); }

// With the lock held. The null stream and the blocking streams wait for one another.
void put(CUstream_st& stream, Op op) {
  Executor& e = executor();
  e.start();
  for (CUstream_st* other : e.streams) {
    const bool turn = (&stream == &e.null_stream && other->blocking) || (other == &e.null_stream && stream.blocking);
    if (other != &stream && turn && other->done < other->queued) op.waits.push_back({other, other->queued});
  }
  stream.queue.push_back(std::move(op));
  ++stream.queued;
  e.last_call = Clock::now();
  if (e.pick() % 8 == 0) e.eager = true;
  e.changed.notify_all();
}

// As CUDA has it; and any call may wait for the device (first use of a kernel, allocation).
bool every_call_waits() {
  static const bool waits = [] {
    const char* text = std::getenv("CUDA_LAUNCH_BLOCKING");
    return text != nullptr && std::strcmp(text, "1") == 0;
  }();
  return waits;
}

void wait_for(std::unique_lock<std::mutex>& lock, CUstream_st& stream, uint64_t until) {
  Executor& e = executor();
  ++e.waiting;
  e.changed.notify_all();
  e.changed.wait(lock, [&] { return stream.done >= until; });
  --e.waiting;
}

}  // namespace

cudaError_t enqueue(cudaStream_t handle, std::function<void()> work, std::function<bool()> ready) {
  Executor& e = executor();
  std::unique_lock lock(e.mutex);
  CUstream_st& stream = at(handle);
  if (stream.capture) {
    stream.capture->nodes.push_back({std::move(work), std::move(ready)});
  } else {
    put(stream, {std::move(work), {}, std::move(ready)});
    if (every_call_waits()) wait_for(lock, stream, stream.queued);
  }
  return cudaSuccess;
}

namespace {
std::atomic<uint64_t> launched{0};
}
uint64_t launches() { return launched; }
void count_launch() { ++launched; }

cudaError_t launch(dim3 grid, dim3 block, size_t shared_bytes, cudaStream_t stream, std::function<void()> body,
                   const char* name) {
  constexpr unsigned kMost = 65535, kMostOfX = 0x7fffffff;  // blocks in a dimension
  if (block.x * block.y * block.z > 1024 || shared_bytes > most_shared_bytes()) return cudaErrorInvalidConfiguration;
  if (grid.x == 0 || grid.y == 0 || grid.z == 0 || grid.x > kMostOfX || grid.y > kMost || grid.z > kMost)
    return cudaErrorInvalidConfiguration;
  ++launched;
  if (!computes()) return cudaSuccess;
  const auto run = [](const void* p) { (*static_cast<const std::function<void()>*>(p))(); };
  return enqueue(stream, [=] { run_grid(grid, block, shared_bytes, run, &body, name); });
}

bool computes() {
  static const bool does = [] {
    const char* text = std::getenv("SLUICE_EMULATION_KERNELS");
    return text == nullptr || std::strcmp(text, "none") != 0;
  }();
  return does;
}

bool capturing() {
  const std::lock_guard lock(executor().mutex);
  return executor().captures > 0;
}

void drain() {
  Executor& e = executor();
  std::unique_lock lock(e.mutex);
  const auto streams = e.streams;
  for (CUstream_st* s : streams) wait_for(lock, *s, s->queued);
}

void set_laziness(int64_t microseconds) {
  const std::lock_guard lock(executor().mutex);
  executor().laziness = microseconds;
}

}  // namespace sluice::emulation

using namespace sluice::emulation;

extern "C" {

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* out, unsigned flags) {
  const std::lock_guard lock(executor().mutex);
  *out = new CUstream_st;
  (*out)->blocking = flags != cudaStreamNonBlocking;
  executor().streams.push_back(*out);
  return cudaSuccess;
}
cudaError_t cudaStreamCreate(cudaStream_t* out) { return cudaStreamCreateWithFlags(out, cudaStreamDefault); }
cudaError_t cudaStreamCreateWithPriority(cudaStream_t* out, unsigned flags, int) {
  return cudaStreamCreateWithFlags(out, flags);
}
cudaError_t cudaDeviceGetStreamPriorityRange(int* least, int* greatest) {
  *least = 0;
  *greatest = -5;
  return cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  Executor& e = executor();
  std::unique_lock lock(e.mutex);
  wait_for(lock, *stream, stream->queued);
  // Others may still name it in what they wait for, all of it done: the husk is kept.
  std::erase(e.streams, stream);
  e.husks.push_back(stream);
  return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t handle) {
  std::unique_lock lock(executor().mutex);
  CUstream_st& stream = at(handle);
  if (stream.capture || recording()) return cudaErrorStreamCaptureUnsupported;
  wait_for(lock, stream, stream.queued);
  return cudaSuccess;
}

cudaError_t cudaStreamQuery(cudaStream_t handle) {
  Executor& e = executor();
  std::unique_lock lock(e.mutex);
  CUstream_st& stream = at(handle);
  if (stream.capture || recording()) return cudaErrorStreamCaptureUnsupported;
  if (stream.done >= stream.queued) return cudaSuccess;
  e.eager = true;
  e.changed.notify_all();
  return cudaErrorNotReady;
}

cudaError_t cudaDeviceSynchronize() {
  if (capturing()) return cudaErrorStreamCaptureUnsupported;
  drain();
  return cudaSuccess;
}

cudaError_t cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t function, void* data) {
  return enqueue(stream, [=] { function(data); });
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* out, unsigned) {
  *out = new CUevent_st;
  return cudaSuccess;
}
cudaError_t cudaEventCreate(cudaEvent_t* out) { return cudaEventCreateWithFlags(out, 0); }

cudaError_t cudaEventDestroy(cudaEvent_t event) {
  std::unique_lock lock(executor().mutex);
  if (event->stream != nullptr) wait_for(lock, *event->stream, event->until);
  delete event;
  return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t handle) {
  const std::lock_guard lock(executor().mutex);
  CUstream_st& stream = at(handle);
  event->capture = stream.capture;
  if (stream.capture) return cudaSuccess;
  put(stream, {[event] { event->when = Clock::now(); }, {}, {}});
  event->stream = &stream;
  event->until = stream.queued;
  return cudaSuccess;
}
cudaError_t cudaEventRecordWithFlags(cudaEvent_t event, cudaStream_t stream, unsigned) {
  return cudaEventRecord(event, stream);
}

cudaError_t cudaStreamWaitEvent(cudaStream_t handle, cudaEvent_t event, unsigned) {
  const std::lock_guard lock(executor().mutex);
  CUstream_st& stream = at(handle);
  if (event->capture) {  // the stream joins the capture; calls are recorded in the order they are made
    stream.capture = event->capture;
    return cudaSuccess;
  }
  if (stream.capture) return event->stream == nullptr ? cudaSuccess : cudaErrorStreamCaptureIsolation;
  if (event->stream != nullptr) put(stream, {{}, {{event->stream, event->until}}, {}});
  return cudaSuccess;
}

cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  std::unique_lock lock(executor().mutex);
  if (event->capture) return cudaErrorCapturedEvent;
  if (recording()) return cudaErrorStreamCaptureUnsupported;
  if (event->stream != nullptr) wait_for(lock, *event->stream, event->until);
  return cudaSuccess;
}

cudaError_t cudaEventQuery(cudaEvent_t event) {
  Executor& e = executor();
  const std::lock_guard lock(e.mutex);
  if (event->capture) return cudaErrorCapturedEvent;
  if (recording()) return cudaErrorStreamCaptureUnsupported;
  if (event->stream == nullptr || event->stream->done >= event->until) return cudaSuccess;
  e.eager = true;
  e.changed.notify_all();
  return cudaErrorNotReady;
}

cudaError_t cudaEventElapsedTime(float* ms, cudaEvent_t from, cudaEvent_t to) {
  const std::lock_guard lock(executor().mutex);
  if (from->stream == nullptr || to->stream == nullptr) return cudaErrorInvalidResourceHandle;
  if (from->stream->done < from->until || to->stream->done < to->until) return cudaErrorNotReady;
  *ms = std::chrono::duration<float, std::milli>(to->when - from->when).count();
  return cudaSuccess;
}

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
  const std::lock_guard lock(executor().mutex);
  if (stream == nullptr) return cudaErrorStreamCaptureImplicit;
  if (stream->capture) return cudaErrorIllegalState;
  stream->capture = std::make_shared<CUgraph_st>();
  stream->origin = true;
  ++executor().captures;
  executor().recorder = std::this_thread::get_id();
  return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* out) {
  Executor& e = executor();
  const std::lock_guard lock(e.mutex);
  if (stream == nullptr || !stream->capture || !stream->origin) return cudaErrorIllegalState;
  const auto graph = stream->capture;
  for (CUstream_st* s : e.streams) {
    if (s->capture == graph) s->capture = nullptr;
  }
  stream->origin = false;
  --e.captures;
  *out = new CUgraph_st(*graph);
  return cudaSuccess;
}

cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* out) {
  const std::lock_guard lock(executor().mutex);
  *out = at(stream).capture ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
  return cudaSuccess;
}

cudaError_t cudaThreadExchangeStreamCaptureMode(cudaStreamCaptureMode*) { return cudaSuccess; }

cudaError_t cudaGraphInstantiate(cudaGraphExec_t* out, cudaGraph_t graph, unsigned long long) {
  *out = new CUgraphExec_st;
  (*out)->nodes = graph->nodes;
  return cudaSuccess;
}
cudaError_t cudaGraphInstantiateWithFlags(cudaGraphExec_t* out, cudaGraph_t graph, unsigned long long flags) {
  return cudaGraphInstantiate(out, graph, flags);
}

cudaError_t cudaGraphGetNodes(cudaGraph_t graph, cudaGraphNode_t*, size_t* n) {
  *n = graph->nodes.size();
  return cudaSuccess;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t graph, cudaStream_t stream) {
  for (const auto& node : graph->nodes) {
    if (const cudaError_t error = enqueue(stream, node.run, node.ready); error != cudaSuccess) return error;
  }
  return cudaSuccess;
}
cudaError_t cudaGraphUpload(cudaGraphExec_t, cudaStream_t) { return cudaSuccess; }

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t graph) {
  delete graph;
  return cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete graph;
  return cudaSuccess;
}

}  // extern "C"
