// SPDX-License-Identifier: Apache-2.0
// The members of a tar archive, where they lie in it. Names that lead out of a folder are refused, and so is everything
// but plain files and folders.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "weights/torch_file.h"

namespace sluice {

struct TarMember {
  std::string name;  // without "./" before it
  uint64_t offset = 0, bytes = 0;
};

// Plain files, in the archive's order. Throws Error where it is cut off, damaged or unsafe.
std::vector<TarMember> read_tar(const FileRange& range);

// A descriptor of the archive's tar stream: the file itself, or, where that is compressed by gzip, a nameless temporary
// file with what it unpacks to, made once per process. Throws Error.
File open_tar(const std::filesystem::path& path);

}  // namespace sluice
