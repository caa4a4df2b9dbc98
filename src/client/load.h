// SPDX-License-Identifier: Apache-2.0
// A closed loop of streaming requests against a server: a fixed number of streams, each sending its next request when
// the last has ended. One thread drives all streams; a second may probe /health meanwhile.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace sluice {

enum class LoadApi { kChat, kCompletions, kTgi };
LoadApi parse_load_api(const std::string& name);  // chat, completions or tgi; throws Error

struct LoadOptions {
  std::string url;  // http://host:port
  std::string key;  // bearer token, empty for none
  LoadApi api = LoadApi::kChat;
  int64_t streams = 16;          // requests under way at once
  int64_t requests = 0;          // in all; 0: until `seconds` have passed
  double seconds = 10;           // no request starts later than this; 0: no limit in time
  int64_t prompt_words = 100;    // of the synthetic prompt, different for every request
  std::string prompt;            // where not empty, sent instead
  int64_t max_tokens = 128;      // asked for, with ignore_eos where the API has it
  double silence_seconds = 120;  // a stream that says nothing for so long has failed
  bool probe_health = true;      // GET /health every 50 ms
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
struct LoadReport {
  int64_t started = 0, finished = 0, failed = 0;
  std::map<std::string, int64_t> errors;  // reason -> count
  int64_t tokens = 0, pieces = 0;
  double seconds = 0;           // start to end of the last stream
  double answered_seconds = 0;  // start to the head of every stream's first reply; 0 when some never came
  double tokens_per_second = 0, requests_per_second = 0;
  Percentiles connect, ttft, itl, tpot, e2e, health;
  int64_t health_failures = 0;
};

// Throws Error when the URL is wrong or nothing listens there; later failures are counted.
LoadReport run_load(const LoadOptions& options);

}  // namespace sluice
