// SPDX-License-Identifier: Apache-2.0
// .nemo archives of legacy Megatron GPT models: model_config.yaml, tokenizer files, and weights of one rank or of every
// tensor- and pipeline-parallel rank, as torch.save wrote them.
#include "weights/nemo.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>

#include "base/error.h"
#include "weights/tar.h"
#include "weights/yaml.h"

namespace sluice {
namespace {
using Json = nlohmann::ordered_json;
constexpr uint64_t kMaxConfig = 1 << 20, kMaxTokenizer = uint64_t{64} << 20;

struct Rank {
  int tp = 0, pp = 0;
};

// The rank that a weights file belongs to; none where it is no weights file.
std::optional<Rank> rank_of(const std::string& name) {
  Rank rank;
  char rest = '\0';
  if (name == "model_weights.ckpt") return rank;
  if (std::sscanf(name.c_str(), "mp_rank_%2d/model_weights.ckp%c", &rank.tp, &rest) == 2 && rest == 't' && rank.tp >= 0)
    return rank;
  if (std::sscanf(name.c_str(), "tp_rank_%2d_pp_rank_%3d/model_weights.ckp%c", &rank.tp, &rank.pp, &rest) == 3 &&
      rest == 't' && rank.tp >= 0 && rank.pp >= 0)
    return rank;
  return std::nullopt;
}

struct Archive {
  std::string name;
  File file;
  std::vector<TarMember> members;

  FileRange range(const TarMember& member) const {
    return {&file, member.offset, member.bytes, name + ": " + member.name};
  }
  const TarMember* find(std::string_view wanted) const {
    for (const TarMember& member : members) {
      if (member.name == wanted) return &member;
    }
    return nullptr;
  }
  std::string text(const TarMember& member, uint64_t limit) const {
    if (member.bytes > limit)
      throw Error(fmt::format("{}: {} has {} bytes, expected a small file", name, member.name, member.bytes));
    std::string out(static_cast<size_t>(member.bytes), '\0');
    range(member).read_at(0, out.data(), out.size());
    return out;
  }
};

Archive open_archive(const std::filesystem::path& path) {
  Archive out{path.string(), open_tar(path), {}};
  out.members = read_tar({&out.file, 0, out.file.size(), out.name});
  return out;
}

// OmegaConf's references to other keys: "${.key}", "${model.key}" and "${multiply:4, ${.key}}". Others stay as they
// are.
Json resolve(const Json& config, const Json& value, int depth) {
  if (!value.is_string() || depth > 8) return value;
  const std::string text = value.get<std::string>();
  if (!text.starts_with("${") || !text.ends_with("}")) return value;
  const std::string inner = text.substr(2, text.size() - 3);
  if (inner.starts_with("multiply:")) {
    const size_t comma = inner.find(',');
    if (comma == std::string::npos) return value;
    const auto factor = [&](std::string part) {
      part.erase(0, part.find_first_not_of(' '));
      const Json parsed = Json::parse(part, nullptr, false);
      return resolve(config, parsed.is_number() ? parsed : Json(part), depth + 1);
    };
    const Json a = factor(inner.substr(9, comma - 9)), b = factor(inner.substr(comma + 1));
    constexpr int64_t kMany = int64_t{1} << 31;
    if (!a.is_number_integer() || !b.is_number_integer() || a > kMany || b > kMany || a < -kMany || b < -kMany)
      return value;
    return a.get<int64_t>() * b.get<int64_t>();
  }
  const std::string key = inner.substr(inner.rfind('.') == std::string::npos ? 0 : inner.rfind('.') + 1);
  return config.contains(key) ? resolve(config, config[key], depth + 1) : value;
}

Json read_config(const Archive& archive) {
  const TarMember* member = archive.find("model_config.yaml");
  if (member == nullptr)
    throw Error(fmt::format("{} has no model_config.yaml, expected a NeMo archive of a GPT model", archive.name));
  Json config = Json::parse(yaml_to_json(archive.text(*member, kMaxConfig), archive.name + ": model_config.yaml"));
  if (!config.is_object()) throw Error(fmt::format("{}: model_config.yaml is not a map", archive.name));
  if (config.contains("model") && config["model"].is_object()) config = Json(config["model"]);
  for (auto& [key, value] : config.items()) value = resolve(config, value, 0);
  return config;
}

bool contains(const std::string& name, const char* part) { return name.find(part) != std::string::npos; }

enum class Merge { kRows, kColumns, kGated, kFirst };
// `fused`: one matrix holds the gate and the other half of a gated MLP; Megatron core always has it so.
Merge merge_of(const std::string& name, bool gated, bool fused) {
  const bool weight = name.ends_with(".weight");
  if (contains(name, "linear_fc1.layer_norm") || contains(name, "linear_qkv.layer_norm")) return Merge::kFirst;
  if (contains(name, "mlp.linear_fc1.")) return gated ? Merge::kGated : Merge::kRows;
  if (contains(name, "mlp.dense_h_to_4h.") && fused) return Merge::kGated;
  if (contains(name, "word_embeddings.weight") || contains(name, "output_layer.weight") ||
      contains(name, "query_key_value.") || contains(name, "linear_qkv.") || contains(name, "mlp.dense_h_to_4h"))
    return Merge::kRows;
  if (weight && (contains(name, "attention.dense.") || contains(name, "mlp.dense_4h_to_h.") ||
                 contains(name, "linear_proj.") || contains(name, "mlp.linear_fc2.")))
    return Merge::kColumns;
  return Merge::kFirst;
}

// One tensor of the parts that the tp ranks hold.
CheckpointTensor merge(const std::string& archive, const std::string& name, std::vector<CheckpointTensor> parts,
                       Merge how) {
  if (how == Merge::kFirst || parts.size() == 1) {
    parts.front().name = name;
    return std::move(parts.front());
  }
  CheckpointTensor out;
  out.name = name;
  out.stored_dtype = parts.front().stored_dtype;
  out.shape = parts.front().shape;
  const size_t dim = how == Merge::kColumns ? 1 : 0;
  for (const CheckpointTensor& part : parts) {
    if (part.shape != parts.front().shape || part.stored_dtype != out.stored_dtype || part.shape.size() <= dim ||
        part.shape.size() > 2 || !part.pieces.empty() || (how == Merge::kGated && part.shape[0] % 2 != 0)) {
      throw Error(fmt::format("{}: the ranks' parts of {} do not fit together: {}[{}] and {}[{}]", archive, name,
                              out.stored_dtype, fmt::join(parts.front().shape, ", "), part.stored_dtype,
                              fmt::join(part.shape, ", ")));
    }
  }
  const auto ranks = static_cast<int64_t>(parts.size());
  const int64_t length = out.shape[dim];
  out.shape[dim] *= ranks;
  for (int64_t r = 0; r < ranks; ++r) {
    CheckpointTensor& part = parts[static_cast<size_t>(r)];
    if (how != Merge::kGated) {
      out.pieces.push_back({part, dim == 0 ? r * length : 0, dim == 1 ? r * length : 0});
      continue;
    }
    // Each rank holds its rows of the gate, then its rows of the other half.
    const uint64_t rest = static_cast<uint64_t>(length / 2 * part.stride()) * dtype_bytes(part.dtype());
    for (int64_t half = 0; half < 2; ++half) {
      CheckpointTensor one = part;
      one.shape[0] = length / 2;
      one.bytes = part.bytes - rest;
      one.offset += static_cast<uint64_t>(half) * rest;
      out.pieces.push_back({std::move(one), (half * ranks + r) * (length / 2), 0});
    }
  }
  return out;
}

// "...layers.3..." -> 3; -1 where there is none.
int64_t layer_of(const std::string& name, size_t& at, size_t& length) {
  at = name.find("layers.");
  if (at == std::string::npos) return -1;
  at += 7;
  int64_t layer = 0;
  length = 0;
  for (; at + length < name.size() && name[at + length] >= '0' && name[at + length] <= '9' && length < 6; ++length)
    layer = layer * 10 + (name[at + length] - '0');
  return length == 0 ? -1 : layer;
}

void add_tensors(const Archive& archive, const Json& config, int file, CheckpointBuilder& out) {
  std::map<std::pair<int, int>, const TarMember*> ranks;
  int tp = 0, pp = 0;
  for (const TarMember& member : archive.members) {
    if (member.name.starts_with("model_weights/")) {
      throw Error(
          fmt::format("{} holds a distributed checkpoint ({}), expected model_weights.ckpt files; convert it with "
                      "NeMo's checkpoint converters",
                      archive.name, member.name));
    }
    const auto rank = rank_of(member.name);
    if (!rank) continue;
    if (!ranks.emplace(std::pair(rank->pp, rank->tp), &member).second)
      throw Error(fmt::format("{}: two weights files are of the same rank as {}", archive.name, member.name));
    tp = std::max(tp, rank->tp + 1);
    pp = std::max(pp, rank->pp + 1);
  }
  if (ranks.empty() || ranks.size() != static_cast<size_t>(tp) * static_cast<size_t>(pp)) {
    throw Error(fmt::format("{} holds weights of {} ranks, expected {} (tensor parallel {} by pipeline parallel {})",
                            archive.name, ranks.size(), std::max(1, tp * pp), tp, pp));
  }
  const std::string activation = config.contains("activation") && config["activation"].is_string()
                                     ? config["activation"].get<std::string>()
                                     : "gelu";
  const bool gated = activation.ends_with("glu"), fused = gated && activation.starts_with("fast-");
  int64_t first_layer = 0;
  for (int p = 0; p < pp; ++p) {
    std::map<std::string, std::vector<CheckpointTensor>> parts;
    for (int t = 0; t < tp; ++t) {
      const FileRange range = archive.range(*ranks.at({p, t}));
      for (TorchEntry& entry : read_torch_file(range)) {
        CheckpointTensor tensor = torch_tensor(entry, file, range.name);
        std::vector<CheckpointTensor>& all = parts[tensor.name];
        if (all.size() != static_cast<size_t>(t))
          throw Error(fmt::format("{} holds {}, which another rank lacks", range.name, tensor.name));
        all.push_back(std::move(tensor));
      }
    }
    int64_t layers = 0;
    for (auto& [name, all] : parts) {
      if (all.size() != static_cast<size_t>(tp))
        throw Error(fmt::format("{}: only {} of {} ranks hold {}", archive.name, all.size(), tp, name));
      std::string global = name;
      size_t at = 0, length = 0;
      if (const int64_t layer = layer_of(name, at, length); layer >= 0) {
        global.replace(at, length, std::to_string(first_layer + layer));
        layers = std::max(layers, layer + 1);
      }
      // The last stage may hold the embeddings once more for the head.
      if (p > 0 && out.checkpoint().find(global) != nullptr) continue;
      out.add(merge(archive.name, global, std::move(all), merge_of(name, gated, fused)));
    }
    first_layer += layers;
  }
}
}  // namespace

namespace {
// Files seldom say how many of their rows are tokens; the tokenizer beside them does, and which one ends a text.
void add_vocabulary(const std::filesystem::path& path, Json& config) {
  for (const auto& [name, content] : nemo_tokenizer_files(path)) {
    if (name != "vocab.json") continue;
    const Json tokens = Json::parse(content, nullptr, false);
    if (!tokens.is_object()) continue;
    const auto n = static_cast<int64_t>(tokens.size());
    if (!config.contains("vocab_size") && n > 0 && n <= config.value("padded_vocab_size", int64_t{0}))
      config["vocab_size"] = n;
    const auto end = tokens.find("<|endoftext|>");
    if (!config.contains("eos_token_id") && end != tokens.end() && end->is_number_integer())
      config["eos_token_id"] = *end;
  }
}
}  // namespace

std::string nemo_config(const std::filesystem::path& path) {
  Archive archive = open_archive(path);
  Json config = read_config(archive);
  CheckpointBuilder builder(path, "");
  add_tensors(archive, config, 0, builder);
  std::string target =
      config.contains("target") && config["target"].is_string() ? config["target"].get<std::string>() : "";
  target.erase(0, target.rfind('.') == std::string::npos ? 0 : target.rfind('.') + 1);
  config["architectures"] = {target.empty() ? "MegatronGPTModel" : target};
  for (const CheckpointTensor& tensor : builder.checkpoint().tensors()) {
    if (!tensor.name.ends_with("word_embeddings.weight")) continue;
    config["padded_vocab_size"] = tensor.shape.front();
    config["torch_dtype"] = dtype_name(tensor.dtype());
  }
  add_vocabulary(path, config);
  return config.dump(-1, ' ', false, Json::error_handler_t::replace);
}

Checkpoint open_nemo(const std::filesystem::path& path, std::string base_prefix) {
  Archive archive = open_archive(path);
  const Json config = read_config(archive);
  CheckpointBuilder builder(path, std::move(base_prefix));
  add_tensors(archive, config, builder.add_file(open_tar(path)), builder);
  return builder.take();
}

std::vector<std::pair<std::string, std::string>> nemo_tokenizer_files(const std::filesystem::path& path) {
  const Archive archive = open_archive(path);
  const Json config = read_config(archive);
  std::vector<std::pair<std::string, std::string>> out;
  if (!config.contains("tokenizer") || !config["tokenizer"].is_object()) return out;
  for (const auto& [key, name] : {std::pair{"vocab_file", "vocab.json"},
                                  {"merge_file", "merges.txt"},
                                  {"model", "tokenizer.model"},
                                  {"tokenizer_model", "tokenizer.model"}}) {
    const auto found = config["tokenizer"].find(key);
    if (found == config["tokenizer"].end() || !found->is_string()) continue;
    std::string member = found->get<std::string>();
    if (!member.starts_with("nemo:")) continue;
    member.erase(0, 5);
    const TarMember* file = archive.find(member);
    if (file == nullptr)
      throw Error(
          fmt::format("{}: model_config.yaml names the tokenizer file {}, which is not there", archive.name, member));
    if (key == std::string("model") && !member.ends_with(".model")) continue;
    out.emplace_back(name, archive.text(*file, kMaxTokenizer));
  }
  return out;
}

}  // namespace sluice
