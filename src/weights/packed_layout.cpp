// SPDX-License-Identifier: Apache-2.0
// packed.json: for which runs a folder of packed weights was made.
#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/shell.h"
#include "tensor/dtype.h"
#include "weights/packed.h"

namespace sluice {
namespace {
namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;
constexpr int kVersion = 1;  // of the files' format
constexpr int64_t kMostRanks = 4096;

[[noreturn]] void damaged(const fs::path& path, const std::string& what) {
  throw Error(fmt::format("{}: {}, expected what sluice convert writes; pack the model anew", path.string(), what));
}

// Messages print these texts.
std::string text(const Json& json, const char* key, const fs::path& path) {
  const auto found = json.find(key);
  if (found == json.end() || !found->is_string()) damaged(path, fmt::format("\"{}\" is no text", key));
  const auto& value = found->get_ref<const std::string&>();
  if (std::any_of(value.begin(), value.end(), [](unsigned char c) { return c < ' ' || c == 0x7f; }))
    damaged(path, fmt::format("\"{}\" has control characters", key));
  return value;
}

int64_t number(const Json& json, const char* key, const fs::path& path, int64_t most) {
  const auto found = json.find(key);
  if (found == json.end() || !found->is_number_integer() || found->get<int64_t>() < 1 || found->get<int64_t>() > most)
    damaged(path, fmt::format("\"{}\" is no number from 1 to {}", key, most));
  return found->get<int64_t>();
}

std::string command(const PackedLayout& of, int tp, int pp, const std::string& dtype, const std::string& quantize,
                    const std::string& experts, bool gpus) {
  return fmt::format("sluice convert {} OUT --tp {} --pp {} --dtype {}{}{}{}", shell_word(of.source), tp, pp, dtype,
                     quantize.empty() ? "" : " --quantize " + shell_word(quantize),
                     experts == "auto" ? "" : " --experts " + shell_word(experts), gpus ? " --device cuda" : "");
}
}  // namespace

std::string PackedLayout::describe() const {
  return fmt::format("tp {}, pp {}, {}{}{}", tp, pp, dtype, quantize.empty() ? "" : ", " + quantize,
                     experts == "auto" ? "" : ", experts " + experts);
}

std::string PackedLayout::again() const {
  return "pack it again: " + command(*this, tp, pp, dtype, quantize, experts, gpus());
}

void PackedLayout::require_ranks(int found_tp, int found_pp) const {
  if (found_tp == tp && found_pp == pp) return;
  throw Error(
      fmt::format("{} is packed for tp {}, pp {}, and this run has tp {}, pp {}; start {} rank{} with --tp {} --pp {}, "
                  "or pack it for this run: {}",
                  folder.string(), tp, pp, found_tp, found_pp, tp * pp, tp * pp == 1 ? "" : "s", tp, pp,
                  command(*this, found_tp, found_pp, dtype, quantize, experts, gpus())));
}

void PackedLayout::require_stored(const std::string& found_dtype, const std::string& found_quantize,
                                  const std::string& found_experts) const {
  const auto refuse = [&](const char* flag, const std::string& found, const std::string& expected,
                          const std::string& how) {
    throw Error(fmt::format("--{} is {}, and {} is packed as {}; leave --{} out, or pack it so: {}", flag, found,
                            folder.string(), expected, flag, how));
  };
  if (found_dtype != "auto" && parse_dtype(found_dtype) != parse_dtype(dtype))
    refuse("dtype", found_dtype, dtype, command(*this, tp, pp, found_dtype, quantize, experts, gpus()));
  if (!found_quantize.empty() && found_quantize != quantize)
    refuse("quantize", found_quantize, quantize.empty() ? dtype : quantize,
           command(*this, tp, pp, dtype, found_quantize, experts, gpus()));
  if (found_experts != "auto" && found_experts != experts)
    refuse("experts", found_experts, experts, command(*this, tp, pp, dtype, quantize, found_experts, gpus()));
}

void PackedLayout::require_device(bool cuda) const {
  if (cuda == gpus()) return;
  const auto device = [](bool is) { return is ? "GPUs" : "CPUs"; };
  throw Error(
      fmt::format("{} holds weights packed for {} ({}), and this run is on {}; take the checkpoint that it was made of "
                  "({}), pack it "
                  "for them ({}), or give --device {}",
                  folder.string(), device(gpus()), packing, device(cuda), source,
                  command(*this, tp, pp, dtype, quantize, experts, cuda), gpus() ? "cuda" : "cpu"));
}

void PackedLayout::require_packing(const Backend& backend) const {
  if (backend.packing() == packing) return;
  require_device(backend.name() == "cuda");
  throw Error(fmt::format("{} holds weights packed as {}, and this version expects {}; {}", folder.string(), packing,
                          backend.packing(), again()));
}

std::optional<PackedLayout> read_packed_layout(const fs::path& folder) {
  const fs::path path = folder / "packed.json";
  if (folder.empty() || !fs::is_regular_file(path)) return std::nullopt;
  const Json json = Json::parse(read_file(path), nullptr, false);
  if (!json.is_object()) damaged(path, "it is no JSON object");
  if (const int64_t version = number(json, "version", path, 1'000'000); version != kVersion)
    throw Error(
        fmt::format("{} is of version {}, and this program reads version {}; pack the model anew with sluice convert",
                    path.string(), version, kVersion));
  PackedLayout out;
  out.folder = folder;
  out.tp = static_cast<int>(number(json, "tp", path, kMostRanks));
  out.pp = static_cast<int>(number(json, "pp", path, kMostRanks));
  out.packing = text(json, "packing", path);
  out.dtype = text(json, "dtype", path);
  const DType dtype = parse_dtype(out.dtype);
  if (dtype != DType::kF32 && dtype != DType::kBF16 && dtype != DType::kF16)
    damaged(path, fmt::format("\"dtype\" is {}", out.dtype));
  out.quantize = text(json, "quantize", path);
  out.experts = text(json, "experts", path);
  out.source = text(json, "source", path);
  if (const auto tie = json.find("tie"); tie != json.end()) {
    if (!tie->is_object() || !tie->contains("tied") || !(*tie)["tied"].is_boolean())
      damaged(path, "\"tie\" is no object with tied");
    out.tie = PackedTie{text(*tie, "embed", path), text(*tie, "head", path), (*tie)["tied"].get<bool>()};
  }
  const auto files = json.find("files");
  if (files == json.end() || !files->is_array() ||
      files->size() != static_cast<size_t>(out.tp) * static_cast<size_t>(out.pp))
    damaged(path, "\"files\" is no list of tp x pp files");
  for (const Json& file : *files) {
    if (!file.is_object()) damaged(path, "one of its files is no object");
    out.files.push_back({text(file, "name", path), static_cast<uint64_t>(number(file, "bytes", path, int64_t{1} << 50)),
                         text(file, "sha256", path)});
    const std::string& name = out.files.back().name;
    if (name.empty() || name == "." || name == ".." || name.find('/') != std::string::npos)
      damaged(path, fmt::format("it names the file \"{}\"", name));
  }
  return out;
}

void write_packed_layout(const PackedLayout& layout) {
  Json json = {{"version", kVersion},       {"tp", layout.tp},        {"pp", layout.pp},
               {"packing", layout.packing}, {"dtype", layout.dtype},  {"quantize", layout.quantize},
               {"experts", layout.experts}, {"source", layout.source}};
  if (layout.tie) json["tie"] = {{"embed", layout.tie->embed}, {"head", layout.tie->head}, {"tied", layout.tie->tied}};
  for (const PackedFile& file : layout.files)
    json["files"].push_back({{"name", file.name}, {"bytes", file.bytes}, {"sha256", file.sha256}});
  replace_file(layout.folder / "packed.json", json.dump(2) + "\n");
}

}  // namespace sluice
