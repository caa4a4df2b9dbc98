// SPDX-License-Identifier: Apache-2.0
#include "text/post_processor.h"

#include <fmt/format.h>

namespace sluice {
namespace {

int32_t token_id(const ComponentJson& json, const Value& id, std::string_view of) {
  if (!id.is_int() || id.as_int() < 0 || id.as_int() > INT32_MAX)
    json.refuse(fmt::format("{} should be a token id from 0 to {}, found {}", of, INT32_MAX, id.dump_compact()));
  return static_cast<int32_t>(id.as_int());
}

int32_t pair_id(const ComponentJson& json, std::string_view key) {
  const List& pair = json.list(key);
  if (pair.size() != 2) json.refuse(fmt::format("\"{}\" should be [token, id]", key));
  return token_id(json, pair[1], fmt::format("the id of \"{}\"", key));
}

void add_template(const ComponentJson& json, PostProcessor& out) {
  std::vector<int32_t> before, after;
  bool seen_text = false;
  const Value* specials = json.json.find("special_tokens");
  for (const Value& item : json.list("single")) {
    if (const Value* sequence = item.find("Sequence")) {
      const Value* name = sequence->find("id");
      if (seen_text || name == nullptr || !name->is_string() || name->as_string() != "A") {
        json.refuse("the template for one text should hold sequence A exactly once");
      }
      seen_text = true;
      continue;
    }
    const Value* special = item.find("SpecialToken");
    const Value* name = special != nullptr ? special->find("id") : nullptr;
    if (name == nullptr || !name->is_string()) json.refuse("a template item should be a Sequence or a SpecialToken");
    const Value* entry = specials != nullptr ? specials->find(name->as_string()) : nullptr;
    const Value* ids = entry != nullptr ? entry->find("ids") : nullptr;
    if (ids == nullptr || !ids->is_list())
      json.refuse(fmt::format("special_tokens has no ids for {}", name->as_string()));
    for (const Value& id : ids->as_list()) {
      (seen_text ? after : before).push_back(token_id(json, id, fmt::format("each id of {}", name->as_string())));
    }
  }
  if (!seen_text) json.refuse("the template for one text does not hold sequence A");
  out.before.insert(out.before.begin(), before.begin(), before.end());
  out.after.insert(out.after.end(), after.begin(), after.end());
}

void add(const ComponentJson& json, PostProcessor& out) {
  const std::string type = json.type();
  if (type == "Sequence") {
    for (const Value& item : json.list("processors")) add({item, json.where}, out);
  } else if (type == "TemplateProcessing") {
    add_template(json, out);
  } else if (type == "RobertaProcessing" || type == "BertProcessing") {
    out.before.insert(out.before.begin(), pair_id(json, "cls"));
    out.after.push_back(pair_id(json, "sep"));
  } else if (type != "ByteLevel") {  // ByteLevel trims offsets only
    json.refuse_type();
  }
}

}  // namespace

PostProcessor::PostProcessor(const ComponentJson& json) { add(json, *this); }

}  // namespace sluice
