// SPDX-License-Identifier: Apache-2.0
#include "app/help.h"

#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <sstream>

#include "app/terminal.h"

namespace sluice {
namespace {
constexpr size_t kNames = 30;  // columns of the options' names

class Help final : public CLI::Formatter {
 public:
  Help() : columns_(std::min<size_t>(terminal_columns(STDOUT_FILENO), 120)) { column_width(kNames); }

  std::string make_option_opts(const CLI::Option* option) const override {
    const std::string type = option->get_type_name();
    if (type.empty()) return {};  // a flag
    const size_t set = type.find('{');
    const bool number = type.starts_with("INT") || type.starts_with("UINT") || type.starts_with("FLOAT");
    std::string out = set != type.npos ? " " + type.substr(set, type.find('}') + 1 - set) : number ? " N" : " TEXT";
    if (option->get_positional()) out.clear();
    if (option->get_expected_max() == CLI::detail::expected_max_vector_size) out += " ...";
    return out;
  }
  std::string make_option_desc(const CLI::Option* option) const override {
    std::string text = option->get_description();
    if (!option->get_default_str().empty()) text += " Default: " + option->get_default_str() + ".";
    return described(text);
  }
  std::string make_subcommand(const CLI::App* verb) const override {
    std::stringstream out;
    CLI::detail::format_help(out, verb->get_display_name(true), described(verb->get_description()), kNames);
    return out.str();
  }
  std::string make_description(const CLI::App* app) const override {
    return wrapped(app->get_description(), 0, columns_) + "\n";
  }
  std::string make_footer(const CLI::App* app) const override {
    return app->get_footer().empty() ? "" : wrapped(app->get_footer(), 0, columns_) + "\n";
  }

 private:
  // Later lines are indented by the library.
  std::string described(const std::string& text) const { return wrapped(text, 0, columns_ - kNames); }
  const size_t columns_;
};

}  // namespace

void set_help(CLI::App& app) { app.formatter(std::make_shared<Help>()); }

}  // namespace sluice
