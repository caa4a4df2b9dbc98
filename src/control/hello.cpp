// SPDX-License-Identifier: Apache-2.0
#include "control/hello.h"

#include <elf.h>
#include <fmt/format.h>
#include <link.h>
#include <openssl/evp.h>
#include <sched.h>
#include <unistd.h>

#include <fstream>

#include "base/error.h"
#include "base/file.h"
#include "control/wire.h"

namespace sluice {
namespace {

std::string to_hex(const unsigned char* bytes, size_t n) {
  std::string hex;
  for (size_t i = 0; i < n; ++i) hex += fmt::format("{:02x}", bytes[i]);
  return hex;
}

// The NT_GNU_BUILD_ID note of the first object that the loader lists, which is the executable.
int find_build_id(dl_phdr_info* info, size_t, void* out) {
  for (int i = 0; i < info->dlpi_phnum; ++i) {
    const auto& segment = info->dlpi_phdr[i];
    if (segment.p_type != PT_NOTE) continue;
    const auto* at = reinterpret_cast<const unsigned char*>(info->dlpi_addr + segment.p_vaddr);
    const auto* end = at + segment.p_memsz;
    const auto padded = [&](size_t n) { return (n + segment.p_align - 1) / segment.p_align * segment.p_align; };
    while (segment.p_align >= 4 && at + sizeof(ElfW(Nhdr)) <= end) {
      const auto* note = reinterpret_cast<const ElfW(Nhdr)*>(at);
      const auto* name = at + sizeof *note;
      const auto* content = at + padded(sizeof *note + note->n_namesz);
      if (note->n_type == NT_GNU_BUILD_ID && note->n_namesz == 4 &&
          std::string_view(reinterpret_cast<const char*>(name), 3) == "GNU" && content + note->n_descsz <= end) {
        *static_cast<std::string*>(out) = to_hex(content, note->n_descsz);
        return 1;
      }
      at = content + padded(note->n_descsz);
    }
  }
  return 1;  // stop after the executable
}

std::string hash_executable() {
  const std::string content = read_file("/proc/self/exe");
  unsigned char digest[EVP_MAX_MD_SIZE];
  unsigned length = 0;
  check(EVP_Digest(content.data(), content.size(), digest, &length, EVP_sha256(), nullptr) == 1, "SHA-256 failed");
  return to_hex(digest, length);
}

}  // namespace

const std::string& build_id() {
  static const std::string id = [] {
    std::string found;
    dl_iterate_phdr(find_build_id, &found);
    return found.empty() ? hash_executable() : found;
  }();
  return id;
}

Hello describe_process(const Launch& launch) {
  Hello hello;
  hello.place.rank = launch.rank;
  hello.place.local_rank = launch.local_rank;
  hello.world = launch.world;
  char name[256] = {};
  check(::gethostname(name, sizeof name - 1) == 0, "gethostname failed");
  hello.place.host = name;
  std::ifstream("/proc/sys/kernel/random/boot_id") >> hello.place.boot_id;  // stays empty where there is none
  hello.pid = ::getpid();
  cpu_set_t mask;
  CPU_ZERO(&mask);
  hello.cpus = ::sched_getaffinity(0, sizeof mask, &mask) == 0 ? CPU_COUNT(&mask)
                                                               : static_cast<int>(::sysconf(_SC_NPROCESSORS_ONLN));
  hello.build = build_id();
  return hello;
}

std::string to_string(const Hello& hello) {
  return fmt::format("rank {} on {} (pid {})", hello.place.rank, hello.place.host, hello.pid);
}

std::vector<RankPlace> places(std::span<const Hello> hellos) {
  std::vector<RankPlace> out;
  for (const Hello& hello : hellos) out.push_back(hello.place);
  return out;
}

void serialise(const Hello& hello, std::string& out) {
  put_u32(out, static_cast<uint32_t>(hello.place.rank));
  put_u32(out, static_cast<uint32_t>(hello.world));
  put_u32(out, static_cast<uint32_t>(hello.place.local_rank));
  put_u32(out, static_cast<uint32_t>(hello.place.visible_devices));
  put_u32(out, static_cast<uint32_t>(hello.cpus));
  put_u64(out, static_cast<uint64_t>(hello.pid));
  for (const auto* text : {&hello.place.host, &hello.place.boot_id, &hello.place.device_uuid, &hello.build})
    put_string(out, *text);
}

bool parse(std::string_view bytes, Hello& hello) {
  ByteReader reader(bytes);
  hello.place.rank = static_cast<int>(reader.u32());
  hello.world = static_cast<int>(reader.u32());
  hello.place.local_rank = static_cast<int>(reader.u32());
  hello.place.visible_devices = static_cast<int>(reader.u32());
  hello.cpus = static_cast<int>(reader.u32());
  hello.pid = static_cast<int64_t>(reader.u64());
  for (auto* text : {&hello.place.host, &hello.place.boot_id, &hello.place.device_uuid, &hello.build})
    *text = reader.string();
  return reader.ok() && reader.rest().empty();
}

}  // namespace sluice
