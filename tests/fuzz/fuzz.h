// SPDX-License-Identifier: Apache-2.0
// What fuzz targets share. A target is one file with LLVMFuzzerTestOneInput, run by driver.cpp or by libFuzzer.
// It may let Error and RequestError out of the parser, each with a message; anything else is a finding.
#pragma once

#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <string_view>

#include "base/error.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace sluice::fuzz {

// A broken promise of the parser.
inline void demand(bool ok, const char* what) {
  if (ok) return;
  std::fprintf(stderr, "finding: %s\n", what);
  std::abort();
}

// True when `parse` accepted its input, false when it refused it in words.
template <class F>
bool accepts(F&& parse) {
  try {
    parse();
    return true;
  } catch (const Error& error) {
    demand(error.what()[0] != '\0', "an Error without a message");
  } catch (const RequestError& error) {
    demand(error.what()[0] != '\0', "a RequestError without a message");
  }
  return false;
}

inline std::string_view text_of(const uint8_t* data, size_t size) {
  return {reinterpret_cast<const char*>(data), size};
}

// Takes the part up to the first NUL byte from the front, and that byte.
inline std::string_view take_part(std::string_view& rest) {
  const size_t end = rest.find('\0');
  const std::string_view part = rest.substr(0, end);
  rest.remove_prefix(end == std::string_view::npos ? rest.size() : end + 1);
  return part;
}

// A folder for parsers that read files; lives as long as the process, removed when it ends in order.
class Folder {
 public:
  Folder() {
    const std::filesystem::path memory = "/dev/shm";
    std::string name =
        ((::access(memory.c_str(), W_OK) == 0 ? memory : std::filesystem::temp_directory_path()) / "sluice-fuzz-XXXXXX")
            .string();
    demand(::mkdtemp(name.data()) != nullptr, "no folder for files");
    path_ = name;
  }
  ~Folder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;
  const std::filesystem::path& path() const { return path_; }
  std::filesystem::path write(const char* name, std::string_view content) const {
    const std::filesystem::path path = path_ / name;
    std::FILE* file = std::fopen(path.c_str(), "wb");
    demand(file != nullptr && std::fwrite(content.data(), 1, content.size(), file) == content.size() &&
               std::fclose(file) == 0,
           "cannot write a file of the fuzz folder");
    return path;
  }

 private:
  std::filesystem::path path_;
};

}  // namespace sluice::fuzz
