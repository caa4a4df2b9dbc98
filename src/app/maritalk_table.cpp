// SPDX-License-Identifier: Apache-2.0
#include "app/maritalk_table.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>

namespace sluice {
namespace {
constexpr const char* kIndex = "concurrency";

double mean_of(const std::vector<double>& values) {
  double sum = 0;
  for (const double v : values) sum += v;
  return sum / static_cast<double>(values.size());
}
double median_of(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const size_t half = values.size() / 2;
  return values.size() % 2 == 1 ? values[half] : (values[half - 1] + values[half]) / 2;
}
double deviation_of(const std::vector<double>& values) {  // of a sample
  if (values.size() < 2) return std::numeric_limits<double>::quiet_NaN();
  const double mean = mean_of(values);
  double sum = 0;
  for (const double v : values) sum += (v - mean) * (v - mean);
  return std::sqrt(sum / static_cast<double>(values.size() - 1));
}

std::string number(double value) { return std::isnan(value) ? "NaN" : fmt::format("{:.1f}", value); }

struct Column {
  std::string group, name;
  std::vector<double> values;
  // Numbers have a place for a sign; `lead`: names have it too.
  size_t width(bool lead) const {
    size_t out = std::max(group.size(), name.size() + (lead ? 1 : 0));
    for (const double v : values) out = std::max(out, number(v).size() + (std::isnan(v) ? 0 : 1));
    return out;
  }
};

std::string body(const std::vector<MaritalkRow>& rows, const std::vector<Column>& columns, bool lead) {
  const size_t index = std::string(kIndex).size();
  std::string out = std::string(index, ' ');
  size_t blank = 0;
  for (const Column& c : columns) {
    out += fmt::format(" {:>{}}", c.name, c.width(lead));
    blank += 1 + c.width(lead);
  }
  out += fmt::format("\n{}{:>{}}\n", kIndex, "", blank);
  for (size_t r = 0; r < rows.size(); ++r) {
    out += fmt::format("{:<{}}", rows[r].concurrency, index);
    for (const Column& c : columns) out += fmt::format(" {:>{}}", number(c.values[r]), c.width(lead));
    out += '\n';
  }
  return out;
}

}  // namespace

std::vector<MaritalkRow> maritalk_rows(const std::vector<MaritalkRound>& rounds, int64_t least) {
  struct Values {
    std::vector<double> generated, total, system;
  };
  std::map<int64_t, Values> levels;
  for (const MaritalkRound& round : rounds) {
    Values& v = levels[round.concurrency];
    std::vector<double> times;
    int64_t tokens = 0;
    for (const LoadRequest& r : round.requests) {
      if (!r.error.empty() || r.tokens < least) continue;
      v.generated.push_back(static_cast<double>(r.tokens) / r.generation);
      v.total.push_back(static_cast<double>(r.prompt_tokens + r.tokens) / r.e2e);
      times.push_back(r.e2e);
      tokens += r.prompt_tokens + r.tokens;
    }
    if (!times.empty()) v.system.push_back(static_cast<double>(tokens) / median_of(times));
  }
  std::vector<MaritalkRow> out;
  for (const auto& [concurrency, v] : levels) {
    if (v.system.empty()) continue;
    MaritalkRow& row = out.emplace_back();
    row.concurrency = concurrency;
    row.generated[0] = mean_of(v.generated), row.generated[1] = median_of(v.generated);
    row.generated[2] = deviation_of(v.generated);
    row.total[0] = mean_of(v.total), row.total[1] = median_of(v.total), row.total[2] = deviation_of(v.total);
    row.system[0] = median_of(v.system), row.system[1] = deviation_of(v.system);
  }
  return out;
}

std::string maritalk_table(const std::vector<MaritalkRow>& rows) {
  constexpr const char* kNames[] = {"mean", "median", "std"};
  std::vector<Column> columns, system;
  for (size_t i = 0; i < 6; ++i) {
    Column& c = columns.emplace_back();
    if (i % 3 == 0) c.group = i == 0 ? "generated_tps" : "total_tps";
    c.name = kNames[i % 3];
    for (const MaritalkRow& row : rows) c.values.push_back(i < 3 ? row.generated[i] : row.total[i - 3]);
  }
  for (size_t i = 0; i < 2; ++i) {
    Column& c = system.emplace_back();
    c.name = kNames[i + 1];
    for (const MaritalkRow& row : rows) c.values.push_back(row.system[i]);
  }
  std::string out = std::string(std::string(kIndex).size(), ' ');
  for (const Column& c : columns) out += fmt::format(" {:>{}}", c.group, c.width(false));
  return out + "\n" + body(rows, columns, false) + "\nSystem tokens\n" + body(rows, system, true);
}

}  // namespace sluice
