// SPDX-License-Identifier: Apache-2.0
#include "app/bench_report.h"

#include <fmt/format.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "app/plot.h"

namespace sluice {
namespace {

nlohmann::ordered_json as_json(const Percentiles& p) {
  return {{"count", p.count}, {"mean", p.mean}, {"p50", p.p50}, {"p90", p.p90}, {"p99", p.p99}, {"max", p.max}};
}

nlohmann::ordered_json as_json(const BenchLevel& level, const LoadTargets& targets) {
  const LoadReport& r = level.report;
  nlohmann::ordered_json out = {{"streams", level.streams}};
  if (level.rate > 0) out["rate"] = level.rate;
  out.update({{"started", r.started},
              {"finished", r.finished},
              {"failed", r.failed},
              {"late", r.late},
              {"errors", r.errors},
              {"tokens", r.tokens},
              {"prompt_tokens", r.prompt_tokens},
              {"seconds", r.seconds},
              {"tokens_per_s", r.tokens_per_second},
              {"requests_per_s", r.requests_per_second},
              {"answered_s", r.answered_seconds},
              {"connect_s", as_json(r.connect)},
              {"ttft_s", as_json(r.ttft)},
              {"itl_s", as_json(r.itl)},
              {"tpot_s", as_json(r.tpot)},
              {"e2e_s", as_json(r.e2e)},
              {"health_s", as_json(r.health)},
              {"health_failures", r.health_failures}});
  if (targets.any()) out["goodput_per_s"] = level.goodput;
  return out;
}

std::string row(const char* name, const Percentiles& p) {
  if (p.count == 0) return {};
  return fmt::format("{:<9}{:>10.2f}{:>10.2f}{:>10.2f}{:>10.2f}{:>10.2f}\n", name, p.mean * 1e3, p.p50 * 1e3,
                     p.p90 * 1e3, p.p99 * 1e3, p.max * 1e3);
}

nlohmann::ordered_json number(double value) {  // JSON knows no NaN
  return std::isfinite(value) ? nlohmann::ordered_json(value) : nlohmann::ordered_json(nullptr);
}

std::string quoted(std::string text) {
  for (size_t at = 0; (at = text.find('"', at)) != std::string::npos; at += 2) text.insert(at, 1, '"');
  return "\"" + text + "\"";
}

}  // namespace

std::string level_text(const BenchLevel& level, const LoadTargets& targets) {
  const LoadReport& r = level.report;
  std::string out = level.rate > 0 ? fmt::format("{} requests/s by chance: ", level.rate)
                                   : fmt::format("{} streams: ", level.streams);
  out += fmt::format("{} requests finished, {} failed, {} tokens in {:.2f} s\n", r.finished, r.failed, r.tokens,
                     r.seconds);
  out += fmt::format("{:.1f} tokens/s, {:.2f} requests/s", r.tokens_per_second, r.requests_per_second);
  if (targets.any()) out += fmt::format(", {:.2f} of them within the targets", level.goodput);
  if (level.rate <= 0) out += fmt::format("; every stream answered after {:.0f} ms", r.answered_seconds * 1e3);
  out += fmt::format("\n{:<9}{:>10}{:>10}{:>10}{:>10}{:>10}\n", "ms", "mean", "p50", "p90", "p99", "max");
  out += row("connect", r.connect) + row("ttft", r.ttft) + row("itl", r.itl) + row("tpot", r.tpot) + row("e2e", r.e2e) +
         row("health", r.health);
  if (r.health_failures > 0) out += fmt::format("health: {} of {} probes failed\n", r.health_failures, r.health.count);
  if (r.late > 0)
    out += fmt::format("{} times an arrival had to wait: all {} streams were under way\n", r.late, level.streams);
  for (const auto& [reason, count] : r.errors) out += fmt::format("failed {:>6}: {}\n", count, reason);
  return out;
}

std::string sweep_text(const BenchResult& result) {
  const bool rates = !result.levels.empty() && result.levels[0].rate > 0;
  std::string out = fmt::format("{:>11} {:>9} {:>7} {:>9} {:>9}{:>21}{:>21}{:>21}\n", "", "", "", "", "", "ttft, ms",
                                "tpot, ms", "e2e, ms");
  out += fmt::format("{:>11} {:>9} {:>7} {:>9} {:>9}", rates ? "rate" : "concurrency", "requests", "failed", "tokens/s",
                     "req/s");
  for (int i = 0; i < 3; ++i) out += fmt::format("{:>11}{:>10}", "p50", "p99");
  out += result.targets.any() ? "  goodput/s\n" : "\n";
  for (const BenchLevel& level : result.levels) {
    const LoadReport& r = level.report;
    out += fmt::format("{:>11} {:>9} {:>7} {:>9.1f} {:>9.2f}", rates ? level.rate : static_cast<double>(level.streams),
                       r.finished, r.failed, r.tokens_per_second, r.requests_per_second);
    for (const Percentiles* p : {&r.ttft, &r.tpot, &r.e2e})
      out += fmt::format("{:>11.1f}{:>10.1f}", p->p50 * 1e3, p->p99 * 1e3);
    out += result.targets.any() ? fmt::format("{:>11.2f}\n", level.goodput) : "\n";
  }
  return out;
}

std::string as_json_text(const BenchResult& result) {
  nlohmann::ordered_json out = {
      {"url", result.url}, {"api", result.api}, {"model", result.model}, {"max_tokens", result.max_tokens}};
  if (result.targets.any())
    out["targets_s"] = {{"ttft", result.targets.ttft}, {"tpot", result.targets.tpot}, {"e2e", result.targets.e2e}};
  out["levels"] = nlohmann::ordered_json::array();
  for (const BenchLevel& level : result.levels) out["levels"].push_back(as_json(level, result.targets));
  for (const MaritalkRow& row : result.maritalk) {
    const auto three = [](const double* v) -> nlohmann::ordered_json {
      return {{"mean", number(v[0])}, {"median", number(v[1])}, {"std", number(v[2])}};
    };
    out["maritalk"].push_back({{"concurrency", row.concurrency},
                               {"generated_tps", three(row.generated)},
                               {"total_tps", three(row.total)},
                               {"system_tokens", {{"median", number(row.system[0])}, {"std", number(row.system[1])}}}});
  }
  return out.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n";
}

std::string as_csv(const BenchResult& result) {
  std::string out =
      "concurrency,rate,request,start_s,ttft_s,tpot_s,e2e_s,generation_s,prompt_tokens,tokens,generated_tps,total_tps,"
      "error\n";
  for (const BenchLevel& level : result.levels) {
    for (const LoadRequest& r : level.report.all) {
      const double generated = r.generation > 0 ? static_cast<double>(r.tokens) / r.generation : 0;
      const double total = r.e2e > 0 ? static_cast<double>(r.prompt_tokens + r.tokens) / r.e2e : 0;
      out += fmt::format("{},{},{},{:.6f},{:.6f},{:.6f},{:.6f},{:.6f},{},{},{:.3f},{:.3f},{}\n", level.streams,
                         level.rate, r.serial, r.start, r.ttft, r.tpot, r.e2e, r.generation, r.prompt_tokens, r.tokens,
                         generated, total, r.error.empty() ? "" : quoted(r.error));
    }
  }
  return out;
}

std::string as_svg(const BenchResult& result) {
  const bool rates = !result.levels.empty() && result.levels[0].rate > 0;
  const std::string x_name = rates ? "arrivals per second" : "concurrency";
  std::vector<double> x;
  PlotLine tokens{"tokens/s", {}, {}}, ttft50{"ttft p50", {}, {}}, ttft99{"ttft p99", {}, {}},
      tpot50{"tpot p50", {}, {}}, tpot99{"tpot p99", {}, {}};
  for (const BenchLevel& level : result.levels) {
    const LoadReport& r = level.report;
    x.push_back(rates ? level.rate : static_cast<double>(level.streams));
    tokens.y.push_back(r.tokens_per_second);
    ttft50.y.push_back(r.ttft.p50 * 1e3), ttft99.y.push_back(r.ttft.p99 * 1e3);
    tpot50.y.push_back(r.tpot.p50 * 1e3), tpot99.y.push_back(r.tpot.p99 * 1e3);
  }
  std::vector<PlotPanel> panels;
  if (!result.maritalk.empty()) {
    PlotPanel panel{"Tokens per second, median",
                    "concurrency",
                    "tokens/s",
                    {},
                    {{"generated_tps", {}, {}}, {"total_tps", {}, {}}, {"system_tps", {}, {}}}};
    for (const MaritalkRow& row : result.maritalk) {
      panel.x.push_back(static_cast<double>(row.concurrency));
      const double values[3][2] = {
          {row.generated[1], row.generated[2]}, {row.total[1], row.total[2]}, {row.system[0], row.system[1]}};
      for (size_t i = 0; i < 3; ++i) {
        panel.lines[i].y.push_back(values[i][0]);
        panel.lines[i].spread.push_back(values[i][1]);
      }
    }
    panels.push_back(std::move(panel));
  } else {
    panels.push_back({"Throughput", x_name, "tokens/s", x, {tokens}});
  }
  panels.push_back({"Time to first token", x_name, "ms", x, {ttft50, ttft99}});
  panels.push_back({"Time per output token", x_name, "ms", x, {tpot50, tpot99}});
  return draw_plot(
      fmt::format("{} {}, {} tokens", result.model.empty() ? result.url : result.model, result.api, result.max_tokens),
      panels);
}

}  // namespace sluice
