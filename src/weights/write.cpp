// SPDX-License-Identifier: Apache-2.0
#include "weights/write.h"

#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <nlohmann/json.hpp>

#include "base/error.h"

namespace sluice {
namespace {
uint64_t element_bytes(const std::string& dtype) {
  if (dtype == "F64" || dtype == "I64" || dtype == "U64" || dtype == "C64") return 8;
  if (dtype == "F32" || dtype == "I32" || dtype == "U32") return 4;
  return dtype == "F16" || dtype == "BF16" || dtype == "I16" || dtype == "U16" ? 2 : 1;
}
}  // namespace

uint64_t WrittenTensor::bytes() const {
  uint64_t out = element_bytes(dtype);
  for (const int64_t n : shape) out *= static_cast<uint64_t>(n);
  return out;
}

SafetensorsWriter::SafetensorsWriter(std::filesystem::path folder, std::vector<WrittenTensor> tensors,
                                     uint64_t shard_bytes)
    : folder_(std::move(folder)), tensors_(std::move(tensors)) {
  uint64_t used = 0;
  for (size_t i = 0; i < tensors_.size(); ++i) {
    const uint64_t bytes = tensors_[i].bytes();
    if (used > 0 && used + bytes > shard_bytes) {
      shard_ends_.push_back(i);
      used = 0;
    }
    used += bytes;
  }
  shard_ends_.push_back(tensors_.size());
}

SafetensorsWriter::~SafetensorsWriter() {
  if (file_ != nullptr) std::fclose(file_);
}

std::string SafetensorsWriter::shard_name(size_t shard) const {
  if (shard_ends_.size() == 1) return "model.safetensors";
  return fmt::format("model-{:05}-of-{:05}.safetensors", shard + 1, shard_ends_.size());
}

void SafetensorsWriter::open_shard() {
  const size_t begin = shard_ == 0 ? 0 : shard_ends_[shard_ - 1];
  nlohmann::ordered_json header;
  header["__metadata__"] = {{"format", "pt"}};
  uint64_t at = 0;
  for (size_t i = begin; i < shard_ends_[shard_]; ++i) {
    const WrittenTensor& t = tensors_[i];
    header[t.name] = {{"dtype", t.dtype}, {"shape", t.shape}, {"data_offsets", {at, at + t.bytes()}}};
    at += t.bytes();
  }
  std::string text = header.dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');
  const auto path = folder_ / (shard_name(shard_) + ".part");
  file_ = std::fopen(path.c_str(), "wb");
  if (file_ == nullptr) throw Error(fmt::format("cannot write {}: {}", path.string(), std::strerror(errno)));
  const uint64_t length = text.size();
  if (std::fwrite(&length, 1, 8, file_) != 8 || std::fwrite(text.data(), 1, text.size(), file_) != text.size())
    throw Error(fmt::format("cannot write {}: {}", path.string(), std::strerror(errno)));
}

void SafetensorsWriter::close_shard() {
  const auto path = folder_ / shard_name(shard_);
  const bool whole = std::fflush(file_) == 0 && ::fsync(::fileno(file_)) == 0;
  const bool closed = std::fclose(file_) == 0;
  file_ = nullptr;
  if (!whole || !closed) throw Error(fmt::format("cannot write {}: {}", path.string(), std::strerror(errno)));
  std::filesystem::rename(path.string() + ".part", path);
  ++shard_;
}

void SafetensorsWriter::write(const void* data, uint64_t bytes) {
  check(next_ < tensors_.size() && bytes == tensors_[next_].bytes(), "a tensor is written as it was announced");
  if (file_ == nullptr) open_shard();
  if (bytes > 0 && std::fwrite(data, 1, bytes, file_) != bytes)
    throw Error(fmt::format("cannot write to {}: {}", folder_.string(), std::strerror(errno)));
  if (++next_ == shard_ends_[shard_]) close_shard();
}

void SafetensorsWriter::finish() {
  check(next_ == tensors_.size(), "every announced tensor is written");
  if (shard_ends_.size() == 1) return;
  nlohmann::ordered_json index;
  uint64_t total = 0;
  for (size_t i = 0, shard = 0; i < tensors_.size(); ++i) {
    if (i == shard_ends_[shard]) ++shard;
    index["weight_map"][tensors_[i].name] = shard_name(shard);
    total += tensors_[i].bytes();
  }
  index["metadata"]["total_size"] = total;
  replace_file(folder_ / "model.safetensors.index.json", index.dump(2) + "\n");
}

std::vector<char> read_whole(const Checkpoint& checkpoint, const CheckpointTensor& tensor) {
  const uint64_t element = element_bytes(tensor.stored_dtype);
  uint64_t count = element;
  for (const int64_t n : tensor.shape) count *= static_cast<uint64_t>(n);
  std::vector<char> out(static_cast<size_t>(count));
  const int64_t width = tensor.shape.size() == 2 ? tensor.shape[1] : 1;
  const auto place = [&](const CheckpointTensor& from, int64_t to_row, int64_t to_col) {
    const File& file = checkpoint.files()[static_cast<size_t>(from.file)];
    const int64_t rows = from.shape.empty() ? 1 : from.shape[0], cols = from.shape.size() == 2 ? from.shape[1] : 1;
    for (int64_t r = 0; r < rows && cols > 0; ++r) {
      file.read_at(from.offset + static_cast<uint64_t>(r * from.stride()) * element,
                   out.data() + static_cast<uint64_t>((to_row + r) * width + to_col) * element,
                   static_cast<size_t>(cols) * element);
    }
  };
  if (tensor.pieces.empty() && tensor.row_stride == 0) {
    if (!out.empty())
      checkpoint.files()[static_cast<size_t>(tensor.file)].read_at(tensor.offset, out.data(), out.size());
  } else if (tensor.pieces.empty()) {
    place(tensor, 0, 0);
  }
  for (const TensorPiece& piece : tensor.pieces) place(piece.tensor, piece.to_row, piece.to_col);
  return out;
}

}  // namespace sluice
