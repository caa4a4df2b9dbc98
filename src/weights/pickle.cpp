// SPDX-License-Identifier: Apache-2.0
// Opcodes: Lib/pickletools.py of CPython, protocols 2 to 4. What torch.save writes: torch/serialization.py.
#include "weights/pickle.h"

#include <fmt/format.h>

#include <array>
#include <cstring>
#include <unordered_map>
#include <unordered_set>

#include "base/error.h"

namespace sluice {
namespace {
using Kind = PickleValue::Kind;

// Classes of storages and what their elements are.
constexpr std::array<std::pair<const char*, const char*>, 12> kStorages = {{{"FloatStorage", "F32"},
                                                                            {"HalfStorage", "F16"},
                                                                            {"BFloat16Storage", "BF16"},
                                                                            {"DoubleStorage", "F64"},
                                                                            {"LongStorage", "I64"},
                                                                            {"IntStorage", "I32"},
                                                                            {"ShortStorage", "I16"},
                                                                            {"CharStorage", "I8"},
                                                                            {"ByteStorage", "U8"},
                                                                            {"BoolStorage", "BOOL"},
                                                                            {"Float8_e4m3fnStorage", "F8_E4M3"},
                                                                            {"Float8_e5m2Storage", "F8_E5M2"}}};
const char* storage_dtype(std::string_view global) {
  for (const auto& [name, dtype] : kStorages) {
    if (global == std::string("torch ") + name) return dtype;
  }
  return nullptr;
}

// What a pickle may name: constructors that the reader knows, and values that it only carries along.
bool is_constructor(std::string_view global) {
  return global == "torch._utils _rebuild_tensor_v2" || global == "torch._utils _rebuild_tensor" ||
         global == "torch._utils _rebuild_parameter" || global == "torch._utils _rebuild_parameter_with_state" ||
         global == "collections OrderedDict" || global == "torch Size" || global == "torch device" ||
         global == "argparse Namespace" || global == "_io BytesIO";
}
bool is_constant(std::string_view global) {
  static const std::unordered_set<std::string_view> kDtypes = {
      "torch float32", "torch float16", "torch bfloat16", "torch float64", "torch int64",
      "torch int32",   "torch int16",   "torch int8",     "torch uint8",   "torch bool"};
  return storage_dtype(global) != nullptr || kDtypes.contains(global);
}

class Reader {
 public:
  Reader(std::span<const std::byte> bytes, const std::string& origin) : bytes_(bytes), origin_(origin) {}

  Pickle run() {
    for (;;) {
      const auto op = static_cast<unsigned char>(take(1)[0]);
      if (op == '.') break;
      step(op);
    }
    out_.root = pop();
    out_.consumed = at_;
    return std::move(out_);
  }

 private:
  [[noreturn]] void refuse(const std::string& what) const {
    throw Error(fmt::format("{}: {} at byte {} of its pickle; expected a checkpoint as torch.save writes it", origin_,
                            what, at_));
  }

  const char* take(uint64_t n) {
    if (n > bytes_.size() - at_) refuse("the data ends too early");
    const char* from = reinterpret_cast<const char*>(bytes_.data()) + at_;
    at_ += static_cast<size_t>(n);
    return from;
  }
  template <class T>
  T number() {
    T value;
    std::memcpy(&value, take(sizeof value), sizeof value);
    return value;
  }
  std::string_view line() {
    const char* from = reinterpret_cast<const char*>(bytes_.data()) + at_;
    const void* end = std::memchr(from, '\n', bytes_.size() - at_);
    if (end == nullptr) refuse("a line without an end");
    const auto length = static_cast<size_t>(static_cast<const char*>(end) - from);
    at_ += length + 1;
    return {from, length};
  }
  // Little-endian two's complement of up to 8 bytes; longer numbers count as their lowest bytes (torch's magic number).
  int64_t long_number(size_t n) {
    const char* from = take(n);
    uint64_t value = 0;
    for (size_t i = 0; i < std::min<size_t>(n, 8); ++i)
      value |= static_cast<uint64_t>(static_cast<unsigned char>(from[i])) << (8 * i);
    if (n > 0 && n < 8 && (static_cast<unsigned char>(from[n - 1]) & 0x80) != 0) value |= ~uint64_t{0} << (8 * n);
    return static_cast<int64_t>(value);
  }

  uint32_t add(PickleValue value) {
    // Copies of long sequences could grow without bound.
    copied_ += value.items.size();
    if (copied_ > 64 * bytes_.size() + 4096) refuse("values that grow without end");
    out_.values.push_back(std::move(value));
    return static_cast<uint32_t>(out_.values.size() - 1);
  }
  void push(PickleValue value) { stack_.push_back(add(std::move(value))); }
  void push_int(int64_t n, Kind kind = Kind::kInt) {
    PickleValue value;
    value.kind = kind;
    value.number = n;
    push(std::move(value));
  }
  void push_text(std::string_view text) {
    PickleValue value;
    value.kind = Kind::kText;
    value.text = text;
    push(std::move(value));
  }
  void push_kind(Kind kind) {
    PickleValue value;
    value.kind = kind;
    push(std::move(value));
  }
  size_t floor() const { return marks_.empty() ? 0 : marks_.back(); }
  uint32_t pop() {
    if (stack_.size() <= floor()) refuse("an empty stack");
    const uint32_t top = stack_.back();
    stack_.pop_back();
    return top;
  }
  PickleValue& top() {
    if (stack_.size() <= floor()) refuse("an empty stack");
    return out_.values[stack_.back()];
  }
  std::vector<uint32_t> pop_mark() {
    if (marks_.empty()) refuse("no mark on the stack");
    std::vector<uint32_t> items(stack_.begin() + static_cast<ptrdiff_t>(marks_.back()), stack_.end());
    stack_.resize(marks_.back());
    marks_.pop_back();
    return items;
  }
  void push_sequence(std::vector<uint32_t> items) {
    PickleValue value;
    value.kind = Kind::kSequence;
    value.items = std::move(items);
    push(std::move(value));
  }
  void push_tuple(size_t n) {
    std::vector<uint32_t> items(n);
    for (size_t i = n; i > 0; --i) items[i - 1] = pop();
    push_sequence(std::move(items));
  }
  void set_items(const std::vector<uint32_t>& items) {
    PickleValue& dict = top();
    if (dict.kind == Kind::kOpaque) return;
    if (dict.kind != Kind::kDict || items.size() % 2 != 0) refuse("items for something that is not a dict");
    dict.items.insert(dict.items.end(), items.begin(), items.end());
  }
  void append(const std::vector<uint32_t>& items) {
    PickleValue& list = top();
    if (list.kind == Kind::kOpaque) return;
    if (list.kind != Kind::kSequence) refuse("elements for something that is not a list");
    list.items.insert(list.items.end(), items.begin(), items.end());
  }

  void global(std::string_view module, std::string_view name) {
    PickleValue value;
    value.kind = Kind::kGlobal;
    value.text = fmt::format("{} {}", module, name);
    if (!is_constructor(value.text) && !is_constant(value.text)) {
      throw Error(
          fmt::format("{}: its pickle asks for {}.{}, which loading weights does not need and which is not run; "
                      "expected tensors alone. Convert the checkpoint to safetensors where you trust it",
                      origin_, module, name));
    }
    push(std::move(value));
  }

  const PickleValue& item(const PickleValue& sequence, size_t i, Kind kind, const char* what) const {
    if (sequence.kind != Kind::kSequence || i >= sequence.items.size()) refuse(fmt::format("no {}", what));
    const PickleValue& value = out_.values[sequence.items[i]];
    if (value.kind != kind) refuse(fmt::format("an unexpected {}", what));
    return value;
  }
  std::vector<int64_t> numbers(const PickleValue& sequence) const {
    std::vector<int64_t> out;
    if (sequence.items.size() > 8) refuse("a tensor of more than 8 dimensions");
    for (const uint32_t i : sequence.items) {
      const PickleValue& value = out_.values[i];
      if (value.kind != Kind::kInt || value.number < 0 || value.number > (int64_t{1} << 48))
        refuse("a shape or stride that is not made of whole numbers");
      out.push_back(value.number);
    }
    return out;
  }

  // ("storage", class, key, location, elements[, view])
  void persistent_id() {
    const PickleValue id = out_.values[pop()];
    if (item(id, 0, Kind::kText, "persistent id").text != "storage") refuse("a persistent id that is no storage");
    const PickleValue& type = item(id, 1, Kind::kGlobal, "class of a storage");
    const char* dtype = storage_dtype(type.text);
    if (dtype == nullptr) refuse(fmt::format("a storage of class {}", type.text));
    if (id.items.size() > 5 && out_.values[id.items[5]].kind != Kind::kNone) refuse("a view of a storage");
    PickleValue value;
    value.kind = Kind::kStorage;
    value.dtype = dtype;
    value.text = item(id, 2, Kind::kText, "key of a storage").text;
    value.elements = item(id, 4, Kind::kInt, "size of a storage").number;
    if (value.elements < 0) refuse("a storage of negative size");
    push(std::move(value));
  }

  void reduce() {
    const PickleValue arguments = out_.values[pop()];
    const PickleValue function = out_.values[pop()];
    if (function.kind == Kind::kOpaque) return push_kind(Kind::kOpaque);
    if (function.kind != Kind::kGlobal || arguments.kind != Kind::kSequence || !is_constructor(function.text))
      refuse("a call of something that is no constructor");
    const std::string_view name = std::string_view(function.text).substr(function.text.find(' ') + 1);
    if (name == "OrderedDict") {
      if (!arguments.items.empty()) refuse("an OrderedDict with arguments");
      return push_kind(Kind::kDict);
    }
    if (name == "Size") return push_sequence(item(arguments, 0, Kind::kSequence, "size").items);
    if (name == "device" || name == "BytesIO" || name == "Namespace") return push_kind(Kind::kOpaque);
    if (name == "_rebuild_parameter" || name == "_rebuild_parameter_with_state") {
      item(arguments, 0, Kind::kTensor, "tensor of a parameter");
      stack_.push_back(arguments.items[0]);
      return;
    }
    // _rebuild_tensor[_v2](storage, offset, shape, stride, ...)
    PickleValue value;
    const PickleValue& storage = item(arguments, 0, Kind::kStorage, "storage of a tensor");
    value.kind = Kind::kTensor;
    value.dtype = storage.dtype;
    value.number = item(arguments, 1, Kind::kInt, "offset of a tensor").number;
    value.shape = numbers(item(arguments, 2, Kind::kSequence, "shape of a tensor"));
    value.stride = numbers(item(arguments, 3, Kind::kSequence, "stride of a tensor"));
    value.items = {arguments.items[0]};
    if (value.shape.size() != value.stride.size()) refuse("a tensor whose shape and stride differ in length");
    // The last element lies within the storage; doubles, so that no product overflows.
    double last = static_cast<double>(value.number), count = 1;
    for (size_t i = 0; i < value.shape.size(); ++i) {
      last += static_cast<double>(value.shape[i] - 1) * static_cast<double>(value.stride[i]);
      count *= static_cast<double>(value.shape[i]);
    }
    if (value.number < 0 || (count > 0 && last >= static_cast<double>(storage.elements)))
      refuse(fmt::format("a tensor beyond the {} elements of its storage {}", storage.elements, storage.text));
    push(std::move(value));
  }

  // State of an object: OrderedDicts carry their _metadata so; tensors and parameters nothing that matters here.
  void build() {
    pop();
    top();
  }

  void remember(uint64_t place) {
    top();
    memo_[place] = stack_.back();
  }
  void recall(uint64_t place) {
    const auto found = memo_.find(place);
    if (found == memo_.end()) refuse("a value that was not stored");
    stack_.push_back(found->second);
  }

  void step(unsigned char op) {
    if (stack_.size() > bytes_.size()) refuse("a stack that grows without end");
    switch (op) {
      case 0x80: {  // PROTO
        const int version = static_cast<unsigned char>(*take(1));
        if (version < 2 || version > 5) refuse(fmt::format("pickle protocol {}", version));
        return;
      }
      case 0x95:  // FRAME
        take(8);
        return;
      case '(':
        marks_.push_back(stack_.size());
        return;
      case '0':
        pop();
        return;
      case '1':
        pop_mark();
        return;
      case '2':
        top();
        stack_.push_back(stack_.back());
        return;
      case 'N':
        return push_kind(Kind::kNone);
      case 0x88:
        return push_int(1, Kind::kBool);
      case 0x89:
        return push_int(0, Kind::kBool);
      case 'J':
        return push_int(number<int32_t>());
      case 'K':
        return push_int(number<uint8_t>());
      case 'M':
        return push_int(number<uint16_t>());
      case 0x8a:  // LONG1
        return push_int(long_number(number<uint8_t>()));
      case 'G': {
        uint64_t bits = __builtin_bswap64(number<uint64_t>());
        PickleValue value;
        value.kind = Kind::kFloat;
        std::memcpy(&value.real, &bits, sizeof bits);
        return push(std::move(value));
      }
      case 'X':
      case 'T':
      case 'B': {
        const uint32_t n = number<uint32_t>();
        return push_text({take(n), n});
      }
      case 0x8c:
      case 'U':
      case 'C': {
        const uint8_t n = number<uint8_t>();
        return push_text({take(n), n});
      }
      case 0x8d:    // BINUNICODE8
      case 0x8e: {  // BINBYTES8
        const uint64_t n = number<uint64_t>();
        const char* from = take(n);
        return push_text({from, static_cast<size_t>(n)});
      }
      case ']':
      case ')':
      case 0x8f:  // EMPTY_SET
        return push_kind(Kind::kSequence);
      case '}':
        return push_kind(Kind::kDict);
      case 'a': {
        const uint32_t item = pop();
        return append({item});
      }
      case 'e':
      case 0x90:  // ADDITEMS
        return append(pop_mark());
      case 't':
      case 'l':
        return push_sequence(pop_mark());
      case 'd': {
        const std::vector<uint32_t> items = pop_mark();
        push_kind(Kind::kDict);
        return set_items(items);
      }
      case 0x85:
      case 0x86:
      case 0x87:
        return push_tuple(static_cast<size_t>(op - 0x84));
      case 's': {
        const uint32_t value = pop(), key = pop();
        return set_items({key, value});
      }
      case 'u':
        return set_items(pop_mark());
      case 'q':
        return remember(number<uint8_t>());
      case 'r':
        return remember(number<uint32_t>());
      case 0x94:  // MEMOIZE
        return remember(memo_.size());
      case 'h':
        return recall(number<uint8_t>());
      case 'j':
        return recall(number<uint32_t>());
      case 'c': {
        const std::string_view module = line();
        return global(module, line());
      }
      case 0x93: {  // STACK_GLOBAL
        const PickleValue name = out_.values[pop()], module = out_.values[pop()];
        if (name.kind != Kind::kText || module.kind != Kind::kText) refuse("a global without a name");
        return global(module.text, name.text);
      }
      case 'R':
      case 0x81:  // NEWOBJ
        return reduce();
      case 'b':
        return build();
      case 'Q':
        return persistent_id();
      default:
        refuse(fmt::format("the opcode 0x{:02x}", op));
    }
  }

  std::span<const std::byte> bytes_;
  const std::string& origin_;
  size_t at_ = 0, copied_ = 0;
  Pickle out_;
  std::vector<uint32_t> stack_;
  std::vector<size_t> marks_;
  std::unordered_map<uint64_t, uint32_t> memo_;
};
}  // namespace

Pickle read_pickle(std::span<const std::byte> bytes, const std::string& origin) { return Reader(bytes, origin).run(); }

std::vector<PickledTensor> pickled_tensors(const Pickle& pickle, const std::string& origin) {
  if (pickle.at(pickle.root).kind != Kind::kDict)
    throw Error(fmt::format("{} holds no dict of tensors, expected the weights of a model", origin));
  std::vector<PickledTensor> out;
  std::unordered_set<std::string> names;
  std::vector<uint8_t> seen(pickle.values.size(), 0);  // a dict within itself would never end
  std::vector<std::pair<std::string, uint32_t>> open{{"", pickle.root}};
  while (!open.empty()) {
    const auto [prefix, index] = open.back();
    open.pop_back();
    if (seen[index]++ != 0) continue;
    const PickleValue& dict = pickle.at(index);
    for (size_t i = 0; i + 1 < dict.items.size(); i += 2) {
      const PickleValue &key = pickle.at(dict.items[i]), &value = pickle.at(dict.items[i + 1]);
      if (key.kind != Kind::kText || key.text.size() > 4096) continue;
      std::string name = prefix.empty() ? key.text : prefix + "." + key.text;
      if (value.kind == Kind::kDict && name.size() < 4096) {
        open.emplace_back(std::move(name), dict.items[i + 1]);
      } else if (value.kind == Kind::kTensor) {
        if (!names.insert(name).second) throw Error(fmt::format("{} holds two tensors named {}", origin, name));
        out.push_back(
            {std::move(name), value.dtype, pickle.at(value.items[0]).text, value.number, value.shape, value.stride});
      }
    }
  }
  return out;
}

}  // namespace sluice
