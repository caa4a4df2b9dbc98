// SPDX-License-Identifier: Apache-2.0
#include "base/error.h"

#include <fmt/format.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>

namespace sluice {
namespace {
std::string& name_storage() {
  static std::string name = "single process";
  return name;
}
std::atomic<void (*)(std::string_view)> fatal_hook{nullptr};
}  // namespace

void set_process_name(std::string name) { name_storage() = std::move(name); }
const std::string& process_name() { return name_storage(); }
void set_fatal_hook(void (*hook)(std::string_view)) { fatal_hook = hook; }

void fatal(std::string_view message, CodePlace where) {
  const std::string line =
      fmt::format("sluice: fatal: {} [{}:{}] ({})\n", message, where.file, where.line, process_name());
  std::fputs(line.c_str(), stderr);
  std::fflush(stderr);
  if (auto hook = fatal_hook.exchange(nullptr)) hook(message);
  std::abort();
}

}  // namespace sluice
