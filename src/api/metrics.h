// SPDX-License-Identifier: Apache-2.0
// Numbers of the front end, in Prometheus text. One per process, owned by the app, safe from any thread. Engine numbers
// are read when the page is asked for. Names follow TGI (tgi_), vLLM (vllm:) where they mean the same, else sluice_.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>

#include "api/service.h"

namespace sluice {

// Calls of one model name, as Triton counts them. Seconds.
struct CallStats {
  struct Times {
    double total = 0, queue = 0, input = 0, infer = 0, output = 0;
  };
  struct Batch {
    uint64_t count = 0;
    Times sum;
  };
  uint64_t succeeded = 0, failed = 0;
  uint64_t inferences = 0;  // rows of all calls that succeeded
  double failed_seconds = 0;
  double last = 0;  // wall clock of the last success
  Times sum;
  std::map<int64_t, Batch> batches;  // by rows of a call
};

class Metrics {
 public:
  Metrics();
  ~Metrics();

  void request_started(const GenerateRequest& request);
  // Times in monotonic seconds; `first_output` is 0 when nothing came.
  void request_finished(const Usage& usage, double started, double first_output);
  void finish_reason(FinishReason reason, int64_t count = 1);
  void request_dropped();                        // the client left before the end
  void request_failed(std::string_view reason);  // overloaded, validation, generation, template
  void validated(double seconds);                // parsing and tokenising one request
  void connection(int change);                   // +1 opened, -1 closed
  void replied(int status);
  void called(std::string_view model, int64_t batch, const CallStats::Times& times);
  void call_failed(std::string_view model, double seconds);
  CallStats calls(std::string_view model) const;

  std::string text(const Service& service) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace sluice
