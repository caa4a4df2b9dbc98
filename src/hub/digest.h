// SPDX-License-Identifier: Apache-2.0
// The two digests by which the hub names contents: sha256 for large files, git's blob sha1 for small ones.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>

namespace sluice {

// Fed piece by piece, in order.
class Digest {
 public:
  // By the length of the expected name: 64 hex digits are a sha256; 40 are a git blob's sha1 over "blob SIZE\0" and the
  // bytes. Throws Error for anything else.
  Digest(std::string_view expected, uint64_t size);
  void update(const void* bytes, size_t n);
  std::string hex();  // once, at the end

 private:
  std::shared_ptr<void> context_;  // EVP_MD_CTX
};

// True for 40 or 64 lower-case hex digits.
bool is_content_name(std::string_view name);

// Of a whole file. Throws Error when it cannot be read.
std::string file_digest(const std::filesystem::path& path, std::string_view expected);

}  // namespace sluice
