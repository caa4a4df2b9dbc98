// SPDX-License-Identifier: Apache-2.0
#include "app/served_model.h"

#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <optional>

#include "base/error.h"
#include "base/file.h"
#include "weights/nemo.h"

namespace sluice {
namespace {

// Tokenizer files of an archive, in a folder that lasts as long as they are read.
class UnpackedTokenizer {
 public:
  explicit UnpackedTokenizer(const std::filesystem::path& archive) {
    const auto files = nemo_tokenizer_files(archive);
    if (files.empty()) throw Error(fmt::format("{} names no tokenizer files; pass --tokenizer DIR", archive.string()));
    std::string name = (std::filesystem::temp_directory_path() / "sluice-tokenizer-XXXXXX").string();
    if (::mkdtemp(name.data()) == nullptr)
      throw Error(fmt::format("cannot make a folder for the tokenizer of {}: {}", name, std::strerror(errno)));
    path_ = name;
    for (const auto& [file, content] : files) replace_file(path_ / file, content);
  }
  UnpackedTokenizer(const UnpackedTokenizer&) = delete;
  UnpackedTokenizer& operator=(const UnpackedTokenizer&) = delete;
  ~UnpackedTokenizer() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

// Tokenizer and chat template of what is served.
void read_text(const Settings& settings, ServedModel& served) {
  const bool has_files = !served.null && served.source.random_shape.empty();
  std::optional<UnpackedTokenizer> unpacked;
  if (has_files && !settings.has("tokenizer") && served.source.folder.extension() == ".nemo")
    unpacked.emplace(served.source.folder);
  const std::filesystem::path tokenizer = settings.has("tokenizer") ? std::filesystem::path(settings.text("tokenizer"))
                                          : unpacked                ? unpacked->path()
                                          : has_files               ? served.source.folder
                                                                    : std::filesystem::path();
  served.tokenizer = tokenizer.empty() ? Tokenizer::bytes() : Tokenizer::load(tokenizer);
  if (settings.has("chat-template")) {
    Dict special;
    for (const auto& [name, token] : served.tokenizer->special_tokens()) special.set(name, token);
    served.chat = ChatTemplate::choose(settings.text("chat-template"), special);
  } else if (!tokenizer.empty()) {
    served.chat = ChatTemplate::load(tokenizer);
  }
  if (served.null || served.tokenizer->vocab_size() <= served.info.vocab) return;
  throw Error(fmt::format("the tokenizer in {} has {} tokens and the model only {}; they do not belong together",
                          tokenizer.empty() ? "bytes" : tokenizer.string(), served.tokenizer->vocab_size(),
                          served.info.vocab));
}
}  // namespace

ServedModel read_served_model(const Settings& settings, bool look) {
  ServedModel served;
  served.source = model_source(settings);
  if (const auto rate = null_rate(served.source.folder)) {
    served.null = true;
    served.null_rate = *rate;
  }
  served.name = served.source.random_shape.empty() ? settings.text("model") : served.source.random_shape;
  while (served.name.size() > 1 && served.name.back() == '/') served.name.pop_back();
  if (!served.null) served.info = read_model_info(served.source);
  try {
    read_text(settings, served);
  } catch (const Error& error) {
    if (!look) throw;
    served.no_tokenizer = error.what();
    served.tokenizer.reset(), served.chat.reset();
    return served;
  }
  if (served.null) {
    served.info.family = served.info.name = "null";
    served.info.vocab = served.tokenizer->vocab_size();
    served.info.max_positions = 8192;
    served.info.dtype = "none";
    return served;
  }
  served.grammars = std::make_shared<GrammarCompiler>(*served.tokenizer, served.info.vocab, served.info.eos);
  return served;
}

}  // namespace sluice
