// SPDX-License-Identifier: Apache-2.0
#include "comm/collective_checks.h"

#include <fmt/format.h>

#include <cmath>
#include <cstring>
#include <vector>

namespace sluice {
namespace {

// Magnitudes over twelve decades and both signs: any other order of summation gives other bits.
float value(int rank, int64_t i) {
  uint64_t x = (static_cast<uint64_t>(rank) << 40) + static_cast<uint64_t>(i) + 0x9e3779b97f4a7c15ull;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
  x ^= x >> 31;
  const float mantissa = static_cast<float>(x & 0xffffff) / 16777216.0f - 0.5f;
  return std::ldexp(mantissa, static_cast<int>((x >> 24) % 40) - 20);
}

std::vector<float> values(int rank, int64_t n) {
  std::vector<float> out(static_cast<size_t>(n));
  for (int64_t i = 0; i < n; ++i) out[static_cast<size_t>(i)] = value(rank, i);
  return out;
}

Tensor view(std::vector<float>& data) { return {data.data(), DType::kF32, {static_cast<int64_t>(data.size())}}; }

std::string compare(const std::string& what, const std::vector<float>& found, const std::vector<float>& expected) {
  for (size_t i = 0; i < expected.size(); ++i)
    if (std::memcmp(&found[i], &expected[i], sizeof(float)) != 0)
      return fmt::format("{}: element {} of {}: expected {:a}, found {:a}", what, i, expected.size(), expected[i],
                         found[i]);
  return {};
}

std::vector<float> rank_order_sum(int ranks, int64_t n) {
  std::vector<float> sum = values(0, n);
  for (int r = 1; r < ranks; ++r)
    for (int64_t i = 0; i < n; ++i) sum[static_cast<size_t>(i)] += value(r, i);
  return sum;
}

}  // namespace

std::string check_all_reduce(Communicator& comm, int64_t n) {
  auto data = values(comm.rank(), n);
  comm.all_reduce(view(data));
  return compare(fmt::format("all_reduce of {}", n), data, rank_order_sum(comm.size(), n));
}

std::string check_sum_ignores_length(Communicator& comm, int64_t n, int64_t piece) {
  auto whole = values(comm.rank(), n), pieces = whole;
  comm.all_reduce(view(whole));
  for (int64_t begin = 0; begin < n; begin += piece)
    comm.all_reduce(view(pieces).rows(begin, std::min(piece, n - begin)));
  return compare(fmt::format("all_reduce of {} in pieces of {}", n, piece), pieces, whole);
}

std::string check_all_gather(Communicator& comm, int64_t n, bool in_place) {
  std::vector<float> expected, out(static_cast<size_t>(n * comm.size()), -1.0f);
  for (int r = 0; r < comm.size(); ++r) {
    const auto part = values(r, n);
    expected.insert(expected.end(), part.begin(), part.end());
  }
  auto in = values(comm.rank(), n);
  if (in_place) {
    const Tensor mine = view(out).rows(comm.rank() * n, n);
    if (n > 0) std::memcpy(mine.data, in.data(), mine.bytes());
    comm.all_gather(view(out), mine);
  } else {
    comm.all_gather(view(out), view(in));
  }
  return compare(fmt::format("all_gather of {}{}", n, in_place ? " in place" : ""), out, expected);
}

std::string check_broadcast(Communicator& comm, int64_t n, int root) {
  auto data = values(comm.rank(), n);
  comm.broadcast(view(data), root);
  return compare(fmt::format("broadcast of {} from {}", n, root), data, values(root, n));
}

std::string check_ring(Communicator& comm, int64_t n, int messages) {
  const int next = (comm.rank() + 1) % comm.size(), previous = (comm.rank() + comm.size() - 1) % comm.size();
  std::vector<float> out(static_cast<size_t>(n));
  for (int m = 0; m < messages; ++m) {
    out = values(comm.rank() * 1000 + m, n);
    comm.send(view(out), next);  // the same storage again: send() must have copied it
  }
  for (int m = 0; m < messages; ++m) {
    std::vector<float> in(static_cast<size_t>(n));
    comm.recv(view(in), previous);
    if (auto wrong = compare(fmt::format("message {} of {}", m, n), in, values(previous * 1000 + m, n)); !wrong.empty())
      return wrong;
  }
  return {};
}

std::string check_everything(Communicator& comm) {
  std::string wrong;
  const auto keep = [&](std::string message) {
    if (wrong.empty()) wrong = std::move(message);
  };
  // Around every change of method: empty, fewer elements than ranks, one packet, eager and rendezvous, large.
  for (int64_t n : {0, 1, 2, 3, 5, 17, 255, 256, 1023, 1024, 1025, 4096, 4099, 16384, 65537}) {
    keep(check_all_reduce(comm, n));
    keep(check_all_gather(comm, n, false));
    keep(check_all_gather(comm, n, true));
    for (int root = 0; root < comm.size(); ++root) keep(check_broadcast(comm, n, root));
  }
  keep(check_all_reduce(comm, 1000003));
  keep(check_sum_ignores_length(comm, 1501, 1));
  keep(check_sum_ignores_length(comm, 300007, 4099));
  if (comm.size() > 1) {
    for (int64_t n : {0, 1, 1000, 20000, 2000003}) keep(check_ring(comm, n, 3));
    keep(check_ring(comm, 100000, 20));
  }
  return wrong;
}

}  // namespace sluice
