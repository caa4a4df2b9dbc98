// SPDX-License-Identifier: Apache-2.0
#include "weights/safetensors.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <nlohmann/json.hpp>
#include <string_view>
#include <unordered_set>

#include "base/error.h"
#include "base/json_problem.h"

namespace sluice {
namespace {
using nlohmann::json;

[[noreturn]] void refuse(const std::string& file, const std::string& reason) {
  throw Error(fmt::format("{} is not a usable safetensors file: {}; copy or download it again", file, reason));
}

struct TypeBits {
  std::string_view name;
  unsigned bits;
};
// The types of the format, of which a model may use only some.
constexpr TypeBits kTypes[] = {
    {"BOOL", 8},        {"U8", 8},      {"I8", 8},      {"U16", 16},    {"I16", 16},    {"U32", 32},
    {"I32", 32},        {"U64", 64},    {"I64", 64},    {"F16", 16},    {"BF16", 16},   {"F32", 32},
    {"F64", 64},        {"C64", 64},    {"F8_E4M3", 8}, {"F8_E5M2", 8}, {"F8_E8M0", 8}, {"F8_E4M3FNUZ", 8},
    {"F8_E5M2FNUZ", 8}, {"F6_E2M3", 6}, {"F6_E3M2", 6}, {"F4", 4},
};

// Walks the header without building a tree. Depth 1 holds tensors and __metadata__, depth 2 their fields, depth 3 the
// two lists.
class HeaderReader : public json::json_sax_t {
 public:
  HeaderReader(const std::string& file, std::vector<SafetensorsEntry>& out) : file_(file), out_(out) {}

  bool null() override { return unexpected("null"); }
  bool boolean(bool) override { return unexpected("true or false"); }
  bool number_integer(number_integer_t value) override { return unexpected(fmt::format("the number {}", value)); }
  bool number_float(number_float_t, const string_t& text) override { return unexpected("the number " + text); }
  bool binary(binary_t&) override { return unexpected("binary data"); }

  bool number_unsigned(number_unsigned_t value) override {
    if (list_ == List::kShape) {
      if (value > static_cast<uint64_t>(std::numeric_limits<int64_t>::max()))
        refuse(file_, fmt::format("tensor {} has a dimension of {}", name_, value));
      out_.back().shape.push_back(static_cast<int64_t>(value));
      return true;
    }
    if (list_ == List::kOffsets) {
      if (offsets_ == 0) out_.back().begin = value;
      if (offsets_ == 1) out_.back().end = value;
      ++offsets_;
      return true;
    }
    return unexpected(fmt::format("the number {}", value));
  }

  bool string(string_t& value) override {
    if (depth_ == 2 && in_metadata_) return true;
    if (depth_ == 2 && list_ == List::kNone && field_ == "dtype") {
      out_.back().dtype = value;
      return true;
    }
    return unexpected("the text \"" + value.substr(0, 40) + "\"");
  }

  bool start_object(size_t) override {
    if (depth_ == 2 || list_ != List::kNone) return unexpected("an object");
    if (depth_ == 1) {
      in_metadata_ = name_ == "__metadata__";
      if (!in_metadata_) out_.push_back({name_, {}, {}, 0, 0});
      has_dtype_ = has_shape_ = has_offsets_ = false;
      fields_.clear();
    }
    ++depth_;
    return true;
  }

  bool end_object() override {
    --depth_;
    if (depth_ == 1 && !in_metadata_) {
      const char* missing = !has_dtype_ ? "dtype" : !has_shape_ ? "shape" : !has_offsets_ ? "data_offsets" : nullptr;
      if (missing != nullptr) refuse(file_, fmt::format("tensor {} has no {}", name_, missing));
    }
    if (depth_ == 1) in_metadata_ = false;
    return true;
  }

  bool key(string_t& key) override {
    if (depth_ == 1) {
      if (!names_.insert(key).second) refuse(file_, fmt::format("the name {} occurs twice in its header", key));
      name_ = key;
    } else if (in_metadata_) {
      if (!fields_.insert(key).second) refuse(file_, fmt::format("the metadata key {} occurs twice", key));
    } else {
      bool* seen = key == "dtype"          ? &has_dtype_
                   : key == "shape"        ? &has_shape_
                   : key == "data_offsets" ? &has_offsets_
                                           : nullptr;
      if (seen == nullptr)
        refuse(file_,
               fmt::format("tensor {} has the unknown field {}; known are dtype, shape and data_offsets", name_, key));
      if (*seen) refuse(file_, fmt::format("tensor {} has the field {} twice", name_, key));
      *seen = true;
    }
    field_ = key;
    return true;
  }

  bool start_array(size_t) override {
    if (depth_ != 2 || in_metadata_ || list_ != List::kNone || field_ == "dtype") return unexpected("a list");
    list_ = field_ == "shape" ? List::kShape : List::kOffsets;
    offsets_ = 0;
    return true;
  }

  bool end_array() override {
    if (list_ == List::kOffsets && offsets_ != 2)
      refuse(file_, fmt::format("data_offsets of tensor {} has {} numbers, expected 2", name_, offsets_));
    list_ = List::kNone;
    return true;
  }

  bool parse_error(size_t position, const std::string&, const nlohmann::detail::exception& error) override {
    refuse(file_, fmt::format("its header is not JSON at byte {} ({})", 8 + position, json_problem(error.what())));
  }

 private:
  enum class List { kNone, kShape, kOffsets };

  bool unexpected(const std::string& what) {
    if (depth_ == 0) refuse(file_, fmt::format("its header is {}, expected an object", what));
    refuse(file_, fmt::format("{} in the header where {} of {} is expected", what,
                              depth_ == 1    ? "the object"
                              : in_metadata_ ? "a text"
                                             : "\"" + field_ + "\"",
                              name_));
  }

  const std::string& file_;
  std::vector<SafetensorsEntry>& out_;
  std::unordered_set<std::string> names_, fields_;
  std::string name_, field_;
  int depth_ = 0;
  List list_ = List::kNone;
  uint64_t offsets_ = 0;
  bool in_metadata_ = false, has_dtype_ = false, has_shape_ = false, has_offsets_ = false;
};

// Bytes that type and shape ask for.
uint64_t expected_bytes(const SafetensorsEntry& tensor, const std::string& file) {
  const auto* type =
      std::find_if(std::begin(kTypes), std::end(kTypes), [&](const TypeBits& t) { return t.name == tensor.dtype; });
  if (type == std::end(kTypes)) {
    std::string known;
    for (const TypeBits& t : kTypes) known += fmt::format("{}{}", known.empty() ? "" : " ", t.name);
    refuse(file, fmt::format("tensor {} has the unknown dtype {}; known are {}", tensor.name, tensor.dtype, known));
  }
  uint64_t bits = type->bits;
  for (const int64_t dim : tensor.shape) {
    if (__builtin_mul_overflow(bits, static_cast<uint64_t>(dim), &bits))
      refuse(file, fmt::format("the size of tensor {} overflows 64 bits", tensor.name));
  }
  if (bits % 8 != 0) refuse(file, fmt::format("tensor {} does not fill whole bytes ({} bits)", tensor.name, bits));
  return bits / 8;
}

// The length in the first 8 bytes, checked against file and limit.
uint64_t header_length(std::span<const std::byte> head, uint64_t file_bytes, const std::string& file) {
  const std::string_view text(reinterpret_cast<const char*>(head.data()), head.size());
  if (text.starts_with("version ")) {
    throw Error(fmt::format("{} is a Git LFS pointer of {} bytes, not the weights; run \"git lfs pull\" in its folder",
                            file, file_bytes));
  }
  if (head.size() < 8 || file_bytes < 8) refuse(file, fmt::format("it has {} bytes, expected at least 8", file_bytes));
  uint64_t length = 0;
  for (size_t i = 0; i < 8; ++i) length |= std::to_integer<uint64_t>(head[i]) << (8 * i);
  if (length > kMaxSafetensorsHeader)
    refuse(file, fmt::format("its header claims {} bytes, the limit is {}", length, kMaxSafetensorsHeader));
  if (length > file_bytes - 8)
    refuse(file, fmt::format("its header claims {} bytes, but only {} follow", length, file_bytes - 8));
  return length;
}
}  // namespace

SafetensorsHeader parse_safetensors(std::span<const std::byte> head, uint64_t file_bytes, const std::string& file) {
  const uint64_t length = header_length(head, file_bytes, file);
  if (head.size() < 8 + length)
    refuse(file, fmt::format("only {} of {} header bytes are there", head.size() - 8, length));
  const char* begin = reinterpret_cast<const char*>(head.data()) + 8;
  if (length == 0 || *begin != '{') refuse(file, "its header does not start with {");

  SafetensorsHeader out;
  out.data_begin = 8 + length;
  HeaderReader reader(file, out.tensors);
  json::sax_parse(begin, begin + length, &reader);

  std::stable_sort(out.tensors.begin(), out.tensors.end(), [](const SafetensorsEntry& a, const SafetensorsEntry& b) {
    return a.begin != b.begin ? a.begin < b.begin : a.end < b.end;
  });
  uint64_t next = 0;  // relative to data_begin
  for (SafetensorsEntry& tensor : out.tensors) {
    const uint64_t bytes = expected_bytes(tensor, file);
    if (tensor.end < tensor.begin || tensor.end - tensor.begin != bytes) {
      refuse(file,
             fmt::format("tensor {} of type {} and shape [{}] needs {} bytes, its data_offsets are [{}, {}]",
                         tensor.name, tensor.dtype, fmt::join(tensor.shape, ", "), bytes, tensor.begin, tensor.end));
    }
    if (tensor.begin != next) {
      refuse(file, fmt::format("tensor {} starts at {}, expected {}: tensors {}", tensor.name, tensor.begin, next,
                               tensor.begin < next ? "overlap" : "leave a gap"));
    }
    next = tensor.end;
  }
  if (next != file_bytes - out.data_begin) {
    refuse(file, fmt::format("its tensors end at byte {}, the file at byte {}", out.data_begin + next, file_bytes));
  }
  for (SafetensorsEntry& tensor : out.tensors) {
    tensor.begin += out.data_begin;
    tensor.end += out.data_begin;
  }
  return out;
}

SafetensorsHeader read_safetensors(const File& file) {
  const uint64_t size = file.size();
  std::vector<std::byte> head(static_cast<size_t>(std::min<uint64_t>(size, 8)));
  file.read_at(0, head.data(), head.size());
  const uint64_t length = header_length(head, size, file.path().string());
  head.resize(static_cast<size_t>(8 + length));
  file.read_at(8, head.data() + 8, static_cast<size_t>(length));
  return parse_safetensors(head, size, file.path().string());
}

std::string_view safetensors_name(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return "F32";
    case DType::kBF16:
      return "BF16";
    case DType::kF16:
      return "F16";
    case DType::kF64:
      return "F64";
    case DType::kI64:
      return "I64";
    case DType::kI32:
      return "I32";
    case DType::kI16:
      return "I16";
    case DType::kI8:
      return "I8";
    case DType::kU8:
      return "U8";
    case DType::kBool:
      return "BOOL";
  }
  fatal("a type without a name");
}

}  // namespace sluice
