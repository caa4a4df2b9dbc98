// SPDX-License-Identifier: Apache-2.0
// Filters, tests, methods and global functions of chat templates.
#pragma once

#include <optional>
#include <string_view>

#include "text/template_object.h"

namespace sluice {

bool is_template_filter(std::string_view name);
bool is_template_test(std::string_view name);
Value apply_filter(Evaluator& evaluator, std::string_view name, const Value& value, const Arguments& arguments);
bool apply_test(Evaluator& evaluator, std::string_view name, const Value& value, const Arguments& arguments);

bool has_method(const Value& value,
                std::string_view name);  // of strings, lists and dicts; those that cannot change them
Value call_method(const Value& value, std::string_view name, const Arguments& arguments);

// raise_exception, strftime_now, range, dict, namespace, cycler, joiner.
const Dict& template_globals();

// object[key], and object.name: Jinja's order of item and attribute. Undefined when there is neither.
Value get_item(const Value& object, const Value& key);
Value get_attribute(const Value& object, std::string_view name);

}  // namespace sluice
