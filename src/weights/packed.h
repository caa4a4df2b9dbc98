// SPDX-License-Identifier: Apache-2.0
// Weights as one rank holds them, packed by its backend, in files of their own: a rank reads its file and converts
// nothing. packed.json beside config.json says for which runs they were made and lists one file for each rank, a
// safetensors file whose tensors are named "KIND.PART NAMES": KIND is table, vector or the scheme of a packed matrix,
// PART counts the arrays of that matrix, NAMES are those of the checkpoint, stacked ones with spaces between them.
#pragma once

#include <cstdio>
#include <filesystem>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "backend/backend.h"
#include "base/file.h"
#include "weights/staging.h"

namespace sluice {

// Which tensors serve as embedding and as head, where the config claims that one does both.
struct PackedTie {
  std::string embed, head;
  bool tied = false;
};

struct PackedFile {
  std::string name;
  uint64_t bytes = 0;
  std::string sha256;  // hex
};

struct PackedLayout {
  std::filesystem::path folder;
  int tp = 1, pp = 1;
  std::string packing;  // Backend::packing()
  std::string dtype;    // "bfloat16"
  std::string quantize, experts;
  std::string source;  // what was packed, as the user named it
  std::optional<PackedTie> tie;
  std::vector<PackedFile> files;  // of stage * tp + tp rank

  bool gpus() const { return packing.starts_with("cuda-"); }  // not CPUs
  std::string describe() const;                               // "tp 2, pp 1, bfloat16, int8"
  std::string again() const;                                  // "pack it again: COMMAND"
  // Each throws Error with what was found beside what the folder is packed for, and the command that packs it anew.
  // `dtype` may be "auto", `quantize` empty and `experts` "auto": what the folder has.
  void require_ranks(int tp, int pp) const;
  void require_stored(const std::string& dtype, const std::string& quantize, const std::string& experts) const;
  void require_device(bool cuda) const;
  void require_packing(const Backend& backend) const;
};

// Of packed.json; nullopt where the folder has none. Throws Error where it is not as convert writes it.
std::optional<PackedLayout> read_packed_layout(const std::filesystem::path& folder);
void write_packed_layout(const PackedLayout& layout);

// Writes the file of one rank, which has its name when finish() returns. Throws Error.
class PackedWriter {
 public:
  PackedWriter(std::filesystem::path folder, std::string name);
  ~PackedWriter();
  PackedWriter(const PackedWriter&) = delete;
  PackedWriter& operator=(const PackedWriter&) = delete;

  // Room in the header for a record of these names; before the first one is written.
  void announce(std::string_view names);
  void matrix(std::string_view names, const PackedForm& form);
  void plain(std::string_view kind, std::string_view names, DType dtype, std::vector<int64_t> shape, const void* data);
  PackedFile finish();  // without its digest

  void set_tie(PackedTie tie) { tie_ = std::move(tie); }
  const std::optional<PackedTie>& tie() const { return tie_; }

 private:
  struct Entry {
    std::string name, dtype;
    std::vector<int64_t> shape;
    uint64_t begin, end;
  };
  std::filesystem::path path() const { return folder_ / name_; }
  void add(std::string name, DType dtype, const std::vector<int64_t>& shape, const void* data);

  std::filesystem::path folder_;
  std::string name_;
  std::FILE* file_ = nullptr;
  uint64_t header_ = 64, written_ = 0;  // bytes
  std::vector<Entry> entries_;
  std::optional<PackedTie> tie_;
};

// The file of one rank. Throws Error where it is not what packed.json says.
class PackedReader {
 public:
  PackedReader(const PackedLayout& layout, int rank);

  const PackedLayout& layout() const { return layout_; }
  bool holds(std::string_view prefix) const;  // a record whose first name begins so

  // Declares what is to be read, in memory of `backend`. Throws Error where the file has no such record, or another
  // shape. What is returned is filled by read().
  PackedForm matrix(Backend& backend, std::string_view names, int64_t rows, int64_t cols);
  Buffer plain(Backend& backend, std::string_view kind, std::string_view names, DType dtype, int64_t rows,
               int64_t cols);
  void read(const StagingOptions& options);

 private:
  struct Part {
    std::string dtype;
    std::vector<int64_t> shape;
    uint64_t offset = 0, bytes = 0;
  };
  struct Record {
    std::string kind;
    std::vector<Part> parts;
  };
  struct Wanted {
    uint64_t offset;
    char* to;
    size_t bytes;
  };
  const Record& at(std::string_view kind, std::string_view names) const;
  Buffer want(Backend& backend, const Part& part);
  void read_in_place(int threads);
  [[noreturn]] void refuse(const std::string& what) const;

  struct Sent {
    uint64_t offset;
    Tensor to;  // in memory that no file can be read into
  };
  const File& file() const { return files_.front(); }

  const PackedLayout& layout_;
  std::vector<File> files_;                             // one
  std::map<std::string, Record, std::less<>> records_;  // "table NAME", "vector NAMES", "matrix NAMES"
  std::vector<Wanted> wanted_;
  std::vector<Sent> sent_;
};

}  // namespace sluice
