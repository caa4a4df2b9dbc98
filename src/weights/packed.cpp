// SPDX-License-Identifier: Apache-2.0
#include "weights/packed.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <exception>
#include <mutex>
#include <nlohmann/json.hpp>
#include <system_error>
#include <thread>

#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include "weights/safetensors.h"

namespace sluice {
namespace {
constexpr uint64_t kReadBytes = uint64_t{16} << 20;

constexpr std::pair<std::string_view, Scheme> kSchemes[] = {
    {"f32", Scheme::kF32},   {"bf16", Scheme::kBF16},        {"f16", Scheme::kF16}, {"int8", Scheme::kInt8},
    {"int4", Scheme::kInt4}, {"int8g", Scheme::kInt8Groups}, {"fp8", Scheme::kFp8}};

std::string_view scheme_name(Scheme scheme) {
  for (const auto& [name, known] : kSchemes)
    if (known == scheme) return name;
  fatal("a scheme without a name");
}

[[noreturn]] void cannot_write(const std::filesystem::path& path) {
  throw Error(fmt::format("cannot write {}: {}", path.string(), std::strerror(errno)));
}
}  // namespace

PackedWriter::PackedWriter(std::filesystem::path folder, std::string name)
    : folder_(std::move(folder)), name_(std::move(name)) {}

PackedWriter::~PackedWriter() {
  if (file_ != nullptr) std::fclose(file_);
}

// A name comes once for each part, with at most 200 bytes of type, shape and place.
void PackedWriter::announce(std::string_view names) {
  check(file_ == nullptr, "records are announced before the first is written");
  constexpr uint64_t kParts = 3;
  header_ += kParts * (names.size() + 200);
}

void PackedWriter::matrix(std::string_view names, const PackedForm& form) {
  for (size_t i = 0; i < form.parts.size(); ++i) {
    const PackedPart& part = form.parts[i];
    if (!part.shape.empty())
      add(fmt::format("{}.{} {}", scheme_name(form.scheme), i, names), part.dtype, part.shape, part.data);
  }
}

void PackedWriter::plain(std::string_view kind, std::string_view names, DType dtype, std::vector<int64_t> shape,
                         const void* data) {
  add(fmt::format("{}.0 {}", kind, names), dtype, shape, data);
}

void PackedWriter::add(std::string name, DType dtype, const std::vector<int64_t>& shape, const void* data) {
  const auto part = std::filesystem::path(path().string() + ".part");
  if (file_ == nullptr) {
    header_ = (header_ + 7) / 8 * 8;
    file_ = std::fopen(part.c_str(), "wb");
    if (file_ == nullptr || std::fseek(file_, static_cast<long>(8 + header_), SEEK_SET) != 0) cannot_write(part);
  }
  uint64_t bytes = dtype_bytes(dtype);
  for (const int64_t n : shape) bytes *= static_cast<uint64_t>(n);
  if (bytes > 0 && std::fwrite(data, 1, bytes, file_) != bytes) cannot_write(part);
  entries_.push_back({std::move(name), std::string(safetensors_name(dtype)), shape, written_, written_ + bytes});
  written_ += bytes;
}

PackedFile PackedWriter::finish() {
  check(file_ != nullptr, "a rank has weights");
  nlohmann::ordered_json header = nlohmann::ordered_json::object();
  for (const Entry& e : entries_)
    header[e.name] = {{"dtype", e.dtype}, {"shape", e.shape}, {"data_offsets", {e.begin, e.end}}};
  std::string text = header.dump();
  check(text.size() <= header_ && header.size() == entries_.size(), "every record was announced, and written once");
  text.resize(static_cast<size_t>(header_), ' ');
  const std::string part = path().string() + ".part";
  const bool whole = std::fseek(file_, 0, SEEK_SET) == 0 && std::fwrite(&header_, 1, 8, file_) == 8 &&
                     std::fwrite(text.data(), 1, text.size(), file_) == text.size() && std::fflush(file_) == 0 &&
                     ::fsync(::fileno(file_)) == 0;
  const bool closed = std::fclose(file_) == 0;
  file_ = nullptr;
  if (!whole || !closed) cannot_write(part);
  std::filesystem::rename(part, path());
  return {name_, 8 + header_ + written_, {}};
}

void PackedReader::refuse(const std::string& what) const {
  throw Error(fmt::format("{} is not what {} says: {}; {}", file().path().string(),
                          (layout_.folder / "packed.json").string(), what, layout_.again()));
}

PackedReader::PackedReader(const PackedLayout& layout, int rank) : layout_(layout) {
  files_.push_back(File::open_read(layout.folder / layout.files.at(static_cast<size_t>(rank)).name));
  const uint64_t expected = layout.files[static_cast<size_t>(rank)].bytes;
  if (file().size() != expected) refuse(fmt::format("it has {} bytes, expected {}", file().size(), expected));
  for (SafetensorsEntry& entry : read_safetensors(file()).tensors) {
    // KIND.PART NAMES
    const size_t space = entry.name.find(' '), dot = entry.name.find('.');
    const bool named = space != std::string::npos && dot != std::string::npos && dot + 2 == space &&
                       entry.name[dot + 1] >= '0' && entry.name[dot + 1] <= '7';
    if (!named) refuse(fmt::format("it holds a record named '{}'", entry.name));
    const auto part = static_cast<size_t>(entry.name[dot + 1] - '0');
    const std::string kind = entry.name.substr(0, dot);
    const bool plain = kind == "table" || kind == "vector";
    Record& record = records_[(plain ? kind : "matrix") + entry.name.substr(space)];
    if (!record.kind.empty() && record.kind != kind) refuse(fmt::format("it holds '{}' in two schemes", entry.name));
    record.kind = kind;
    record.parts.resize(std::max(record.parts.size(), part + 1));
    record.parts[part] = {std::move(entry.dtype), std::move(entry.shape), entry.begin, entry.end - entry.begin};
  }
}

bool PackedReader::holds(std::string_view prefix) const {
  for (const char* kind : {"matrix ", "table ", "vector "}) {
    const std::string begin = kind + std::string(prefix);
    const auto found = records_.lower_bound(begin);
    if (found != records_.end() && found->first.starts_with(begin)) return true;
  }
  return false;
}

const PackedReader::Record& PackedReader::at(std::string_view kind, std::string_view names) const {
  const auto found = records_.find(fmt::format("{} {}", kind, names));
  if (found == records_.end()) refuse(fmt::format("it holds no {} {}", kind, names));
  return found->second;
}

Buffer PackedReader::want(Backend& backend, const Part& part) {
  Buffer out = backend.allocate(static_cast<size_t>(part.bytes));
  if (!backend.host_memory()) {
    if (part.bytes % 2 != 0) refuse(fmt::format("it holds a part of {} bytes", part.bytes));
    if (part.bytes > 0) sent_.push_back({part.offset, out.view(DType::kF16, {static_cast<int64_t>(part.bytes / 2)})});
    return out;
  }
  for (uint64_t done = 0; done < part.bytes;) {
    const uint64_t now = std::min(part.bytes - done, kReadBytes - (part.offset + done) % kReadBytes);
    wanted_.push_back({part.offset + done, static_cast<char*>(out.data()) + done, static_cast<size_t>(now)});
    done += now;
  }
  return out;
}

PackedForm PackedReader::matrix(Backend& backend, std::string_view names, int64_t rows, int64_t cols) {
  const Record& record = at("matrix", names);
  const auto scheme =
      std::find_if(std::begin(kSchemes), std::end(kSchemes), [&](const auto& s) { return s.first == record.kind; });
  if (scheme == std::end(kSchemes)) refuse(fmt::format("it holds {} as {}", names, record.kind));
  PackedForm out{scheme->second, rows, cols, {}};
  for (const Part& part : record.parts) {
    PackedPart& to = out.parts.emplace_back();
    if (part.shape.empty()) continue;
    to.shape = part.shape;
    to.dtype = parse_dtype(part.dtype);
    to.memory = want(backend, part);
  }
  return out;
}

Buffer PackedReader::plain(Backend& backend, std::string_view kind, std::string_view names, DType dtype, int64_t rows,
                           int64_t cols) {
  const Part& part = at(kind, names).parts[0];
  if (part.dtype != safetensors_name(dtype) || part.shape != std::vector<int64_t>{rows, cols})
    refuse(fmt::format("it holds {} {} as {}[{}], expected {}[{}, {}]", kind, names, part.dtype,
                       fmt::join(part.shape, ", "), safetensors_name(dtype), rows, cols));
  return want(backend, part);
}

void PackedReader::read(const StagingOptions& options) {
  if (sent_.empty()) {
    const double start = monotonic_seconds();
    double bytes = 0;
    for (const Wanted& w : wanted_) bytes += static_cast<double>(w.bytes);
    read_in_place(options.threads);
    const double seconds = std::max(1e-9, monotonic_seconds() - start);
    if (!options.quiet)
      log_info(fmt::format("packed weights: {:.2f} GB in {:.2f} s, {:.2f} GB/s", 1e-9 * bytes, seconds,
                           1e-9 * bytes / seconds));
    return;
  }
  // Opaque elements of 16 bits, as they are.
  std::vector<CheckpointTensor> tensors;
  for (const Sent& sent : sent_) {
    CheckpointTensor& tensor = tensors.emplace_back();
    tensor.stored_dtype = "F16";
    tensor.shape = {1, sent.to.dim(0)};
    tensor.offset = sent.offset, tensor.bytes = sent.to.bytes();
  }
  std::vector<StagingItem> items;
  for (size_t i = 0; i < sent_.size(); ++i) {
    const int64_t n = sent_[i].to.dim(0);
    StagingPart part;
    part.tensor = &tensors[i];
    part.source_cols = n;
    part.rows = {0, 1, 1}, part.cols = {0, n, n};
    StagingItem& item = items.emplace_back();
    item.rows = 1, item.cols = n, item.dtype = DType::kF16;
    item.parts = {part};
    item.consumers.push_back(
        [&options, to = sent_[i].to](const HostMatrix& m) { options.backend->copy_in(to, m.data); });
  }
  stage(files_, std::move(items), options);
  sent_.clear();
}

// In the file's order, each thread the next stretch.
void PackedReader::read_in_place(int threads) {
  std::sort(wanted_.begin(), wanted_.end(), [](const Wanted& a, const Wanted& b) { return a.offset < b.offset; });
  std::atomic<size_t> next{0};
  std::mutex mutex;
  std::exception_ptr failure;
  const auto work = [&] {
    try {
      for (size_t i; (i = next.fetch_add(1)) < wanted_.size();)
        file().read_at(wanted_[i].offset, wanted_[i].to, wanted_[i].bytes);
    } catch (...) {
      const std::lock_guard lock(mutex);
      failure = std::current_exception();
      next = wanted_.size();
    }
  };
  std::vector<std::thread> pool;
  try {
    for (int i = 1; i < threads; ++i) pool.emplace_back(work);
  } catch (const std::system_error&) {  // fewer do, only slower
  }
  work();
  for (std::thread& thread : pool) thread.join();
  if (failure) std::rethrow_exception(failure);
  wanted_.clear();
}

}  // namespace sluice
