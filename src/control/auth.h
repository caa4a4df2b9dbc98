// SPDX-License-Identifier: Apache-2.0
// HMAC-SHA256 over the handshake between two ranks, with the user's secret as the key.
#pragma once

#include <array>
#include <cstddef>
#include <initializer_list>
#include <string_view>

namespace sluice {

using Digest = std::array<char, 32>;
using Nonce = std::array<char, 32>;

inline std::string_view view(const std::array<char, 32>& bytes) { return {bytes.data(), bytes.size()}; }

Nonce random_nonce();  // from getrandom

// The parts are signed with their lengths, so that bytes cannot move from one part to the next.
Digest sign(std::string_view key, std::initializer_list<std::string_view> parts);

// In constant time.
bool same(const Digest& a, const Digest& b);

}  // namespace sluice
