// SPDX-License-Identifier: Apache-2.0
// Bytes on the control connections, little-endian. After the handshake everything is a frame: type, length, payload.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace sluice {

enum class FrameType : uint32_t {
  kTable = 1,  // rank 0 to all: every Hello, by rank; the formation is complete
  kMessage,    // rank 0 to all: what broadcast() was given
  kHeartbeat,  // empty
  kAbort,      // the reason, as text
  kGoodbye,    // empty: the sender ends cleanly and sends nothing more
  kExchange,   // to rank 0: number, what, this rank's part
  kExchanged,  // rank 0 to all: number, 1 and every part, or 0 and the reason
};

constexpr size_t kFrameHeader = 8;
constexpr uint32_t kMaxMessage = 256u << 20;  // bytes of one broadcast
constexpr uint32_t kMaxPart = 1u << 20;       // bytes of one rank's part of an exchange
constexpr uint32_t kMaxReason = 4096;

inline void put_u32(std::string& out, uint32_t value) {
  for (int shift = 0; shift < 32; shift += 8) out.push_back(static_cast<char>(value >> shift));
}
inline void put_u64(std::string& out, uint64_t value) {
  put_u32(out, static_cast<uint32_t>(value));
  put_u32(out, static_cast<uint32_t>(value >> 32));
}
inline void put_string(std::string& out, std::string_view text) {
  put_u32(out, static_cast<uint32_t>(text.size()));
  out += text;
}
// `out` is replaced by the eight bytes in front of a payload.
inline void frame_header(char* out, FrameType type, uint32_t length) {
  for (int i = 0; i < 4; ++i) {
    out[i] = static_cast<char>(static_cast<uint32_t>(type) >> (8 * i));
    out[4 + i] = static_cast<char>(length >> (8 * i));
  }
}
inline uint32_t get_u32(const char* at) {
  uint32_t value = 0;
  for (int i = 0; i < 4; ++i) value |= static_cast<uint32_t>(static_cast<unsigned char>(at[i])) << (8 * i);
  return value;
}

// Reads from the front; ok() turns false for good at the first read beyond the end.
class ByteReader {
 public:
  explicit ByteReader(std::string_view bytes) : rest_(bytes) {}
  bool ok() const { return ok_; }
  std::string_view rest() const { return rest_; }
  std::string_view take(size_t n) {
    if (!ok_ || n > rest_.size()) {
      ok_ = false;
      return {};
    }
    const std::string_view front = rest_.substr(0, n);
    rest_.remove_prefix(n);
    return front;
  }
  uint32_t u32() {
    const auto bytes = take(4);
    return ok_ ? get_u32(bytes.data()) : 0;
  }
  uint64_t u64() {
    const uint64_t low = u32();
    return low | static_cast<uint64_t>(u32()) << 32;
  }
  std::string_view string() { return take(u32()); }

 private:
  std::string_view rest_;
  bool ok_ = true;
};

}  // namespace sluice
