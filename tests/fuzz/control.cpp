// SPDX-License-Identifier: Apache-2.0
// What ranks say to each other: a hello ('h'), an announcement ('a'), or a connection's frames.
#include <fcntl.h>
#include <sys/socket.h>

#include "control/announcement.h"
#include "control/frame_reader.h"
#include "control/hello.h"
#include "control/wire.h"
#include "fuzz/fuzz.h"

using namespace sluice;

namespace {
void read_hello(std::string_view bytes) {
  Hello hello;
  if (!parse(bytes, hello)) return;
  std::string once, twice;
  serialise(hello, once);
  fuzz::demand(parse(once, hello), "a hello that was written cannot be read");
  serialise(hello, twice);
  fuzz::demand(once == twice && !to_string(hello).empty(), "a hello changes when read again");
}

// Of this process, once: what it says of itself arrives as it was said.
void check_own() {
  Launch launch;
  launch.rank = 3;
  launch.world = 5;
  const Hello own = describe_process(launch);
  std::string bytes;
  serialise(own, bytes);
  Hello read;
  fuzz::demand(parse(bytes, read) && to_string(read) == to_string(own) && read.build == own.build, "another hello");
  fuzz::demand(places(std::span(&read, 1)).front().host == own.place.host, "another place");
}

void read_frames(std::string_view bytes) {
  bytes = bytes.substr(0, 64 << 10);  // what the socket takes before anybody reads
  int ends[2];
  fuzz::demand(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends) == 0, "no socket pair");
  (void)!::send(ends[1], bytes.data(), bytes.size(), MSG_NOSIGNAL);
  ::close(ends[1]);
  FrameReader reader;
  size_t taken = 0;
  int calls = 0;
  const auto handler = [&](FrameType, std::vector<std::byte>& payload) {
    if (++calls % 3 == 0) return false;  // no room now
    taken += kFrameHeader + payload.size();
    return true;
  };
  int rounds = 0;
  while (reader.read(ends[0], handler) == FrameReader::State::kOk)
    fuzz::demand(++rounds < 100000, "a closed connection is never reported");
  fuzz::demand(taken <= bytes.size(), "more payload than was sent");
  ::close(ends[0]);
}
}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  static const bool checked = (check_own(), true);
  (void)checked;
  const std::string_view bytes = fuzz::text_of(data + 1, size - 1);
  fuzz::accepts([&] {
    if (data[0] == 'h') {
      read_hello(bytes);
    } else if (data[0] == 'a') {
      static const fuzz::Folder folder;
      if (const auto found = read_announcement(folder.write("run", bytes))) {
        fuzz::demand(found->port != 0, "an announcement without a port");
        const auto path = announcement_path(folder.path(), bytes.substr(0, 40));
        fuzz::demand(path.parent_path() == folder.path() / "rendezvous", "a run's file outside its folder");
        write_announcement(path, *found);
        const auto again = read_announcement(path);
        fuzz::demand(again && again->port == found->port && again->addresses == found->addresses,
                     "an announcement changes when read again");
        std::filesystem::remove(path);
      }
    } else {
      read_frames(bytes);
    }
  });
  return 0;
}
