// SPDX-License-Identifier: Apache-2.0
#include "app/help.h"

#include <fmt/format.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <sstream>
#include <utility>

#include "base/terminal.h"

namespace sluice {
namespace {

class Help final : public CLI::Formatter {
 public:
  Help() : columns_(std::min<size_t>(terminal_columns(STDOUT_FILENO), 120)), names_(columns_ < 72 ? 10 : 30) {
    column_width(names_);
  }

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
    CLI::detail::format_help(out, verb->get_display_name(true), described(verb->get_description()), names_);
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
  std::string described(const std::string& text) const { return wrapped(text, 0, columns_ - names_); }
  const size_t columns_, names_;  // of the terminal; of the options' names, where longer ones have a line of their own
};

// Letters to insert, drop or change.
size_t distance(std::string_view a, std::string_view b) {
  std::vector<size_t> row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (size_t i = 0; i < a.size(); ++i) {
    size_t corner = std::exchange(row[0], i + 1);
    for (size_t j = 0; j < b.size(); ++j) {
      const size_t change = corner + (a[i] != b[j]);
      corner = row[j + 1];
      row[j + 1] = std::min({change, corner + 1, row[j] + 1});
    }
  }
  return row.back();
}

// "; did you mean X?", or nothing where none is near.
std::string suggestion(const std::string& word, const std::vector<std::string>& known) {
  size_t best = 1 + word.size() / 3;
  std::string near;
  for (const std::string& name : known) {
    const size_t far = distance(word, name);
    if (far < best || (far == best && near.empty())) best = far, near = name;
  }
  return near.empty() ? "" : fmt::format("; did you mean {}?", near);
}

}  // namespace

std::string usage_error(const CLI::App& app, const std::vector<std::string>& words, const std::string& found) {
  const CLI::App* verb = &app;
  std::string name = "sluice";
  while (!verb->get_subcommands().empty()) {
    verb = verb->get_subcommands().front();
    name += " " + verb->get_name();
  }
  std::string text = found;
  // "--port: 1 required TEXT missing", as the library has it
  if (const size_t colon = found.find(": "); colon != found.npos && found.ends_with(" missing"))
    text = found.substr(0, colon) + " needs a value";
  constexpr std::string_view kNumber = "Could not convert: ";  // and "--port = x"
  if (const size_t equals = found.find(" = "); found.starts_with(kNumber) && equals != found.npos)
    text = fmt::format("{}: expected a number, found '{}'", found.substr(kNumber.size(), equals - kNumber.size()),
                       found.substr(equals + 3));
  const std::vector<std::string> rest = verb == &app ? words : verb->remaining();
  // The library lists words before options.
  const auto option = std::find_if(rest.begin(), rest.end(), [](const std::string& w) { return w.starts_with("--"); });
  std::vector<std::string> known;
  if (option != rest.end() && verb != &app) {
    for (const CLI::Option* one : verb->get_options())
      if (!one->get_lnames().empty()) known.push_back("--" + one->get_lnames().front());
    const std::string word = option->substr(0, option->find('='));
    text = fmt::format("there is no option {}{}", word, suggestion(word, known));
  } else if (!rest.empty()) {
    for (const CLI::App* one : verb->get_subcommands({}))
      if (!one->get_group().empty()) known.push_back(one->get_name());  // without those of the job scripts
    text = verb == &app ? fmt::format("there is no command '{}'{}", rest.front(), suggestion(rest.front(), known))
                        : fmt::format("'{}' is one word too many{}", rest.front(), suggestion(rest.front(), known));
  }
  return fmt::format("{}: {}\n{} --help says what it takes", name, text, name);
}

void set_help(CLI::App& app) { app.formatter(std::make_shared<Help>()); }

}  // namespace sluice
