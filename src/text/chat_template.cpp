// SPDX-License-Identifier: Apache-2.0
#include "text/chat_template.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/error.h"
#include "base/file.h"
#include "text/builtin_templates.h"
#include "text/evaluator.h"
#include "text/model_files.h"
#include "text/python.h"
#include "text/template_parser.h"

namespace sluice {
namespace fs = std::filesystem;

struct ChatTemplate::Impl {
  struct Entry {
    std::string source;
    Body body;
    bool parts = false;
  };
  std::map<std::string, Entry, std::less<>> entries;
  Dict special_tokens;

  void add(const std::string& name, std::string source, const std::string& origin);
  const Entry& entry(std::string_view name) const;
};

namespace {

// Whether an expression is a message's content: m.content, m["content"] or a variable named content.
bool is_content(const Expr& expr) {
  if (expr.kind == Expr::Kind::kName || expr.kind == Expr::Kind::kAttribute) return expr.name == "content";
  return expr.kind == Expr::Kind::kItem && expr.args[1]->value.is_string() &&
         expr.args[1]->value.as_string() == "content";
}

// Whether an expression asks for the type of a message's content.
bool tests_content(const Expr* expr) {
  if (expr == nullptr) return false;
  if (expr->kind == Expr::Kind::kTest && is_content(*expr->args[0])) {
    for (const char* type : {"string", "iterable", "sequence", "mapping"}) {
      if (expr->name == type) return true;
    }
  }
  const auto any = [](const ExprPtr& e) { return tests_content(e.get()); };
  return std::any_of(expr->args.begin(), expr->args.end(), any);
}

// A template that loops over the content, or tests its type, takes a list of parts.
bool handles_parts(const Body& body) {
  for (const auto& stmt : body) {
    if (stmt->kind == Stmt::Kind::kFor && is_content(*stmt->expr)) return true;
    if (tests_content(stmt->expr.get()) || handles_parts(stmt->body) || handles_parts(stmt->other)) return true;
  }
  return false;
}

constexpr std::string_view kMark =
    "CONTINUE_FINAL_MESSAGE_TAG ";  // as transformers: the space shows whether the template trims

// The messages with `kMark` at the end of the last one's text.
Value mark_last(const Value& messages, std::string& final_text) {
  if (!messages.is_list() || messages.as_list().empty())
    python::fail("continue_final_message needs at least one message");
  List list = messages.as_list();
  if (!list.back().is_dict()) python::fail("continue_final_message needs a last message with text content");
  Dict last = list.back().as_dict();
  const Value* content = last.find("content");
  if (content != nullptr && content->is_string()) {
    final_text = content->as_string();
    last.set("content", Value(final_text + std::string(kMark)));
  } else if (content != nullptr && content->is_list()) {
    List parts = content->as_list();
    size_t at = parts.size();
    while (at > 0 && (parts[at - 1].find("text") == nullptr || !parts[at - 1].find("text")->is_string())) --at;
    if (at == 0) python::fail("continue_final_message is set but the final message holds no text");
    Dict part = parts[at - 1].as_dict();
    final_text = part.find("text")->as_string();
    part.set("text", Value(final_text + std::string(kMark)));
    parts[at - 1] = Value(std::move(part));
    last.set("content", Value(std::move(parts)));
  } else {
    python::fail("continue_final_message needs a last message with text content");
  }
  list.back() = Value(std::move(last));
  return Value(std::move(list));
}

std::string stripped(std::string_view text, bool left) {
  constexpr std::string_view kSpace = " \t\n\r\v\f";
  text = text.substr(0, text.find_last_not_of(kSpace) + 1);
  if (left && !text.empty()) text.remove_prefix(text.find_first_not_of(kSpace));
  return std::string(text);
}

std::string cut_at_mark(std::string text, const std::string& final_text) {
  const std::string_view bare = kMark.substr(0, kMark.size() - 1);
  const size_t at = text.rfind(bare);
  if (at == std::string::npos || text.find(stripped(final_text, true)) == std::string::npos) {
    python::fail("continue_final_message is set but the template does not show the final message as it stands");
  }
  const bool kept = text.compare(at, kMark.size(), kMark) == 0;
  text.resize(at);
  return kept ? text : stripped(text, false);
}

}  // namespace

void ChatTemplate::Impl::add(const std::string& name, std::string source, const std::string& origin) {
  try {
    Body body = parse_template(source);
    const bool parts = handles_parts(body);
    entries.insert_or_assign(name, Entry{std::move(source), std::move(body), parts});
  } catch (const Error& error) {
    throw Error(fmt::format("{}: chat template \"{}\": {}", origin, name, error.what()));
  }
}

const ChatTemplate::Impl::Entry& ChatTemplate::Impl::entry(std::string_view name) const {
  const auto it = entries.find(name);
  if (it != entries.end()) return it->second;
  std::string known;
  for (const auto& [key, value] : entries) known += (known.empty() ? "" : ", ") + key;
  throw RequestError(RequestError::Kind::kTemplate,
                     fmt::format("the model has no chat template named \"{}\"; it has: {}", name, known));
}

ChatTemplate::ChatTemplate(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
ChatTemplate::~ChatTemplate() = default;

std::unique_ptr<ChatTemplate> ChatTemplate::from_text(std::string_view source, Dict special_tokens,
                                                      const std::string& origin) {
  auto impl = std::make_unique<Impl>();
  impl->special_tokens = std::move(special_tokens);
  impl->add("default", std::string(source), origin);
  return std::unique_ptr<ChatTemplate>(new ChatTemplate(std::move(impl)));
}

std::unique_ptr<ChatTemplate> ChatTemplate::choose(const std::string& name_or_file, Dict special_tokens) {
  std::string names;
  for (const auto& [name, source] : builtin_templates()) {
    if (name == name_or_file) {
      // These write the tokens where there are any: a tokenizer without them is no error.
      for (const char* token : {"bos_token", "eos_token"}) {
        if (special_tokens.find(token) == nullptr) special_tokens.set(token, "");
      }
      return from_text(source.substr(1), std::move(special_tokens), "built-in template " + name_or_file);
    }
    names += (names.empty() ? "" : ", ") + std::string(name);
  }
  if (!fs::is_regular_file(name_or_file)) {
    throw Error(
        fmt::format("chat template {}: expected a file with a Jinja template, or one of {}", name_or_file, names));
  }
  return from_text(read_file(name_or_file), std::move(special_tokens), name_or_file);
}

std::unique_ptr<ChatTemplate> ChatTemplate::load(const fs::path& model_dir) {
  auto impl = std::make_unique<Impl>();
  const Value config = read_tokenizer_config(model_dir);
  for (const char* name : kNamedTokens) {
    if (const std::string token = named_token(config, name); !token.empty()) impl->special_tokens.set(name, token);
  }
  const fs::path file = model_dir / "chat_template.jinja", folder = model_dir / "additional_chat_templates";
  const fs::path json = model_dir / "chat_template.json";
  const auto add_value = [&](const Value& value, const fs::path& origin) {
    if (value.is_string()) return impl->add("default", value.as_string(), origin.string());
    if (value.is_null()) return;
    if (!value.is_list())
      throw Error(fmt::format("{}: chat_template should be a string or a list of named templates", origin.string()));
    for (const Value& item : value.as_list()) {
      const Value *name = item.find("name"), *text = item.find("template");
      if (name == nullptr || !name->is_string() || text == nullptr || !text->is_string()) {
        throw Error(fmt::format("{}: each chat_template entry should have a name and a template", origin.string()));
      }
      impl->add(name->as_string(), text->as_string(), origin.string());
    }
  };
  if (fs::exists(file)) impl->add("default", read_file(file), file.string());
  if (fs::is_directory(folder)) {
    for (const auto& entry : fs::directory_iterator(folder)) {
      if (entry.path().extension() == ".jinja")
        impl->add(entry.path().stem().string(), read_file(entry.path()), entry.path().string());
    }
  }
  if (impl->entries.empty()) {
    if (const Value* value = config.find("chat_template")) add_value(*value, model_dir / "tokenizer_config.json");
  }
  if (impl->entries.empty() && fs::exists(json)) {
    const Value content = parse_object(read_file(json), json.string());
    if (const Value* value = content.find("chat_template")) add_value(*value, json);
  }
  if (impl->entries.empty()) return nullptr;
  return std::unique_ptr<ChatTemplate>(new ChatTemplate(std::move(impl)));
}

std::string ChatTemplate::render(const ChatInput& input) const {
  if (input.continue_final_message && input.add_generation_prompt) {
    throw RequestError(RequestError::Kind::kValidation,
                       "continue_final_message and add_generation_prompt exclude each other", "continue_final_message");
  }
  const bool tools = !input.tools.is_null();
  std::string name = input.name;
  if (name.empty()) name = tools && impl_->entries.contains("tool_use") ? "tool_use" : "default";
  const Impl::Entry& entry = impl_->entry(name);
  std::string final_text;
  Dict variables = impl_->special_tokens;
  variables.set("messages", input.continue_final_message ? mark_last(input.messages, final_text) : input.messages);
  variables.set("tools", input.tools);
  variables.set("documents", input.documents);
  variables.set("add_generation_prompt", input.add_generation_prompt);
  for (const auto& [key, value] : input.variables.entries()) variables.set(key, value);
  Evaluator evaluator(variables, input.max_steps);
  std::string text = evaluator.run(entry.body);
  return input.continue_final_message ? cut_at_mark(std::move(text), final_text) : text;
}

std::vector<std::string> ChatTemplate::names() const {
  std::vector<std::string> names;
  for (const auto& [name, entry] : impl_->entries) names.push_back(name);
  return names;
}

const std::string& ChatTemplate::source(std::string_view name) const { return impl_->entry(name).source; }
bool ChatTemplate::takes_content_parts(std::string_view name) const { return impl_->entry(name).parts; }

}  // namespace sluice
