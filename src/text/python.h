// SPDX-License-Identifier: Apache-2.0
// Python's meaning of operators on template values. Failing operations throw RequestError(kTemplate).
#pragma once

#include <string>
#include <string_view>

#include "text/value.h"

namespace sluice::python {

inline constexpr size_t kMaxText = 64u << 20;  // bytes of one string
inline constexpr size_t kMaxItems = 1u << 20;  // items of one list

[[noreturn]] void fail(const std::string& message);
void require_defined(const Value& value);  // fails with the undefined value's message

std::string type_name(const Value& value);  // "str", "int", ...
bool truthy(const Value& value);
std::string str(const Value& value);   // as {{ value }} prints it
std::string repr(const Value& value);  // as it prints inside a list
bool equal(const Value& a, const Value& b);
bool less(const Value& a, const Value& b, const char* op = "<");
bool contains(const Value& container, const Value& item);
Value binary(std::string_view op, const Value& a, const Value& b);  // + - * / // % **
Value negate(const Value& value);
int64_t length(const Value& value);
List items(const Value& value);  // iteration: list items, dict keys, characters; undefined is empty
Value slice(const Value& value, const Value& start, const Value& stop, const Value& step);

// format % arguments: %s %r %d %i %x %X %o %f %F %e %g with flags, width and precision, and %(key)s.
std::string format_percent(const std::string& format, const Value& arguments);
std::vector<std::string> characters(std::string_view text);  // one string per code point

}  // namespace sluice::python
