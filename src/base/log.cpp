// SPDX-License-Identifier: Apache-2.0
#include "base/log.h"

#include <fmt/format.h>
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <cstdio>

#include "base/error.h"
#include "base/terminal.h"

namespace sluice {
namespace {
spdlog::logger& logger() {
  static auto instance = [] {
    auto made = std::make_shared<spdlog::logger>("sluice", std::make_shared<spdlog::sinks::stderr_sink_mt>());
    made->set_pattern("%Y-%m-%d %H:%M:%S.%e %l %v");
    made->flush_on(spdlog::level::info);
    return made;
  }();
  return *instance;
}

// Behind date, time and level, which the logger puts before it.
std::string placed(std::string_view message, std::string_view level) {
  const std::string before(24 + level.size(), '-');
  const std::string text = fitted(fmt::format("{} {}", before, message), STDERR_FILENO).substr(before.size());
  return text.starts_with(' ') ? text.substr(1) : text;  // or all of it has moved to the next line
}
}  // namespace

LogLevel parse_log_level(std::string_view name) {
  if (name == "debug") return LogLevel::kDebug;
  if (name == "info") return LogLevel::kInfo;
  if (name == "warning") return LogLevel::kWarning;
  if (name == "error") return LogLevel::kError;
  if (name == "off") return LogLevel::kOff;
  throw Error(fmt::format("log level '{}' is unknown; expected debug, info, warning, error or off", name));
}

void set_log_level(LogLevel level) {
  switch (level) {
    case LogLevel::kDebug:
      logger().set_level(spdlog::level::debug);
      break;
    case LogLevel::kInfo:
      logger().set_level(spdlog::level::info);
      break;
    case LogLevel::kWarning:
      logger().set_level(spdlog::level::warn);
      break;
    case LogLevel::kError:
      logger().set_level(spdlog::level::err);
      break;
    case LogLevel::kOff:
      logger().set_level(spdlog::level::off);
      break;
  }
}

void log_debug(std::string_view message) { logger().debug("{}", placed(message, "debug")); }
void log_info(std::string_view message) { logger().info("{}", placed(message, "info")); }
void log_warning(std::string_view message) { logger().warn("{}", placed(message, "warning")); }
void log_error(std::string_view message) { logger().error("{}", placed(message, "error")); }

void log_raw(std::string_view line) {
  std::fwrite(line.data(), 1, line.size(), stderr);
  if (line.empty() || line.back() != '\n') std::fputc('\n', stderr);
  std::fflush(stderr);
}

}  // namespace sluice
