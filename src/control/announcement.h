// SPDX-License-Identifier: Apache-2.0
// Where rank 0 listens, as a file under $SLUICE_HOME that the other ranks watch. Replaced whole by rename, private to
// the user, removed once all ranks have come. A hint: the handshake proves who answers.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace sluice {

struct Announcement {
  std::string host, boot_id;
  uint16_t port = 0;
  std::vector<std::string> addresses;  // numeric, of every interface; empty when only loopback is listened on
};

// home/rendezvous/<run id>, with unusual characters replaced.
std::filesystem::path announcement_path(const std::filesystem::path& home, std::string_view run);

// Makes the folder. Throws Error.
void write_announcement(const std::filesystem::path& path, const Announcement& announcement);
// nullopt when there is none, or it cannot be read (a stale NFS handle), or is not one.
std::optional<Announcement> read_announcement(const std::filesystem::path& path);

}  // namespace sluice
