// SPDX-License-Identifier: Apache-2.0
// What dialects may use: the engine's entry points, the tokenizer, the model's facts and the limits. Filled by the app
// once the model is loaded, constant from then on; it outlives the server.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "api/limits.h"
#include "engine/engine.h"
#include "engine/request.h"
#include "text/chat_template.h"
#include "text/tokenizer.h"

namespace sluice {

class Metrics;

// Facts reported to clients. The sampling defaults are the model's generation_config.json.
struct ModelFacts {
  std::string id;                    // name served, first of /v1/models
  std::vector<std::string> aliases;  // further names accepted
  std::string root;                  // folder or hub name it was loaded from
  std::string revision;              // commit of the checkpoint, empty when unknown
  std::string dtype = "float32";     // of the weights, as torch names it without "torch."
  std::string device = "cpu";        // cpu or cuda
  std::string pipeline_tag;          // of the hub, empty for a local path
  int64_t max_context = 0;           // the model's own limit, tokens
  double temperature = 1.0;          // used by OpenAI routes where the request names none
  double top_p = 1.0;
  int32_t top_k = 0;  // 0: off
  double repetition_penalty = 1.0;
  std::string family;        // "llama"
  int64_t parameters = 0;    // of the whole model
  int64_t weight_bytes = 0;  // of the checkpoint's files, or of what stands for them
  std::string quantization;  // empty: weights are of `dtype`
};

struct Service {
  // As Engine::submit, cancel and stats; the app binds them to its engine, tests to a fake.
  std::function<uint64_t(GenerateRequest, std::shared_ptr<Sink>)> submit;
  std::function<void(uint64_t)> cancel;
  std::function<EngineStats()> stats;
  const Tokenizer* tokenizer = nullptr;
  const ChatTemplate* chat = nullptr;  // nullptr: the model has none
  ModelFacts model;
  Limits limits;
  std::string version;                                           // of Sluice
  double load_seconds = 0, warm_seconds = 0, ready_seconds = 0;  // of rank 0: weights, first use, all from its start
  double started = 0;          // wall seconds when the model became ready: "created" of /v1/models
  double job_end = 0;          // wall seconds at which the job's time limit ends; 0: none or unknown
  Metrics* metrics = nullptr;  // never nullptr while serving

  void bind(Engine& engine);  // fills the engine's entry points and the tokenizer
};

inline void Service::bind(Engine& engine) {
  submit = [&engine](GenerateRequest request, std::shared_ptr<Sink> sink) {
    return engine.submit(std::move(request), std::move(sink));
  };
  cancel = [&engine](uint64_t id) { engine.cancel(id); };
  stats = [&engine] { return engine.stats(); };
  tokenizer = &engine.tokenizer();
}

}  // namespace sluice
