// SPDX-License-Identifier: Apache-2.0
// Zip: APPNOTE.TXT 4.3, with the zip64 fields of archives beyond 4 GiB. Members are stored, not compressed, so a tensor
// lies in the file as it lies in memory.
#include "weights/torch_file.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <functional>
#include <unordered_map>

#include "base/error.h"
#include "tensor/dtype.h"

namespace sluice {
namespace {
constexpr uint64_t kMaxPickle = uint64_t{64} << 20, kMaxDirectory = uint64_t{256} << 20;
constexpr int64_t kMaxElements = int64_t{1} << 48;  // of a tensor

[[noreturn]] void refuse(const FileRange& range, const std::string& what) {
  throw Error(fmt::format("{}: {}; expected a checkpoint as torch.save writes it, copy or download it again",
                          range.name, what));
}

uint64_t element_bytes(const std::string& dtype) {
  if (dtype == "F64" || dtype == "I64") return 8;
  if (dtype == "F32" || dtype == "I32") return 4;
  return dtype == "F16" || dtype == "BF16" || dtype == "I16" ? 2 : 1;
}

std::vector<std::byte> read_bytes(const FileRange& range, uint64_t offset, uint64_t bytes) {
  std::vector<std::byte> out(static_cast<size_t>(bytes));
  range.read_at(offset, out.data(), out.size());
  return out;
}

class Cursor {
 public:
  Cursor(const FileRange& range, std::span<const std::byte> bytes) : range_(range), bytes_(bytes) {}
  template <class T>
  T number() {
    T value;
    std::memcpy(&value, take(sizeof value), sizeof value);
    return value;
  }
  const char* take(uint64_t n) {
    if (n > bytes_.size() - at_) refuse(range_, "its zip directory ends too early");
    const char* from = reinterpret_cast<const char*>(bytes_.data()) + at_;
    at_ += static_cast<size_t>(n);
    return from;
  }
  size_t left() const { return bytes_.size() - at_; }

 private:
  const FileRange& range_;
  std::span<const std::byte> bytes_;
  size_t at_ = 0;
};

struct Member {
  uint64_t header = 0, bytes = 0;  // place of the local header
};

// Members by name, without the name of the archive's folder.
std::unordered_map<std::string, Member> read_directory(const FileRange& range) {
  constexpr uint64_t kEnd = 22, kLocator = 20;
  const uint64_t tail = std::min<uint64_t>(range.bytes, kEnd + 65535);
  const auto bytes = read_bytes(range, range.bytes - tail, tail);
  int64_t at = static_cast<int64_t>(tail - kEnd);
  for (; at >= 0 && std::memcmp(&bytes[static_cast<size_t>(at)], "PK\5\6", 4) != 0; --at) {
  }
  if (at < 0) refuse(range, "its zip directory is missing, the file is cut off");
  Cursor end(range, std::span(bytes).subspan(static_cast<size_t>(at) + 10));
  uint64_t count = end.number<uint16_t>(), length = end.number<uint32_t>(), begin = end.number<uint32_t>();
  const uint64_t end_at = range.bytes - tail + static_cast<uint64_t>(at);
  if (count == 0xffff || length == 0xffffffff || begin == 0xffffffff) {
    if (end_at < kLocator) refuse(range, "its zip64 directory is missing");
    const auto locator = read_bytes(range, end_at - kLocator, kLocator);
    if (std::memcmp(locator.data(), "PK\6\7", 4) != 0) refuse(range, "its zip64 directory is missing");
    const auto wide_at = Cursor(range, std::span(locator).subspan(8)).number<uint64_t>();
    if (wide_at > range.bytes || range.bytes - wide_at < 56) refuse(range, "its zip64 directory is beyond the file");
    const auto wide = read_bytes(range, wide_at, 56);
    Cursor fields(range, std::span(wide).subspan(32));
    count = fields.number<uint64_t>();
    length = fields.number<uint64_t>();
    begin = fields.number<uint64_t>();
  }
  if (begin > range.bytes || length > range.bytes - begin || length > kMaxDirectory)
    refuse(range, "its zip directory is beyond the file");
  const auto directory = read_bytes(range, begin, length);
  std::unordered_map<std::string, Member> out;
  Cursor entry(range, directory);
  for (uint64_t i = 0; i < count; ++i) {
    if (std::memcmp(entry.take(4), "PK\1\2", 4) != 0) refuse(range, "a damaged zip directory");
    entry.take(6);
    const auto method = entry.number<uint16_t>();
    entry.take(8);
    uint64_t packed = entry.number<uint32_t>(), bytes_ = entry.number<uint32_t>();
    const auto name_length = entry.number<uint16_t>(), extra_length = entry.number<uint16_t>();
    const auto comment_length = entry.number<uint16_t>();
    entry.take(8);
    uint64_t header = entry.number<uint32_t>();
    const std::string name(entry.take(name_length), name_length);
    const char* extra_at = entry.take(extra_length);
    Cursor extra(range, {reinterpret_cast<const std::byte*>(extra_at), extra_length});
    while (extra.left() >= 4) {
      const auto id = extra.number<uint16_t>(), size = extra.number<uint16_t>();
      const char* data = extra.take(size);
      if (id != 1) continue;
      Cursor wide(range, {reinterpret_cast<const std::byte*>(data), size});
      if (bytes_ == 0xffffffff) bytes_ = wide.number<uint64_t>();
      if (packed == 0xffffffff) packed = wide.number<uint64_t>();
      if (header == 0xffffffff) header = wide.number<uint64_t>();
    }
    entry.take(comment_length);
    if (method != 0 || packed != bytes_) refuse(range, fmt::format("{} in it is compressed", name));
    const size_t slash = name.find('/');
    if (!out.emplace(name.substr(slash == std::string::npos ? 0 : slash + 1), Member{header, bytes_}).second)
      refuse(range, fmt::format("{} is in it twice", name));
  }
  return out;
}

// Where a member's bytes begin: the lengths in its local header may differ from the directory's.
uint64_t data_begin(const FileRange& range, const Member& member, const std::string& name) {
  constexpr uint64_t kHeader = 30;
  if (member.header > range.bytes || range.bytes - member.header < kHeader)
    refuse(range, fmt::format("{} in it is beyond the file", name));
  const auto header = read_bytes(range, member.header, kHeader);
  if (std::memcmp(header.data(), "PK\3\4", 4) != 0) refuse(range, fmt::format("{} in it has no header", name));
  Cursor lengths(range, std::span(header).subspan(26));
  const uint64_t name_length = lengths.number<uint16_t>(), extra = lengths.number<uint16_t>();
  const uint64_t begin = member.header + kHeader + name_length + extra;
  if (begin > range.bytes || member.bytes > range.bytes - begin)
    refuse(range, fmt::format("{} in it is beyond the file", name));
  return begin;
}

struct Storage {
  uint64_t begin = 0, bytes = 0;
};

std::vector<TorchEntry> place(const FileRange& range, const std::vector<PickledTensor>& tensors,
                              const std::function<Storage(const PickledTensor&)>& find) {
  std::vector<TorchEntry> out;
  for (const PickledTensor& tensor : tensors) {
    const Storage storage = find(tensor);
    const uint64_t element = element_bytes(tensor.dtype);
    double last = static_cast<double>(tensor.first) + 1, count = 1;
    for (size_t i = 0; i < tensor.shape.size(); ++i) {
      last += static_cast<double>(tensor.shape[i] - 1) * static_cast<double>(tensor.stride[i]);
      count *= static_cast<double>(tensor.shape[i]);
    }
    if (count > 0 && last * static_cast<double>(element) > static_cast<double>(storage.bytes))
      refuse(range, fmt::format("tensor {} needs more than the {} bytes of its storage", tensor.name, storage.bytes));
    out.push_back({tensor.name, tensor.dtype, tensor.shape, tensor.stride,
                   range.begin + storage.begin + static_cast<uint64_t>(tensor.first) * element});
  }
  return out;
}

std::vector<TorchEntry> read_zip(const FileRange& range) {
  const auto members = read_directory(range);
  const auto pickle_at = members.find("data.pkl");
  if (pickle_at == members.end()) refuse(range, "its zip archive has no data.pkl");
  if (const auto order = members.find("byteorder"); order != members.end()) {
    const uint64_t begin = data_begin(range, order->second, "byteorder");
    const auto text = read_bytes(range, begin, std::min<uint64_t>(order->second.bytes, 16));
    if (std::string_view(reinterpret_cast<const char*>(text.data()), text.size()) != "little")
      refuse(range, "its numbers are not little-endian");
  }
  if (pickle_at->second.bytes > kMaxPickle) refuse(range, "its data.pkl is larger than 64 MiB");
  const auto bytes = read_bytes(range, data_begin(range, pickle_at->second, "data.pkl"), pickle_at->second.bytes);
  const Pickle pickle = read_pickle(bytes, range.name);
  std::unordered_map<std::string, Storage> known;
  return place(range, pickled_tensors(pickle, range.name), [&](const PickledTensor& tensor) {
    if (const auto found = known.find(tensor.storage); found != known.end()) return found->second;
    const auto member = members.find("data/" + tensor.storage);
    if (member == members.end()) refuse(range, fmt::format("the storage of tensor {} is missing", tensor.name));
    const Storage storage{data_begin(range, member->second, tensor.name), member->second.bytes};
    known.emplace(tensor.storage, storage);
    return storage;
  });
}

constexpr uint64_t kMagic = 0xa86a20f9469cfc6cull;  // the lowest eight bytes of the ten

// Pickles of a magic number, the protocol's version, the machine, the object and the order of its storages; then each
// storage: 8 bytes of length and its elements.
std::vector<TorchEntry> read_stream(const FileRange& range) {
  const auto head = read_bytes(range, 0, std::min(range.bytes, kMaxPickle));
  size_t at = 0;
  const auto next = [&] {
    Pickle pickle = read_pickle(std::span(head).subspan(at), range.name);
    at += pickle.consumed;
    return pickle;
  };
  const Pickle magic = next(), version = next();
  if (magic.at(magic.root).kind != PickleValue::Kind::kInt ||
      static_cast<uint64_t>(magic.at(magic.root).number) != kMagic)
    refuse(range, "it begins with neither a zip archive nor torch's magic number");
  if (version.at(version.root).number != 1001) refuse(range, "an unknown version of torch's file format");
  next();
  const Pickle object = next();
  const std::vector<PickledTensor> tensors = pickled_tensors(object, range.name);
  std::unordered_map<std::string, uint64_t> width;
  for (const PickleValue& value : object.values) {
    if (value.kind == PickleValue::Kind::kStorage) width[value.text] = element_bytes(value.dtype);
  }
  const Pickle keys = next();
  std::unordered_map<std::string, Storage> storages;
  uint64_t offset = at;
  for (const uint32_t i : keys.at(keys.root).items) {
    const std::string& key = keys.at(i).text;
    uint64_t elements = 0;
    range.read_at(offset, &elements, sizeof elements);
    offset += sizeof elements;
    const uint64_t element = width.contains(key) ? width[key] : 1;
    if (elements > (range.bytes - offset) / element) refuse(range, fmt::format("its storage {} is cut off", key));
    storages[key] = {offset, elements * element};
    offset += elements * element;
  }
  return place(range, tensors, [&](const PickledTensor& tensor) {
    const auto found = storages.find(tensor.storage);
    if (found == storages.end()) refuse(range, fmt::format("the storage of tensor {} is missing", tensor.name));
    return found->second;
  });
}
}  // namespace

void FileRange::read_at(uint64_t offset, void* to, size_t n) const {
  if (offset > bytes || n > bytes - offset) refuse(*this, "it ends too early");
  file->read_at(begin + offset, to, n);
}

CheckpointTensor torch_tensor(TorchEntry& entry, int file, const std::string& origin) {
  int64_t count = 1;
  bool touching = true, countable = true;  // each row follows the one before; in 64 bits
  for (size_t i = entry.shape.size(); i > 0 && countable; --i) {
    const int64_t n = entry.shape[i - 1];
    touching = touching && (n <= 1 || entry.stride[i - 1] == count);
    countable = !__builtin_mul_overflow(count, n, &count) && count <= kMaxElements;
  }
  if (!countable) {  // of a stride of 0, whose elements are one and the same
    throw Error(fmt::format("tensor {} in {} has shape [{}], expected at most {} elements; save it again", entry.name,
                            origin, fmt::join(entry.shape, ", "), kMaxElements));
  }
  CheckpointTensor out{
      std::move(entry.name), std::move(entry.dtype), std::move(entry.shape), file, entry.offset, 0, 0, {}};
  const uint64_t element = element_bytes(out.stored_dtype);
  out.bytes = static_cast<uint64_t>(count) * element;
  if (touching || count == 0) return out;
  const bool matrix = out.shape.size() == 2 && entry.stride[0] > 0 && entry.stride[1] > 0;
  if (!matrix) {
    throw Error(
        fmt::format("tensor {} in {} has shape [{}] and stride [{}], expected one that is contiguous, or a matrix "
                    "whose elements lie apart; save it again after .contiguous()",
                    out.name, origin, fmt::join(out.shape, ", "), fmt::join(entry.stride, ", ")));
  }
  if ((out.shape[1] > 1 && entry.stride[1] != 1) || entry.stride[0] < out.shape[1]) {  // transposed: column by column
    for (int64_t c = 0; c < out.shape[1]; ++c) {
      CheckpointTensor column{out.name, out.stored_dtype, {out.shape[0], 1}, file, 0, 0, entry.stride[0], {}};
      column.offset = entry.offset + static_cast<uint64_t>(c * entry.stride[1]) * element;
      column.bytes = static_cast<uint64_t>((out.shape[0] - 1) * entry.stride[0] + 1) * element;
      out.pieces.push_back({std::move(column), 0, c});
    }
    return out;
  }
  out.row_stride = entry.stride[0];
  out.bytes = static_cast<uint64_t>((out.shape[0] - 1) * out.row_stride + out.shape[1]) * element;
  return out;
}

FileRange whole_file(const File& file) { return {&file, 0, file.size(), file.path().string()}; }

std::vector<TorchEntry> read_torch_file(const FileRange& range) {
  char start[8] = {};
  range.read_at(0, start, static_cast<size_t>(std::min<uint64_t>(range.bytes, sizeof start)));
  if (std::memcmp(start, "version ", 8) == 0) {
    throw Error(
        fmt::format("{} is a git-lfs pointer and not the file itself; run git lfs pull or download it", range.name));
  }
  return std::memcmp(start, "PK\3\4", 4) == 0 ? read_zip(range) : read_stream(range);
}

}  // namespace sluice
