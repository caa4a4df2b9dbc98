// SPDX-License-Identifier: Apache-2.0
// Load on a server: a closed loop (a fixed number of streams, each sending its next request when the last has ended),
// or requests that arrive by chance at a mean rate whatever the server does (Poisson). One thread drives all streams; a
// second may probe /health meanwhile.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "client/load_api.h"

namespace sluice {

struct LoadOptions {
  std::string url;    // http://host:port
  std::string key;    // bearer token, empty for none
  std::string model;  // sent where not empty
  LoadApi api = LoadApi::kChat;
  int64_t streams = 16;             // requests under way at once; with `rate` at most so many
  double rate = 0;                  // mean arrivals per second; 0: closed loop
  uint64_t seed = 1;                // of the arrivals
  int64_t requests = 0;             // in all; 0: until `seconds` have passed
  double seconds = 10;              // no request starts later than this; 0: no limit in time
  int64_t first_serial = 0;         // of the synthetic prompts, so that runs differ
  int64_t prompt_words = 100;       // of the synthetic prompt, different for every request
  std::vector<LoadPrompt> prompts;  // where not empty, sent instead, in turn
  int64_t max_tokens = 128;         // asked for
  double silence_seconds = 120;     // a stream that says nothing for so long has failed
  bool probe_health = true;         // GET /health every 50 ms
};

// Order statistics of one quantity, in the unit of its samples.
struct Percentiles {
  int64_t count = 0;
  double mean = 0, p50 = 0, p90 = 0, p99 = 0, max = 0;
};
Percentiles percentiles(std::vector<float>& samples);  // by nearest rank; sorts them

// Times in seconds. Definitions: ttft, request written to first piece with text; itl, gap between pieces; tpot,
// (last piece - first piece) / (tokens - 1) per request; e2e, request written to end of stream. Tokens are counted by
// the server where its stream says so (usage, index), else one per piece.
struct LoadRequest {  // one that ended
  int64_t serial = 0;
  double start = 0;  // since the run's start; with `rate` when it arrived
  double ttft = 0, tpot = 0, e2e = 0;
  int64_t tokens = 0, prompt_tokens = 0;
  double generation = 0;  // the server's own figure, else e2e
  std::string text;       // of dialects that do not stream
  std::string error;      // empty when it ended well
};

// A request is good when it ended well within all targets given (seconds; 0: none).
struct LoadTargets {
  double ttft = 0, tpot = 0, e2e = 0;
  bool any() const { return ttft > 0 || tpot > 0 || e2e > 0; }
  bool met(const LoadRequest& request) const;
};

struct LoadReport {
  int64_t started = 0, finished = 0, failed = 0;
  std::map<std::string, int64_t> errors;  // reason -> count
  int64_t tokens = 0, prompt_tokens = 0, pieces = 0;
  double seconds = 0;           // start to end of the last stream
  double answered_seconds = 0;  // start to the head of every stream's first reply; 0 when some never came
  double tokens_per_second = 0, requests_per_second = 0;
  int64_t late = 0;  // arrivals that waited because `streams` requests were under way
  std::vector<LoadRequest> all;
  Percentiles connect, ttft, itl, tpot, e2e, health;
  int64_t health_failures = 0;
};

// Throws Error when the URL is wrong or nothing listens there; later failures are counted.
LoadReport run_load(const LoadOptions& options);

}  // namespace sluice
