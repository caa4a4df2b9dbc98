// SPDX-License-Identifier: Apache-2.0
#include "api/metrics.h"

#include <prometheus/collectable.h>
#include <prometheus/counter.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>
#include <prometheus/text_serializer.h>

#include <cmath>
#include <map>
#include <mutex>
#include <sstream>

#include "base/clock.h"

namespace sluice {
namespace {

using Buckets = prometheus::Histogram::BucketBoundaries;

// TGI's duration buckets: 0.0001 * 1.5^k seconds, k = 1..35.
Buckets duration_buckets() {
  Buckets buckets;
  for (int k = 1; k <= 35; ++k) buckets.push_back(0.0001 * std::pow(1.5, k));
  return buckets;
}
Buckets count_buckets() {
  Buckets buckets;
  for (double v = 1; v <= 131072; v *= 2) buckets.push_back(v);
  return buckets;
}

prometheus::MetricFamily single(const char* name, const char* help, prometheus::MetricType type, double value) {
  prometheus::MetricFamily family;
  family.name = name;
  family.help = help;
  family.type = type;
  prometheus::ClientMetric metric;
  if (type == prometheus::MetricType::Counter)
    metric.counter.value = value;
  else
    metric.gauge.value = value;
  family.metric.push_back(std::move(metric));
  return family;
}

const char* reason_label(FinishReason reason) {
  switch (reason) {
    case FinishReason::kLength:
      return "length";
    case FinishReason::kCancelled:
      return "abort";
    default:
      return "stop";
  }
}

}  // namespace

struct Metrics::Impl {
  prometheus::Registry registry;
  std::mutex call_mutex;
  std::map<std::string, CallStats, std::less<>> calls;

  // With the lock held. Names come from routes that know their models, so there are few.
  CallStats& call(std::string_view model) { return calls.try_emplace(std::string(model)).first->second; }

  prometheus::Counter& counter(const char* name, const char* help, const prometheus::Labels& labels = {}) {
    return prometheus::BuildCounter().Name(name).Help(help).Register(registry).Add(labels);
  }
  prometheus::Gauge& gauge(const char* name, const char* help) {
    return prometheus::BuildGauge().Name(name).Help(help).Register(registry).Add({});
  }
  prometheus::Histogram& histogram(const char* name, const char* help, const Buckets& buckets) {
    return prometheus::BuildHistogram().Name(name).Help(help).Register(registry).Add({}, buckets);
  }

  const Buckets durations = duration_buckets(), counts = count_buckets();
  prometheus::Counter& requests = counter("tgi_request_count", "Generation requests received");
  prometheus::Counter& success = counter("tgi_request_success", "Generation requests answered in full");
  prometheus::Family<prometheus::Counter>& failures =
      prometheus::BuildCounter().Name("tgi_request_failure").Help("Generation requests that failed").Register(registry);
  prometheus::Histogram& duration = histogram("tgi_request_duration", "Submission to end, seconds", durations);
  prometheus::Histogram& validation =
      histogram("tgi_request_validation_duration", "Parsing and tokenising, seconds", durations);
  prometheus::Histogram& queue = histogram("tgi_request_queue_duration", "Waiting for a place, seconds", durations);
  prometheus::Histogram& inference =
      histogram("tgi_request_inference_duration", "Prefill and decode, seconds", durations);
  prometheus::Histogram& per_token =
      histogram("tgi_request_mean_time_per_token_duration", "Inference per generated token, seconds", durations);
  prometheus::Histogram& generated = histogram("tgi_request_generated_tokens", "Generated tokens per request", counts);
  prometheus::Histogram& input = histogram("tgi_request_input_length", "Prompt tokens per request", counts);
  prometheus::Histogram& max_new = histogram("tgi_request_max_new_tokens", "Tokens asked for per request", counts);
  prometheus::Histogram& first_token =
      histogram("vllm:time_to_first_token_seconds", "Submission to first token, seconds", durations);
  prometheus::Histogram& latency =
      histogram("vllm:e2e_request_latency_seconds", "Submission to end, seconds", durations);
  prometheus::Histogram& skipped =
      histogram("tgi_request_skipped_tokens", "Prompt tokens found in the prefix cache, per request", counts);
  prometheus::Histogram& output_token =
      histogram("vllm:time_per_output_token_seconds", "Decode per token after the first, seconds", durations);
  prometheus::Histogram& queue_time = histogram("vllm:request_queue_time_seconds", "Waiting for a place", durations);
  prometheus::Histogram& prefill_time =
      histogram("vllm:request_prefill_time_seconds", "First step to first token", durations);
  prometheus::Histogram& decode_time = histogram("vllm:request_decode_time_seconds", "First to last token", durations);
  prometheus::Histogram& inference_time =
      histogram("vllm:request_inference_time_seconds", "First step to last token", durations);
  prometheus::Histogram& prompt_size = histogram("vllm:request_prompt_tokens", "Prompt tokens per request", counts);
  prometheus::Histogram& answer_size =
      histogram("vllm:request_generation_tokens", "Generated tokens per request", counts);
  prometheus::Histogram& asked_size =
      histogram("vllm:request_params_max_tokens", "Tokens asked for per request", counts);
  prometheus::Histogram& best_of =
      histogram("vllm:request_params_best_of", "Choices generated per request", {1, 2, 5, 10, 20});
  prometheus::Histogram& choices =
      histogram("vllm:request_params_n", "Choices asked for per request", {1, 2, 5, 10, 20});
  prometheus::Family<prometheus::Counter>& finishes = prometheus::BuildCounter()
                                                          .Name("vllm:request_success_total")
                                                          .Help("Finished choices by reason")
                                                          .Register(registry);
  prometheus::Gauge& connections = gauge("sluice_http_connections", "Open connections");
  prometheus::Family<prometheus::Counter>& replies =
      prometheus::BuildCounter().Name("sluice_http_replies_total").Help("HTTP replies by status").Register(registry);
};

Metrics::Metrics() : impl_(std::make_unique<Impl>()) {
  for (const char* reason : {"overloaded", "validation", "generation", "dropped", "template"})
    impl_->failures.Add({{"err", reason}});
}
Metrics::~Metrics() = default;

void Metrics::request_started(const GenerateRequest& request) {
  impl_->requests.Increment();
  impl_->input.Observe(static_cast<double>(request.prompt.size()));
  impl_->max_new.Observe(request.max_new_tokens);
  impl_->choices.Observe(request.n);
  impl_->best_of.Observe(request.best_of);
  impl_->asked_size.Observe(request.max_new_tokens);
  impl_->prompt_size.Observe(static_cast<double>(request.prompt.size()));
}

void Metrics::request_finished(const Usage& usage, double started, double first_output) {
  double seconds = monotonic_seconds() - started;
  double inference = usage.prefill_seconds + usage.decode_seconds;
  impl_->success.Increment();
  impl_->duration.Observe(seconds);
  impl_->latency.Observe(seconds);
  impl_->queue.Observe(usage.queue_seconds);
  impl_->inference.Observe(inference);
  impl_->generated.Observe(usage.generated_tokens);
  if (usage.generated_tokens > 0) impl_->per_token.Observe(inference / usage.generated_tokens);
  impl_->skipped.Observe(usage.cached_tokens);
  impl_->queue_time.Observe(usage.queue_seconds);
  impl_->prefill_time.Observe(usage.prefill_seconds);
  impl_->decode_time.Observe(usage.decode_seconds);
  impl_->inference_time.Observe(inference);
  impl_->answer_size.Observe(usage.generated_tokens);
  if (usage.generated_tokens > 1) impl_->output_token.Observe(usage.decode_seconds / (usage.generated_tokens - 1));
  if (first_output > 0) impl_->first_token.Observe(first_output - started);
}

void Metrics::finish_reason(FinishReason reason, int64_t count) {
  impl_->finishes.Add({{"finished_reason", reason_label(reason)}}).Increment(static_cast<double>(count));
}
void Metrics::request_dropped() { request_failed("dropped"); }
void Metrics::request_failed(std::string_view reason) {
  impl_->failures.Add({{"err", std::string(reason)}}).Increment();
}
void Metrics::validated(double seconds) { impl_->validation.Observe(seconds); }
void Metrics::connection(int change) { impl_->connections.Increment(change); }
void Metrics::replied(int status) { impl_->replies.Add({{"status", std::to_string(status)}}).Increment(); }

void Metrics::called(std::string_view model, int64_t batch, const CallStats::Times& times) {
  const auto add = [&](CallStats::Times& sum) {
    sum.total += times.total;
    sum.queue += times.queue;
    sum.input += times.input;
    sum.infer += times.infer;
    sum.output += times.output;
  };
  std::lock_guard lock(impl_->call_mutex);
  CallStats& stats = impl_->call(model);
  ++stats.succeeded;
  stats.inferences += static_cast<uint64_t>(batch);
  stats.last = wall_seconds();
  add(stats.sum);
  ++stats.batches[batch].count;
  add(stats.batches[batch].sum);
}

void Metrics::call_failed(std::string_view model, double seconds) {
  std::lock_guard lock(impl_->call_mutex);
  CallStats& stats = impl_->call(model);
  ++stats.failed;
  stats.failed_seconds += seconds;
}

CallStats Metrics::calls(std::string_view model) const {
  std::lock_guard lock(impl_->call_mutex);
  const auto found = impl_->calls.find(model);
  return found == impl_->calls.end() ? CallStats{} : found->second;
}

std::string Metrics::text(const Service& service) const {
  using Type = prometheus::MetricType;
  auto families = impl_->registry.Collect();
  const EngineStats s = service.stats();
  auto add = [&](const char* name, const char* help, Type type, double value) {
    families.push_back(single(name, help, type, value));
  };
  const double used = s.blocks > 0 ? static_cast<double>(s.blocks_used) / static_cast<double>(s.blocks) : 0;
  const auto d = [](auto value) { return static_cast<double>(value); };
  add("tgi_queue_size", "Requests waiting for a place", Type::Gauge, d(s.waiting));
  add("tgi_batch_current_size", "Sequences running", Type::Gauge, d(s.running));
  add("tgi_batch_inference_count", "Steps run", Type::Counter, d(s.steps));
  add("tgi_batch_inference_success", "Steps run to their end", Type::Counter, d(s.steps));
  add("tgi_batch_max_total_tokens", "Tokens that the cache holds", Type::Gauge,
      d(service.limits.max_batch_total_tokens));
  add("vllm:prefix_cache_queries", "Prompt tokens looked up in the prefix cache", Type::Counter, d(s.prompt_tokens));
  add("vllm:prefix_cache_hits", "Prompt tokens found there", Type::Counter, d(s.cached_tokens));
  add("vllm:num_requests_swapped", "Always 0: sequences are computed again, not swapped", Type::Gauge, 0);
  add("vllm:cpu_cache_usage_perc", "Always 0: there is no second cache", Type::Gauge, 0);
  add("vllm:num_requests_running", "Sequences running", Type::Gauge, d(s.running));
  add("vllm:num_requests_waiting", "Requests waiting for a place", Type::Gauge, d(s.waiting));
  add("vllm:kv_cache_usage_perc", "Share of cache blocks in use, 0 to 1", Type::Gauge, used);
  add("vllm:gpu_cache_usage_perc", "Share of cache blocks in use, 0 to 1", Type::Gauge, used);
  add("vllm:num_preemptions_total", "Sequences put back for want of blocks", Type::Counter, d(s.preemptions));
  add("vllm:prompt_tokens_total", "Prompt tokens", Type::Counter, d(s.prompt_tokens));
  add("vllm:generation_tokens_total", "Generated tokens", Type::Counter, d(s.generated_tokens));
  add("sluice_cached_tokens_total", "Prompt tokens found in the prefix cache", Type::Counter, d(s.cached_tokens));
  add("sluice_requests_cancelled_total", "Requests cancelled", Type::Counter, d(s.cancelled));
  add("sluice_requests_failed_total", "Requests the engine lost", Type::Counter, d(s.failed));
  add("sluice_cache_blocks", "Cache blocks", Type::Gauge, d(s.blocks));
  add("sluice_cache_blocks_used", "Cache blocks in use", Type::Gauge, d(s.blocks_used));
  add("sluice_load_seconds", "Reading and packing the weights", Type::Gauge, service.load_seconds);
  add("sluice_warm_seconds", "First use of the device and recording of steps", Type::Gauge, service.warm_seconds);
  add("sluice_ready_seconds", "From start to ready", Type::Gauge, service.ready_seconds);
  add("sluice_leader_cpu_seconds_total", "CPU time of the leader's thread", Type::Counter, s.leader_seconds);
  // Triton's counters, per model name that its routes were asked for.
  const std::pair<const char*, double (*)(const CallStats&)> kCalls[] = {
      {"nv_inference_request_success", [](const CallStats& c) { return static_cast<double>(c.succeeded); }},
      {"nv_inference_request_failure", [](const CallStats& c) { return static_cast<double>(c.failed); }},
      {"nv_inference_count", [](const CallStats& c) { return static_cast<double>(c.inferences); }},
      {"nv_inference_exec_count", [](const CallStats& c) { return static_cast<double>(c.succeeded); }},
      {"nv_inference_request_duration_us", [](const CallStats& c) { return c.sum.total * 1e6; }},
      {"nv_inference_queue_duration_us", [](const CallStats& c) { return c.sum.queue * 1e6; }},
      {"nv_inference_compute_input_duration_us", [](const CallStats& c) { return c.sum.input * 1e6; }},
      {"nv_inference_compute_infer_duration_us", [](const CallStats& c) { return c.sum.infer * 1e6; }},
      {"nv_inference_compute_output_duration_us", [](const CallStats& c) { return c.sum.output * 1e6; }}};
  {
    std::lock_guard lock(impl_->call_mutex);
    for (const auto& [name, value] : kCalls) {
      prometheus::MetricFamily family = single(name, "Calls of Triton's routes, by model", Type::Counter, 0);
      family.metric.clear();
      for (const auto& [model, calls] : impl_->calls) {
        prometheus::ClientMetric metric;
        metric.counter.value = value(calls);
        metric.label = {{"model", model}, {"version", "1"}};
        family.metric.push_back(std::move(metric));
      }
      if (!family.metric.empty()) families.push_back(std::move(family));
    }
  }
  if (service.job_end > 0)
    add("sluice_job_end_time_seconds", "End of the job's time limit, seconds since 1970", Type::Gauge, service.job_end);
  std::ostringstream out;
  prometheus::TextSerializer().Serialize(out, families);
  return out.str();
}

}  // namespace sluice
