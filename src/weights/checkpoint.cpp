// SPDX-License-Identifier: Apache-2.0
#include "weights/checkpoint.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "base/error.h"
#include "base/json_problem.h"
#include "weights/foreign.h"
#include "weights/quantised.h"
#include "weights/safetensors.h"
#include "weights/torch_file.h"

namespace sluice {
namespace {
namespace fs = std::filesystem;

// weight_map of the index: tensor name -> file name.
std::map<std::string, std::string> read_weight_map(const fs::path& path) {
  std::map<std::string, std::string> out;
  nlohmann::json index;
  try {
    index = nlohmann::json::parse(read_file(path));
  } catch (const nlohmann::json::exception& error) {
    throw Error(
        fmt::format("{} is not JSON: {}; copy or download it again", path.string(), json_problem(error.what())));
  }
  if (!index.is_object() || !index.contains("weight_map") || !index["weight_map"].is_object() ||
      index["weight_map"].empty())
    throw Error(fmt::format("{} has no \"weight_map\" object, expected tensor names and their files", path.string()));
  for (const auto& [name, file] : index["weight_map"].items()) {
    if (!file.is_string()) throw Error(fmt::format("{}: the file of tensor {} is not a text", path.string(), name));
    const std::string text = file.get<std::string>();
    if (text.empty() || text == "." || text == ".." || text.find('/') != std::string::npos)
      throw Error(
          fmt::format("{}: tensor {} is in \"{}\", expected a file of the same folder", path.string(), name, text));
    out[name] = text;
  }
  return out;
}

std::string describe(const std::string& dtype, const std::vector<int64_t>& shape) {
  return fmt::format("{}[{}]", dtype, fmt::join(shape, ", "));
}

[[noreturn]] void refuse_folder(const fs::path& folder) {
  std::string other;
  for (const auto& item : fs::directory_iterator(folder)) {
    const std::string name = item.path().filename().string();
    const std::string end = item.path().extension().string();
    if (end == ".gguf" || end == ".onnx" || end == ".pt" || end == ".pth" || end == ".safetensors") other = name;
  }
  throw Error(
      fmt::format("{} holds neither model.safetensors nor pytorch_model.bin, nor an index of either{}", folder.string(),
                  other.empty() ? "; is this the folder of a checkpoint?"
                                : ", but " + other + "; convert the checkpoint to safetensors in Hugging Face layout"));
}
}  // namespace

DType CheckpointTensor::dtype() const {
  if (stored_dtype == "F32") return DType::kF32;
  if (stored_dtype == "BF16") return DType::kBF16;
  if (stored_dtype == "F16") return DType::kF16;
  if (stored_dtype == "F64") return DType::kF64;
  throw Error(
      fmt::format("tensor {} is stored as {}, expected F32, BF16, F16 or F64, or a quantised layer that config.json "
                  "announces as gptq, awq or bitsandbytes",
                  name, stored_dtype));
}

Checkpoint Checkpoint::open(const fs::path& folder, std::string base_prefix) {
  if (is_foreign(folder)) return open_foreign(folder, std::move(base_prefix));
  if (!fs::is_directory(folder)) throw Error(fmt::format("{} is not a folder, expected a checkpoint", folder.string()));
  Checkpoint out;
  out.folder_ = folder;
  out.base_prefix_ = std::move(base_prefix);
  // safetensors first: a folder may hold the same weights as .bin beside them.
  std::error_code unreadable;
  fs::path index;
  for (const char* name : {"model.safetensors", "pytorch_model.bin"}) {
    if (fs::exists(folder / name)) {
      out.add_file(folder / name);
      return out;
    }
    index = folder / (std::string(name) + ".index.json");
    if (fs::exists(index)) break;
    index.clear();
  }
  if (index.empty()) refuse_folder(folder);

  const auto map = read_weight_map(index);
  std::set<std::string> shards;
  for (const auto& [name, file] : map) shards.insert(file);
  for (const std::string& shard : shards) {
    if (!fs::exists(folder / shard, unreadable)) {
      throw Error(
          fmt::format("{} names the shard {}, which is not there; {} shards are expected, download the missing ones",
                      index.string(), shard, shards.size()));
    }
    out.add_file(folder / shard);
  }
  for (const auto& [name, file] : map) {
    const auto found = out.by_name_.find(name);
    const std::string where =
        found == out.by_name_.end()
            ? "nowhere"
            : out.files_[static_cast<size_t>(out.tensors_[found->second].file)].path().filename().string();
    if (where != file)
      throw Error(fmt::format("{} places tensor {} in {}, found {}; index and shards do not belong together",
                              index.string(), name, file, where));
  }
  return out;
}

void Checkpoint::add_file(const fs::path& path) {
  files_.push_back(File::open_read(path));
  const int file = static_cast<int>(files_.size()) - 1;
  if (path.extension() == ".bin") {
    for (TorchEntry& entry : read_torch_file(whole_file(files_.back())))
      add_tensor(torch_tensor(entry, file, path.string()));
    return;
  }
  for (SafetensorsEntry& entry : read_safetensors(files_.back()).tensors) {
    add_tensor({std::move(entry.name),
                std::move(entry.dtype),
                std::move(entry.shape),
                file,
                entry.begin,
                entry.end - entry.begin,
                0,
                {}});
  }
}

void Checkpoint::add_tensor(CheckpointTensor tensor) {
  // Older files of BERT's time.
  for (const auto& [old, now] :
       {std::pair{"LayerNorm.gamma", "LayerNorm.weight"}, {"LayerNorm.beta", "LayerNorm.bias"}}) {
    if (tensor.name.ends_with(old)) tensor.name.replace(tensor.name.size() - std::strlen(old), std::string::npos, now);
  }
  const auto [at, fresh] = by_name_.emplace(tensor.name, tensors_.size());
  if (!fresh) {
    const auto path = [&](const CheckpointTensor& t) { return files_[static_cast<size_t>(t.file)].path().string(); };
    throw Error(fmt::format("tensor {} is in both {} and {}; remove the shard that does not belong to the checkpoint",
                            tensor.name, path(tensors_[at->second]), path(tensor)));
  }
  tensors_.push_back(std::move(tensor));
}

void Checkpoint::join(const QuantFormat& format) {
  tensors_ = join_quantised(std::move(tensors_), format, folder_.string());
  by_name_.clear();
  for (size_t i = 0; i < tensors_.size(); ++i) by_name_.emplace(tensors_[i].name, i);
}

const CheckpointTensor* Checkpoint::find(const std::string& name) const {
  auto found = by_name_.find(name);
  if (found == by_name_.end() && !base_prefix_.empty()) {
    found = name.starts_with(base_prefix_) ? by_name_.find(name.substr(base_prefix_.size()))
                                           : by_name_.find(base_prefix_ + name);
  }
  return found == by_name_.end() ? nullptr : &tensors_[found->second];
}

const CheckpointTensor& Checkpoint::at(const std::string& name, const std::vector<int64_t>& shape) const {
  const CheckpointTensor* tensor = find(name);
  if (tensor == nullptr) {
    throw Error(fmt::format("{} has no tensor {}, expected shape [{}]; config.json and weights do not belong together",
                            folder_.string(), name, fmt::join(shape, ", ")));
  }
  tensor->dtype();
  // A quantised layer is [out, in] also where its floats would be stored [in, out].
  // One of a stack is [stack * out, in].
  std::vector<int64_t> plain = shape;
  if (plain.size() == 3) plain = {plain[1], plain[0] * plain[2]};
  const bool turned =
      tensor->quantised != nullptr && plain.size() == 2 && tensor->shape[0] == plain[1] && tensor->shape[1] == plain[0];
  if (tensor->shape != shape && !turned) {
    throw Error(fmt::format("tensor {} in {}: expected shape [{}] from config.json, found {}", name,
                            files_[static_cast<size_t>(tensor->file)].path().string(), fmt::join(shape, ", "),
                            describe(tensor->stored_dtype, tensor->shape)));
  }
  return *tensor;
}

bool Checkpoint::same_content(const CheckpointTensor& a, const CheckpointTensor& b) const {
  if (a.stored_dtype != b.stored_dtype || a.shape != b.shape || a.row_stride != b.row_stride ||
      a.pieces.size() != b.pieces.size() || a.quantised != nullptr || b.quantised != nullptr)
    return false;
  for (size_t i = 0; i < a.pieces.size(); ++i) {
    if (!same_content(a.pieces[i].tensor, b.pieces[i].tensor)) return false;
  }
  if (!a.pieces.empty()) return true;
  constexpr uint64_t kChunk = 8u << 20;
  std::vector<char> one(static_cast<size_t>(std::min(a.bytes, kChunk))), two(one.size());
  for (uint64_t done = 0; done < a.bytes; done += kChunk) {
    const size_t bytes = static_cast<size_t>(std::min(kChunk, a.bytes - done));
    files_[static_cast<size_t>(a.file)].read_at(a.offset + done, one.data(), bytes);
    files_[static_cast<size_t>(b.file)].read_at(b.offset + done, two.data(), bytes);
    if (std::memcmp(one.data(), two.data(), bytes) != 0) return false;
  }
  return true;
}

}  // namespace sluice
