// SPDX-License-Identifier: Apache-2.0
#include "text/tokenizer.h"

#include <fmt/format.h>

#include <algorithm>
#include <mutex>

#include "base/error.h"
#include "base/file.h"
#include "base/log.h"
#include "text/added_tokens.h"
#include "text/byte_level.h"
#include "text/decoder.h"
#include "text/detokenizer.h"
#include "text/import.h"
#include "text/model_files.h"
#include "text/normalizer.h"
#include "text/post_processor.h"
#include "text/pre_tokenizer.h"
#include "text/token_model.h"
#include "text/unicode.h"
#include "text/word_cache.h"

namespace sluice {

// What one encode call works with. Kept between calls, for the words it remembers.
struct EncodeMemory {
  TokenModel::Memory model;
  WordCache words;
  Pieces pieces;
  std::string normal;
};

struct Tokenizer::Impl {
  Impl(const Value& json, const Value& config, const std::string& origin);

  Normalizer normalizer;
  PreTokenizer pre_tokenizer;
  std::unique_ptr<TokenModel> model;
  PostProcessor post_processor;
  AddedTokens added;
  std::vector<std::string> tokens;  // by id, added ones included
  std::map<std::string, std::string, std::less<>> named;
  DecodeTable decode_table;

  void encode_text(std::string_view text, EncodeMemory& memory, std::vector<int32_t>& out) const;
  std::unique_ptr<EncodeMemory> borrow() const;
  void give_back(std::unique_ptr<EncodeMemory> memory) const;
  std::optional<int32_t> id(std::string_view token) const;

 private:
  void encode_piece(std::string_view piece, EncodeMemory& memory, std::vector<int32_t>& out) const;
  mutable std::mutex mutex_;
  mutable std::vector<std::unique_ptr<EncodeMemory>> idle_;  // as many as calls ran at once
  void add_tokens(const Value& json, const Value& config, const std::string& origin);
  void name_tokens(const Value& config);
  void rebuild_template(const Value& config, const std::string& origin);
};

namespace {
constexpr size_t kKeptText = 256 << 10;  // bytes; the memory of a longer text is freed at once
constexpr size_t kKeptMemories = 64;

const Value* component(const Value& json, std::string_view key) {
  const Value* value = json.find(key);
  return value == nullptr || value->is_null() ? nullptr : value;
}

std::unique_ptr<TokenModel> load_model(const Value& json, const std::string& origin) {
  const Value* model = component(json, "model");
  if (model == nullptr || !model->is_dict()) throw Error(fmt::format("{}: \"model\" is missing", origin));
  return TokenModel::load({*model, origin + ": model"});
}

template <class T>
T load_component(const Value& json, const char* key, const std::string& origin) {
  const Value* value = component(json, key);
  return value == nullptr ? T() : T(ComponentJson{*value, fmt::format("{}: {}", origin, key)});
}

// transformers sets add_prefix_space of a ByteLevel that stands alone from the configuration, false where it is silent.
PreTokenizer load_pre_tokenizer(const Value& json, const Value& config, const std::string& origin) {
  const Value* value = component(json, "pre_tokenizer");
  const Value* type = value != nullptr ? value->find("type") : nullptr;
  if (type == nullptr || !type->is_string() || type->as_string() != "ByteLevel" || config.as_dict().empty())
    return load_component<PreTokenizer>(json, "pre_tokenizer", origin);
  Dict changed = value->as_dict();
  const Value* prefix = config.find("add_prefix_space");
  changed.set("add_prefix_space", prefix != nullptr && prefix->is_bool() && prefix->as_bool());
  const Value set(std::move(changed));
  return PreTokenizer(ComponentJson{set, origin + ": pre_tokenizer"});
}

// A special token in tokenizer_config.json is a string or an added token's object.
std::optional<AddedToken> config_token(const Value* value) {
  if (value == nullptr) return std::nullopt;
  if (value->is_string()) {
    AddedToken token;
    token.content = value->as_string();
    token.normalized = false;
    token.special = true;
    return token;
  }
  if (!value->is_dict() || value->find("content") == nullptr) return std::nullopt;
  AddedToken token = AddedToken::from_json(*value, false);
  token.special = true;
  return token;
}

}  // namespace

Tokenizer::Impl::Impl(const Value& json, const Value& config, const std::string& origin)
    : normalizer(load_component<Normalizer>(json, "normalizer", origin)),
      pre_tokenizer(load_pre_tokenizer(json, config, origin)),
      model(load_model(json, origin)),
      post_processor(load_component<PostProcessor>(json, "post_processor", origin)) {
  add_tokens(json, config, origin);
  name_tokens(config);
  added.build(normalizer);
  if (pre_tokenizer.ends_with_byte_map() && model->read_bytes()) pre_tokenizer.drop_byte_map();
  tokens = model->tokens();
  for (const auto& [id, token] : added.by_id()) {
    if (static_cast<size_t>(id) >= tokens.size()) tokens.resize(static_cast<size_t>(id) + 1);
    tokens[static_cast<size_t>(id)] = token.content;
  }
  std::vector<uint8_t> special(tokens.size());
  for (size_t id = 0; id < tokens.size(); ++id) special[id] = added.is_special(tokens[id]);
  decode_table = compile_decoder(component(json, "decoder"), origin + ": decoder", tokens, special);
  rebuild_template(config, origin);
  for (const auto* ids : {&post_processor.before, &post_processor.after}) {
    for (const int32_t id : *ids) {
      if (id >= 0 && static_cast<size_t>(id) < tokens.size()) continue;
      throw Error(
          fmt::format("{}: post_processor adds token {}, expected one of the vocabulary (0 to {}); the file is "
                      "incomplete, copy or download it again",
                      origin, id, static_cast<int64_t>(tokens.size()) - 1));
    }
  }
}

void Tokenizer::Impl::add_tokens(const Value& json, const Value& config, const std::string& origin) {
  const auto model_id = [this](const std::string& token) { return model->id(token).value_or(-1); };
  if (const Value* list = component(json, "added_tokens"); list != nullptr && list->is_list()) {
    for (const Value& item : list->as_list()) {
      const AddedToken token = AddedToken::from_json(item, true);
      added.add(token, model_id, model->size());
      const Value* stated = item.find("id");
      if (stated != nullptr && stated->is_int() && stated->as_int() != added.id(token.content)) {
        log_warning(fmt::format("{}: added token {} says id {} but gets {}", origin, token.content, stated->as_int(),
                                added.id(token.content)));
      }
    }
  }
  // The configuration's flags win over the file's.
  const Value* decoder = config.find("added_tokens_decoder");
  if (decoder == nullptr || !decoder->is_dict()) return;
  std::vector<std::pair<int64_t, const Value*>> entries;
  for (const auto& [id, value] : decoder->as_dict().entries()) entries.emplace_back(std::atoll(id.c_str()), &value);
  std::sort(entries.begin(), entries.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
  for (const auto& [id, value] : entries) added.add(AddedToken::from_json(*value, true), model_id, model->size());
}

void Tokenizer::Impl::name_tokens(const Value& config) {
  const auto model_id = [this](const std::string& token) { return model->id(token).value_or(-1); };
  const auto name = [&](const char* key, const Value* value) {
    std::optional<AddedToken> token = config_token(value);
    if (!token || token->content.empty()) return;
    if (key != nullptr) named[key] = token->content;
    const int32_t known = added.id(token->content);
    if (known >= 0) {
      if (added.is_special(token->content)) return;
      const AddedToken kept = added.by_id().at(known);
      token = kept;
      token->special = true;
    }
    added.add(*token, model_id, model->size());
  };
  for (const char* key : kNamedTokens) name(key, config.find(key));
  if (const Value* more = config.find("additional_special_tokens"); more != nullptr && more->is_list()) {
    for (const Value& value : more->as_list()) name(nullptr, &value);
  }
}

namespace {
// Classes of transformers that replace the file's template by add_bos_token and add_eos_token, with their defaults.
struct RebuildingClass {
  const char *name, *bos, *eos;
  bool add_bos;
};
constexpr RebuildingClass kRebuilding[] = {{"LlamaTokenizer", "<s>", "</s>", true},
                                           {"CodeLlamaTokenizer", "<s>", "</s>", true},
                                           {"GemmaTokenizer", "<bos>", "<eos>", true},
                                           {"CohereTokenizer", "<BOS_TOKEN>", "<|END_OF_TURN_TOKEN|>", true},
                                           {"GPTNeoXTokenizer", "<|endoftext|>", "<|endoftext|>", false}};
}  // namespace

void Tokenizer::Impl::rebuild_template(const Value& config, const std::string& origin) {
  std::string class_name = named_token(config, "tokenizer_class");
  if (class_name.ends_with("Fast")) class_name.resize(class_name.size() - 4);
  const auto* known = std::find_if(std::begin(kRebuilding), std::end(kRebuilding),
                                   [&](const RebuildingClass& c) { return c.name == class_name; });
  if (known == std::end(kRebuilding)) return;
  const ComponentJson options{config, origin};
  post_processor = {};
  const auto put = [&](const char* flag, bool fallback, const char* token, const char* usual,
                       std::vector<int32_t>& ids) {
    if (!options.flag(flag, fallback)) return;
    const auto it = named.find(token);
    const auto found = id(it != named.end() ? it->second : usual);
    if (!found)
      options.refuse(
          fmt::format("{} is set but {} is not in the vocabulary", flag, it != named.end() ? it->second : usual));
    ids.push_back(*found);
  };
  put("add_bos_token", known->add_bos, "bos_token", known->bos, post_processor.before);
  put("add_eos_token", false, "eos_token", known->eos, post_processor.after);
}

std::optional<int32_t> Tokenizer::Impl::id(std::string_view token) const {
  if (const int32_t found = added.id(token); found >= 0) return found;
  return model->id(token);
}

std::unique_ptr<EncodeMemory> Tokenizer::Impl::borrow() const {
  const std::lock_guard lock(mutex_);
  if (idle_.empty()) return std::make_unique<EncodeMemory>();
  auto memory = std::move(idle_.back());
  idle_.pop_back();
  return memory;
}

void Tokenizer::Impl::give_back(std::unique_ptr<EncodeMemory> memory) const {
  const std::lock_guard lock(mutex_);
  if (idle_.size() < kKeptMemories) idle_.push_back(std::move(memory));
}

void Tokenizer::Impl::encode_piece(std::string_view piece, EncodeMemory& memory, std::vector<int32_t>& out) const {
  for (size_t begin = 0, end = 0; begin < piece.size(); begin = end) {
    end = model->word_end(piece, begin);
    const std::string_view word = piece.substr(begin, end - begin);
    if (memory.words.find(word, out)) continue;
    const size_t before = out.size();
    model->encode(word, memory.model, out);
    memory.words.keep(word, std::span(out).subspan(before));
  }
}

void Tokenizer::Impl::encode_text(std::string_view text, EncodeMemory& memory, std::vector<int32_t>& out) const {
  Pieces& pieces = memory.pieces;
  for (const TextPart& raw : added.find_raw(text)) {
    if (raw.id >= 0) {
      out.push_back(raw.id);
      continue;
    }
    std::string& normal = memory.normal;
    normal.assign(text, raw.begin, raw.end - raw.begin);
    const bool from_start = normalizer.apply(normal) && raw.begin == 0;
    for (const TextPart& part : added.find_normalized(normal)) {
      if (part.id >= 0) {
        out.push_back(part.id);
        continue;
      }
      pieces.text.assign(normal, part.begin, part.end - part.begin);
      pieces.list.assign(1, {0, pieces.text.size(), from_start && part.begin == 0});
      pre_tokenizer.apply(pieces);
      for (const Pieces::Piece& piece : pieces.list) encode_piece(pieces.view(piece), memory, out);
    }
  }
}

Tokenizer::Tokenizer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Tokenizer::~Tokenizer() = default;

std::unique_ptr<Tokenizer> Tokenizer::from_json(std::string_view tokenizer_json, std::string_view config_json,
                                                const std::string& origin) {
  const Value json = parse_object(tokenizer_json, origin);
  const Value config =
      config_json.empty() ? Value(Dict{}) : parse_object(config_json, "tokenizer_config.json beside " + origin);
  return std::unique_ptr<Tokenizer>(new Tokenizer(std::make_unique<Impl>(json, config, origin)));
}

std::unique_ptr<Tokenizer> Tokenizer::load(const std::filesystem::path& model_dir) {
  const std::filesystem::path file = model_dir / "tokenizer.json";
  if (!std::filesystem::exists(file)) {
    if (const auto imported = import_tokenizer(model_dir, read_tokenizer_config(model_dir)))
      return std::unique_ptr<Tokenizer>(
          new Tokenizer(std::make_unique<Impl>(imported->json, imported->config, imported->origin)));
    if (!std::filesystem::is_directory(model_dir))
      throw Error(fmt::format("tokenizer {}: there is no such folder; expected one that holds tokenizer.json",
                              model_dir.string()));
    throw Error(fmt::format(
        "{} has no tokenizer.json, vocab.json with merges.txt, tokenizer.model or spiece.model. Convert the model's "
        "tokenizer once with transformers "
        "(AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR)) or pass --tokenizer DIR.",
        model_dir.string()));
  }
  const Value json = parse_object(read_file(file), file.string());
  return std::unique_ptr<Tokenizer>(
      new Tokenizer(std::make_unique<Impl>(json, read_tokenizer_config(model_dir), file.string())));
}

std::unique_ptr<Tokenizer> Tokenizer::bytes() {
  Dict vocab, model, before, after, file, config;
  for (int b = 0; b < 256; ++b) {
    std::string token;
    append_byte_level(token, std::string(1, static_cast<char>(b)));
    vocab.set(token, b);
  }
  model.set("type", "BPE");
  model.set("vocab", std::move(vocab));
  model.set("merges", List{});
  before.set("type", "ByteLevel");
  before.set("add_prefix_space", false);
  before.set("use_regex", false);
  after.set("type", "ByteLevel");
  file.set("model", std::move(model));
  file.set("pre_tokenizer", std::move(before));
  file.set("decoder", std::move(after));
  config.set("bos_token", "<s>");
  config.set("eos_token", "</s>");
  config.set("tokenizer_class", "LlamaTokenizer");
  return std::unique_ptr<Tokenizer>(
      new Tokenizer(std::make_unique<Impl>(Value(std::move(file)), Value(std::move(config)), "byte tokenizer")));
}

std::vector<int32_t> Tokenizer::encode(std::string_view text, bool add_special) const {
  std::vector<int32_t> ids;
  if (add_special) ids = impl_->post_processor.before;
  ids.reserve(ids.size() + text.size() / 3 + 8);
  auto memory = impl_->borrow();
  if (is_utf8(text)) {
    impl_->encode_text(text, *memory, ids);
  } else {
    impl_->encode_text(to_utf8_lossy(text), *memory, ids);
  }
  if (text.size() <= kKeptText) impl_->give_back(std::move(memory));
  if (add_special) ids.insert(ids.end(), impl_->post_processor.after.begin(), impl_->post_processor.after.end());
  return ids;
}

std::string Tokenizer::decode(std::span<const int32_t> ids, bool skip_special) const {
  Detokenizer detokenizer(impl_->decode_table, skip_special, true);
  std::string text;
  for (const int32_t id : ids) detokenizer.append(id, text);
  detokenizer.finish(text);
  return text;
}

int32_t Tokenizer::vocab_size() const { return static_cast<int32_t>(impl_->tokens.size()); }

const std::string& Tokenizer::token_text(int32_t id) const {
  static const std::string kNone;
  return id >= 0 && id < vocab_size() ? impl_->tokens[static_cast<size_t>(id)] : kNone;
}

bool Tokenizer::is_special(int32_t id) const {
  return id >= 0 && id < vocab_size() && impl_->decode_table.special[static_cast<size_t>(id)] != 0;
}

std::optional<int32_t> Tokenizer::token_id(std::string_view token) const { return impl_->id(token); }

const std::map<std::string, std::string, std::less<>>& Tokenizer::special_tokens() const { return impl_->named; }

namespace {
std::optional<int32_t> named_id(const Tokenizer& tokenizer, std::string_view name) {
  const auto it = tokenizer.special_tokens().find(name);
  return it == tokenizer.special_tokens().end() ? std::nullopt : tokenizer.token_id(it->second);
}
}  // namespace

std::optional<int32_t> Tokenizer::bos_id() const { return named_id(*this, "bos_token"); }
std::optional<int32_t> Tokenizer::eos_id() const { return named_id(*this, "eos_token"); }
std::optional<int32_t> Tokenizer::pad_id() const { return named_id(*this, "pad_token"); }
const DecodeTable& Tokenizer::decode_table() const { return impl_->decode_table; }

}  // namespace sluice
