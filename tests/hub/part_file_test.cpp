// SPDX-License-Identifier: Apache-2.0
#include "hub/part_file.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <map>

#include "base/error.h"
#include "base/file.h"
#include "hub/digest.h"

using namespace sluice;
namespace fs = std::filesystem;

namespace {
struct Folder {
  fs::path path;
  Folder() {
    char name[] = "/tmp/sluice-part-XXXXXX";
    path = ::mkdtemp(name);
  }
  ~Folder() { fs::remove_all(path); }
};
}  // namespace

TEST_CASE("pieces arrive in any order, survive reopening, and become the file") {
  const Folder folder;
  const fs::path blob = folder.path / "blobs/x";
  {
    PartFile part(blob, 10, 4, 4);
    CHECK(part.pieces() == 3);
    CHECK(part.length(2) == 2);
    part.append(1, "efgh", 4);
    part.append(0, "ab", 2);
    CHECK(part.frontier() == 2);
    CHECK(part.done() == 6);
  }
  PartFile part(blob, 10, 4, 4);
  CHECK(part.done() == 6);
  part.append(0, "cd", 2);
  CHECK(part.frontier() == 8);
  part.append(2, "ij", 2);
  CHECK(part.complete());
  part.write_back(0, 10);
  part.sync();
  part.finish();
  CHECK(read_file(blob) == "abcdefghij");
  CHECK(std::distance(fs::directory_iterator(blob.parent_path()), {}) == 1);
}

TEST_CASE("a state of another size, or one that promises more than there is, starts afresh") {
  const Folder folder;
  const fs::path blob = folder.path / "x";
  { PartFile(blob, 10, 4, 4).append(0, "abcd", 4); }
  { CHECK(PartFile(blob, 12, 4, 4).done() == 0); }
  { PartFile(blob, 12, 4, 4).append(2, "abcd", 4); }
  fs::resize_file(blob.string() + ".part", 3);
  CHECK(PartFile(blob, 12, 4, 4).done() == 0);
  std::ofstream(blob.string() + ".part-state") << "garbage";
  CHECK(PartFile(blob, 12, 4, 4).done() == 0);
}

TEST_CASE("the first and the last pieces are shorter") {
  const Folder folder;
  const PartFile part(folder.path / "x", 323, 16, 4);
  std::map<uint64_t, int> count;
  for (int64_t i = 0; i < part.pieces(); ++i) ++count[part.length(i)];
  CHECK(count == std::map<uint64_t, int>{{3, 1}, {4, 22}, {8, 15}, {16, 7}});
  CHECK(part.length(0) == 4);
  CHECK(part.length(8) == 8);
  CHECK(part.length(16) == 16);
  CHECK(part.begin(part.pieces()) == 323);
}

TEST_CASE("writes take the length that costs less, and notice when that changes") {
  WriteLength length;
  std::map<size_t, int> count;
  const auto use = [&](double price_long, double price_short) {
    count.clear();
    for (int i = 0; i < 320; ++i) {
      const size_t bytes = length.next();
      ++count[bytes];
      length.cost(bytes == WriteLength::kBytes[0] ? price_long : price_short);
    }
  };
  use(1, 2);
  CHECK(count[WriteLength::kBytes[0]] >= 309);
  use(8, 2);
  CHECK(count[WriteLength::kBytes[1]] >= 300);
  use(1, 2);
  CHECK(count[WriteLength::kBytes[0]] >= 100);
}

TEST_CASE("a block is written whole by writes of any length") {
  const Folder folder;
  const size_t block = WriteLength::kBytes[0];
  std::string bytes(block * 5 + 17, '\0');
  for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<char>(i * 7 + i / 4096);
  PartFile part(folder.path / "x", bytes.size(), bytes.size(), bytes.size());
  for (size_t at = 0; at < bytes.size(); at += block) {
    part.append(0, bytes.data() + at, std::min(block, bytes.size() - at));
  }
  part.finish();
  CHECK(read_file(folder.path / "x") == bytes);
}

TEST_CASE("an empty file is complete from the start") {
  const Folder folder;
  PartFile part(folder.path / "x", 0, 4, 4);
  CHECK(part.complete());
  part.finish();
  CHECK(read_file(folder.path / "x").empty());
}

TEST_CASE("digests are the hub's: sha256, and git's sha1 of a blob") {
  const Folder folder;
  std::ofstream(folder.path / "x") << "hello\n";
  CHECK(file_digest(folder.path / "x", std::string(40, '0')) == "ce013625030ba8dba906f756967f9e9ca394464a");
  CHECK(file_digest(folder.path / "x", std::string(64, '0')) ==
        "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03");
  CHECK_THROWS_AS(Digest("xyz", 3), Error);
}
