// SPDX-License-Identifier: Apache-2.0
// Strangers on the rendezvous port: nothing they send may disturb, delay or end the formation.
#include <doctest/doctest.h>
#include <fmt/format.h>

#include <atomic>
#include <cstring>
#include <fstream>
#include <future>
#include <random>
#include <thread>

#include "base/clock.h"
#include "base/error.h"
#include "control/formation.h"
#include "control/ranks.h"
#include "control/wire.h"

using namespace sluice;

namespace {

Socket dial(uint16_t port) {
  int error = 0;
  const double deadline = monotonic_seconds() + 5;
  for (;;) {
    Socket socket = connect_to(resolve("127.0.0.1", port).front(), deadline, error);
    if (socket || monotonic_seconds() > deadline) return socket;
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
}

// A hello that is right in all but one place.
std::string almost_hello(std::mt19937& random) {
  std::string out(handshake::kMagic);
  put_u32(out, random() % 8 == 0 ? 2 : handshake::kVersion);
  put_u32(out, random() % 4);
  for (int i = 0; i < 64; ++i) out.push_back(static_cast<char>(random()));
  const uint32_t lengths[] = {0, 40, 200, handshake::kMaxHello, handshake::kMaxHello + 1, 0xffffffffu};
  const uint32_t length = lengths[random() % 6];
  put_u32(out, length);
  for (uint32_t i = 0; i < std::min(length, 400u); ++i) out.push_back(static_cast<char>(random()));
  return out.substr(0, random() % 3 == 0 ? random() % out.size() : out.size());
}

}  // namespace

TEST_CASE("a formation survives strangers of every kind") {
  TestRun run(3);
  run.formation_seconds = 60;
  std::atomic<bool> stop{false};
  auto leader = std::async(std::launch::async, [&] { return run.form(0); });
  auto first = std::async(std::launch::async, [&] { return run.form(1); });
  const auto port = static_cast<uint16_t>(run.first_port());
  std::vector<Socket> silent;
  for (int i = 0; i < 300; ++i) silent.push_back(dial(port));  // more than rank 0 keeps

  std::thread slow([&] {  // one byte at a time, for ever
    Socket socket = dial(port);
    std::string hello(handshake::kMagic);
    put_u32(hello, handshake::kVersion);
    hello.resize(4000, 'x');
    for (size_t i = 0; i < hello.size() && !stop; ++i) {
      if (!write_all(socket.fd(), hello.substr(i, 1), monotonic_seconds() + 1)) socket = dial(port);
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
  });
  std::thread noisy([&] {
    std::mt19937 random(11);
    for (int i = 0; i < 400 && !stop; ++i) {
      Socket socket = dial(port);
      std::string bytes(random() % 60000, '\0');
      for (auto& c : bytes) c = static_cast<char>(random());
      write_all(socket.fd(), i % 2 == 0 ? bytes : almost_hello(random), monotonic_seconds() + 0.2);
    }
  });
  noisy.join();
  auto last = std::async(std::launch::async, [&] { return run.form(2); });
  std::vector<std::unique_ptr<ControlPlane>> planes;
  planes.push_back(leader.get());
  planes.push_back(first.get());
  planes.push_back(last.get());
  stop = true;
  slow.join();
  std::vector<std::thread> threads;
  for (auto& plane : planes) {
    threads.emplace_back([&plane] {
      plane->barrier("after the noise", 10);
      plane->leave();
      CHECK_FALSE(plane->lost());
    });
  }
  for (auto& thread : threads) thread.join();
}

TEST_CASE("a recorded hello opens nothing a second time") {
  TestRun run(2);
  run.formation_seconds = 4;
  std::string error;
  std::thread leader([&] {
    try {
      run.form(0);
    } catch (const Error& e) {
      error = e.what();
    }
  });
  const auto port = static_cast<uint16_t>(run.first_port());
  // The right secret and run, but signed for another challenge.
  Socket socket = dial(port);
  char challenge[handshake::kChallenge];
  REQUIRE(read_exactly(socket.fd(), challenge, sizeof challenge, monotonic_seconds() + 5));
  std::string secret(64, '\0');
  {
    std::ifstream file(run.home / "secret");
    file.read(secret.data(), 64);
  }
  const RunIdentity identity{run.launch(0).run_id + ".0", secret};
  std::string body;
  serialise(run.hello(1), body);
  const auto hello = [&](const Nonce& nonce, const std::string& channel) {
    const Nonce answer = random_nonce();
    std::string out(handshake::kMagic);
    put_u32(out, handshake::kVersion);
    put_u32(out, handshake::kJoin);
    out += view(answer);
    out += view(handshake::hello_proof(identity, nonce, answer, channel, body));
    put_string(out, body);
    return out;
  };
  const auto accepted = [&](Socket& on, const std::string& bytes) {
    char verdict[handshake::kVerdictHead];
    return write_all(on.fd(), bytes, monotonic_seconds() + 1) &&
           read_exactly(on.fd(), verdict, sizeof verdict, monotonic_seconds() + 3) && get_u32(verdict) == 1;
  };
  CHECK_FALSE(accepted(socket, hello(random_nonce(), peer_name(socket.fd()))));
  // Relayed: rank 1 dialled another port than the one it reached.
  Socket relayed = dial(port);
  REQUIRE(read_exactly(relayed.fd(), challenge, sizeof challenge, monotonic_seconds() + 5));
  Nonce nonce;
  std::memcpy(nonce.data(), challenge + handshake::kPrefix, nonce.size());
  CHECK_FALSE(accepted(relayed, hello(nonce, "127.0.0.1:1")));
  leader.join();
  INFO(error);
  CHECK(error.find("is not signed by this run, or was relayed") != std::string::npos);
  // And the same bytes made for the right challenge and channel are accepted, so that the refusals above mean
  // something.
  std::thread again([&] { CHECK(run.form(0)->size() == 2); });
  Socket honest = dial(port);
  REQUIRE(read_exactly(honest.fd(), challenge, sizeof challenge, monotonic_seconds() + 5));
  std::memcpy(nonce.data(), challenge + handshake::kPrefix, nonce.size());
  CHECK(accepted(honest, hello(nonce, peer_name(honest.fd()))));
  again.join();
}
