// SPDX-License-Identifier: Apache-2.0
// For people and for compare_tokenizers.py: `tokenizer_tool FOLDER` answers lines of JSON on standard input, in order:
//   {"text": T, "special": B} with the ids, {"ids": [...], "skip": B} with {"text": T, "streamed": T2}, T2 from the
//   incremental detokeniser. `tokenizer_tool FOLDER --time FILE SECONDS` encodes the file's paragraphs again and again
//   on
// one thread and prints MB per second of processor time.
#include <fmt/format.h>

#include <cstdio>
#include <ctime>
#include <iostream>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/file.h"
#include "text/detokenizer.h"
#include "text/tokenizer.h"
#include "text/value.h"

namespace sluice {
namespace {

const Value& field(const Value& line, std::string_view key) {
  const Value* value = line.find(key);
  if (value == nullptr) throw Error(fmt::format("a line lacks \"{}\"", key));
  return *value;
}

Value answer(const Tokenizer& tokenizer, const Value& line) {
  if (const Value* text = line.find("text")) {
    List ids;
    for (const int32_t id : tokenizer.encode(text->as_string(), field(line, "special").as_bool())) ids.emplace_back(id);
    return Value(std::move(ids));
  }
  std::vector<int32_t> ids;
  for (const Value& id : field(line, "ids").as_list()) ids.push_back(static_cast<int32_t>(id.as_int()));
  const bool skip = field(line, "skip").as_bool();
  Detokenizer detokenizer(tokenizer, skip);
  std::string streamed;
  for (const int32_t id : ids) detokenizer.append(id, streamed);
  detokenizer.finish(streamed);
  Dict out;
  out.set("text", tokenizer.decode(ids, skip));
  out.set("streamed", streamed);
  return Value(std::move(out));
}

void time_file(const Tokenizer& tokenizer, const std::string& path, double seconds) {
  const std::string text = read_file(path);
  std::vector<std::string_view> parts;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.find("\n\n", begin), text.size());
    if (end > begin) parts.push_back(std::string_view(text).substr(begin, end - begin));
    begin = end + 2;
  }
  size_t bytes = 0, ids = 0;
  const std::clock_t start = std::clock();
  double spent = 0;
  for (bool first = true; first || spent < seconds; first = false) {
    for (const std::string_view part : parts) {
      ids += tokenizer.encode(part, false).size();
      bytes += part.size();
    }
    spent = static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC;
  }
  fmt::print("{:.3f} {} {}\n", static_cast<double>(bytes) / spent / 1e6, bytes, ids);
}

int run(const std::vector<std::string>& args) {
  if (args.size() != 1 && !(args.size() == 4 && args[1] == "--time")) {
    fmt::print(stderr, "usage: tokenizer_tool FOLDER [--time FILE SECONDS]\n");
    return 2;
  }
  const auto tokenizer = Tokenizer::load(args[0]);
  if (args.size() == 4) {
    time_file(*tokenizer, args[2], std::stod(args[3]));
    return 0;
  }
  for (std::string line; std::getline(std::cin, line);)
    std::cout << answer(*tokenizer, Value::parse_json(line)).dump_compact() << '\n';
  return 0;
}

}  // namespace
}  // namespace sluice

int main(int argc, char** argv) {
  try {
    return sluice::run(std::vector<std::string>(argv + 1, argv + argc));
  } catch (const std::exception& error) {
    fmt::print(stderr, "{}\n", error.what());
    return 1;
  }
}
