// SPDX-License-Identifier: Apache-2.0
#include "control/auth.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <sys/random.h>

#include <string>

#include "base/error.h"
#include "control/wire.h"

namespace sluice {

Nonce random_nonce() {
  Nonce nonce;
  check(::getrandom(nonce.data(), nonce.size(), 0) == static_cast<ssize_t>(nonce.size()), "getrandom failed");
  return nonce;
}

Digest sign(std::string_view key, std::initializer_list<std::string_view> parts) {
  std::string text;
  for (const std::string_view part : parts) put_string(text, part);
  Digest digest;
  unsigned length = 0;
  const auto* done =
      HMAC(EVP_sha256(), key.data(), static_cast<int>(key.size()), reinterpret_cast<const unsigned char*>(text.data()),
           text.size(), reinterpret_cast<unsigned char*>(digest.data()), &length);
  check(done != nullptr && length == digest.size(), "HMAC-SHA256 failed");
  return digest;
}

bool same(const Digest& a, const Digest& b) { return CRYPTO_memcmp(a.data(), b.data(), a.size()) == 0; }

}  // namespace sluice
