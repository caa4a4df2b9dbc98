// SPDX-License-Identifier: Apache-2.0
#include "hub/digest.h"

#include <fmt/format.h>
#include <openssl/evp.h>

#include <algorithm>
#include <vector>

#include "base/error.h"
#include "base/file.h"

namespace sluice {
namespace {
constexpr size_t kPiece = size_t{1} << 20;  // bytes of one read
EVP_MD_CTX* raw(const std::shared_ptr<void>& context) { return static_cast<EVP_MD_CTX*>(context.get()); }
}  // namespace

bool is_content_name(std::string_view name) {
  return (name.size() == 40 || name.size() == 64) &&
         std::all_of(name.begin(), name.end(), [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); });
}

Digest::Digest(std::string_view expected, uint64_t size)
    : context_(EVP_MD_CTX_new(), [](void* context) { EVP_MD_CTX_free(static_cast<EVP_MD_CTX*>(context)); }) {
  if (!is_content_name(expected)) {
    throw Error(fmt::format("'{}' names no contents: expected 40 or 64 hex digits", expected));
  }
  const bool git = expected.size() == 40;
  check(EVP_DigestInit_ex(raw(context_), git ? EVP_sha1() : EVP_sha256(), nullptr) == 1, "EVP_DigestInit_ex failed");
  if (git) {
    const std::string head = fmt::format("blob {}", size);
    update(head.c_str(), head.size() + 1);
  }
}

void Digest::update(const void* bytes, size_t n) {
  check(EVP_DigestUpdate(raw(context_), bytes, n) == 1, "EVP_DigestUpdate failed");
}

std::string Digest::hex() {
  unsigned char digest[EVP_MAX_MD_SIZE];
  unsigned length = 0;
  check(EVP_DigestFinal_ex(raw(context_), digest, &length) == 1, "EVP_DigestFinal_ex failed");
  std::string out;
  for (unsigned i = 0; i < length; ++i) out += fmt::format("{:02x}", digest[i]);
  return out;
}

std::string file_digest(const std::filesystem::path& path, std::string_view expected) {
  const File file = File::open_read(path);
  const uint64_t size = file.size();
  Digest digest(expected, size);
  std::vector<char> piece(kPiece);
  for (uint64_t at = 0; at < size; at += kPiece) {
    const size_t n = static_cast<size_t>(std::min<uint64_t>(kPiece, size - at));
    file.read_at(at, piece.data(), n);
    digest.update(piece.data(), n);
    file.forget(at, n);
  }
  return digest.hex();
}

}  // namespace sluice
