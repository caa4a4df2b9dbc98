// SPDX-License-Identifier: Apache-2.0
// One log for the process, on standard error: "time level message". Callers format with fmt in their .cpp files.
#pragma once

#include <string_view>

namespace sluice {

enum class LogLevel { kDebug, kInfo, kWarning, kError, kOff };

// Throws Error when the name is none of debug, info, warning, error, off.
LogLevel parse_log_level(std::string_view name);
void set_log_level(LogLevel level);

void log_debug(std::string_view message);
void log_info(std::string_view message);
void log_warning(std::string_view message);
void log_error(std::string_view message);

// A line without time or level, flushed at once: the JSON start line and the human block.
void log_raw(std::string_view line);

}  // namespace sluice
