// SPDX-License-Identifier: Apache-2.0
#include "weights/safetensors.h"

#include <doctest/doctest.h>

#include "base/error.h"
#include "weights/safetensors_file.h"

namespace sluice {
namespace {
using test::as_bytes;
using test::file_bytes;

SafetensorsHeader parse(const std::string& bytes) {
  return parse_safetensors(as_bytes(bytes), bytes.size(), "w.safetensors");
}

// The message with which the bytes are refused; empty when they are accepted.
std::string refusal(const std::string& bytes) {
  try {
    parse(bytes);
  } catch (const Error& error) {
    return error.what();
  }
  return {};
}

bool says(const std::string& message, const std::string& part) {
  const bool found = message.find(part) != std::string::npos && message.find("w.safetensors") != std::string::npos;
  if (!found) MESSAGE(message);
  return found;
}

std::string tensor(const std::string& name, const std::string& dtype, const std::string& shape,
                   const std::string& offsets) {
  return "\"" + name + R"(":{"dtype":")" + dtype + R"(","shape":[)" + shape + R"(],"data_offsets":[)" + offsets + "]}";
}
}  // namespace

TEST_CASE("A header gives names, types, shapes and places in file order") {
  const auto header =
      parse(file_bytes("{" + tensor("b", "BF16", "2,3", "4,16") + R"(,"__metadata__":{"format":"pt"},)" +
                           tensor("a", "F32", "", "0,4") + "," + tensor("empty", "I64", "0,7", "16,16") + "}   ",
                       16));
  REQUIRE(header.tensors.size() == 3);
  CHECK(header.tensors[0].name == "a");
  CHECK(header.tensors[0].shape.empty());
  CHECK(header.tensors[0].begin == header.data_begin);
  CHECK(header.tensors[1].name == "b");
  CHECK(header.tensors[1].dtype == "BF16");
  CHECK(header.tensors[1].shape == std::vector<int64_t>{2, 3});
  CHECK(header.tensors[1].end - header.tensors[1].begin == 12);
  CHECK(header.tensors[2].name == "empty");
}

TEST_CASE("Sub-byte types are sized in bits") {
  CHECK(parse(file_bytes("{" + tensor("x", "F4", "4", "0,2") + "}", 2)).tensors.size() == 1);
  CHECK(says(refusal(file_bytes("{" + tensor("x", "F4", "3", "0,2") + "}", 2)), "whole bytes (12 bits)"));
}

TEST_CASE("A length beyond the file or the limit is refused") {
  std::string bytes = file_bytes("{}", 0);
  bytes[0] = 100;
  CHECK(says(refusal(bytes), "claims 100 bytes, but only 2 follow"));
  bytes[7] = '\x7f';
  CHECK(says(refusal(bytes), "the limit is 100000000"));
  CHECK(says(refusal("abc"), "it has 3 bytes, expected at least 8"));
  CHECK(says(refusal(""), "it has 0 bytes"));
  CHECK(says(refusal(std::string(8, '\0')), "does not start with {"));
}

TEST_CASE("A Git LFS pointer is named as what it is") {
  CHECK(says(refusal("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"), "Git LFS pointer"));
}

TEST_CASE("Overlaps, gaps and wrong ends are refused") {
  const std::string a = tensor("a", "F32", "2", "0,8");
  CHECK(says(refusal(file_bytes("{" + a + "," + tensor("b", "F32", "2", "4,12") + "}", 12)),
             "starts at 4, expected 8: tensors overlap"));
  CHECK(says(refusal(file_bytes("{" + a + "," + tensor("b", "F32", "2", "12,20") + "}", 20)),
             "starts at 12, expected 8: tensors leave a gap"));
  CHECK(says(refusal(file_bytes("{" + tensor("a", "F32", "1", "4,8") + "}", 8)), "leave a gap"));
  CHECK(says(refusal(file_bytes("{" + a + "}", 12)), "the file at byte"));
  CHECK(says(refusal(file_bytes("{" + a + "}", 4)), "the file at byte"));
  CHECK(says(refusal(file_bytes("{" + tensor("a", "F32", "2", "8,0") + "}", 8)), "data_offsets are [8, 0]"));
  CHECK(says(refusal(file_bytes("{" + tensor("a", "F32", "3", "0,8") + "}", 8)), "needs 12 bytes"));
}

TEST_CASE("Sizes that overflow are refused") {
  CHECK(says(refusal(file_bytes("{" + tensor("a", "F32", "4294967296,4294967296,4294967296", "0,0") + "}", 0)),
             "overflows 64 bits"));
  CHECK(says(refusal(file_bytes("{" + tensor("a", "F32", "18446744073709551615", "0,8") + "}", 8)),
             "dimension of 18446744073709551615"));
  CHECK(says(refusal(file_bytes("{" + tensor("a", "F32", "99999999999999999999999", "0,8") + "}", 8)), "the number"));
}

TEST_CASE("Duplicate names and fields are refused") {
  const std::string a = tensor("a", "F32", "1", "0,4");
  CHECK(says(refusal(file_bytes("{" + a + "," + a + "}", 4)), "the name a occurs twice"));
  CHECK(says(refusal(file_bytes(R"({"a":{"dtype":"F32","dtype":"F32","shape":[1],"data_offsets":[0,4]}})", 4)),
             "field dtype twice"));
  CHECK(says(refusal(file_bytes(R"({"__metadata__":{"k":"1","k":"2"}})", 0)), "metadata key k occurs twice"));
}

TEST_CASE("Types, fields and forms that are not the format's are refused by name") {
  CHECK(says(refusal(file_bytes("{" + tensor("a", "F31", "1", "0,4") + "}", 4)), "unknown dtype F31; known are BOOL"));
  CHECK(says(refusal(file_bytes(R"({"a":{"dtype":"F32","shape":[1]}})", 4)), "tensor a has no data_offsets"));
  CHECK(says(refusal(file_bytes(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4],"scale":1}})", 4)),
             "unknown field scale"));
  CHECK(says(refusal(file_bytes(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,2,4]}})", 4)),
             "has 3 numbers, expected 2"));
  CHECK(says(refusal(file_bytes(R"({"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}})", 4)), "the number -1"));
  CHECK(says(refusal(file_bytes(R"({"a":{"dtype":"F32","shape":[1.5],"data_offsets":[0,4]}})", 4)), "the number 1.5"));
  CHECK(says(refusal(file_bytes(R"({"a":{"dtype":"F32","shape":[[1]],"data_offsets":[0,4]}})", 4)), "a list"));
  CHECK(says(refusal(file_bytes(R"({"a":{"dtype":4,"shape":[1],"data_offsets":[0,4]}})", 4)), "the number 4"));
  CHECK(says(refusal(file_bytes(R"({"a":[1]})", 0)), "a list"));
  CHECK(says(refusal(file_bytes(R"({"a":null})", 0)), "null"));
  CHECK(says(refusal(file_bytes(R"({"a":{"dtype":{}}})", 0)), "an object"));
  CHECK(says(refusal(file_bytes(R"({"__metadata__":{"k":1}})", 0)), "the number 1"));
  CHECK(says(refusal(file_bytes("{", 0)), "not JSON"));
  CHECK(says(refusal(file_bytes("{} x", 0)), "not JSON"));
  CHECK(says(refusal(file_bytes("[1]", 0)), "does not start with {"));
  CHECK(says(refusal(file_bytes("{\"\xff\xfe\":1}", 0)), "not JSON"));
  CHECK(says(refusal(file_bytes(std::string(100000, '{'), 0)), "not JSON"));
}

TEST_CASE("Cutting a good file anywhere gives an error and never a crash") {
  const std::string good = file_bytes("{" + tensor("a", "F32", "2", "0,8") + "}", 8);
  REQUIRE(refusal(good).empty());
  for (size_t n = 0; n < good.size(); ++n) CHECK_FALSE(refusal(good.substr(0, n)).empty());
  for (size_t i = 8; i < good.size() - 8; ++i) {  // any header byte replaced: refused, or another valid header
    std::string bad = good;
    for (const char c : {'\0', '"', '}', '9'}) {
      bad[i] = c;
      refusal(bad);
    }
  }
}

}  // namespace sluice
