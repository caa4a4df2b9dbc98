// SPDX-License-Identifier: Apache-2.0
// Replies as a client reads them, in two pieces cut at a place that the first byte gives; then the body as events.
#include "client/http_reader.h"
#include "client/sse_reader.h"
#include "fuzz/fuzz.h"

using namespace sluice;

namespace {
// The body as read when the bytes arrive cut at `cut`, or the refusal.
std::string read_reply(std::string_view bytes, size_t cut) {
  std::string body, events;
  SseReader sse;
  HttpReader reader;
  reader.reset();
  const bool accepted = fuzz::accepts([&] {
    const auto take = [&](std::string_view piece) {
      body += piece;
      sse.feed(piece, [&](std::string_view data) { events.append(data).append("|"); });
      return true;
    };
    size_t used = reader.feed(bytes.substr(0, cut), take);
    fuzz::demand(used <= cut, "more read than was there");
    if (!reader.done() && used == cut) reader.feed(bytes.substr(cut), take);
    reader.finish();
  });
  return (accepted ? "" : "refused ") + body + "\n" + events;
}
}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const std::string_view bytes = fuzz::text_of(data + 1, size - 1);
  const size_t cut = bytes.size() * data[0] / 255;
  fuzz::demand(read_reply(bytes, bytes.size()) == read_reply(bytes, cut), "a reply depends on how it is cut");
  return 0;
}
