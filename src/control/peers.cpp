// SPDX-License-Identifier: Apache-2.0
#include "control/peers.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <poll.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <mutex>
#include <thread>

#include "base/clock.h"
#include "base/error.h"
#include "cluster/port.h"
#include "control/wire.h"

namespace sluice {
namespace {

constexpr std::string_view kPeerMagic = "SLUICEPR";
constexpr uint32_t kPeerVersion = 1;
constexpr size_t kCall = 8 + 3 * 4 + 32;
constexpr double kConnectSeconds = 2;  // an address that does not answer is passed over
constexpr double kHandshakeSeconds = 5;
constexpr int kMostCallers = 64;  // handshakes under way at once

class Peers {
 public:
  Peers(ControlPlane& control, const RunIdentity& identity, const Launch& launch, double seconds)
      : control_(control),
        identity_(identity),
        launch_(launch),
        deadline_(monotonic_seconds() + seconds),
        seconds_(seconds),
        sockets_(static_cast<size_t>(control.size())) {}

  std::vector<Socket> run(std::vector<std::string> addresses) {
    const std::vector<Hello>& hellos = control_.hellos();
    const bool one_host = std::ranges::all_of(hellos, [&](const Hello& h) { return same_host(h, hellos[0]); });
    const Listener listener =
        listen_first(one_host ? "127.0.0.1" : "0.0.0.0",
                     rendezvous_ports(launch_.job_id, launch_.run_id, read_port_limits()), 128, "rendezvous");
    listener_ = Socket(listener.fd);
    prepare_stream(listener_.fd());
    if (!one_host) {
      std::erase_if(addresses, [](const std::string& address) { return address.starts_with("127."); });
      std::ranges::copy(own_addresses(), std::back_inserter(addresses));
    }
    std::string mine;
    put_u32(mine, listener.port);
    for (const std::string& address : addresses) put_string(mine, address);
    const std::vector<std::string> places = control_.all_gather("exchanging addresses", mine, seconds_);

    std::thread accepting([this] { accept_higher(); });
    std::string failure;
    for (int r = 0; r < control_.rank() && failure.empty(); ++r) failure = dial(r, places[static_cast<size_t>(r)]);
    if (!failure.empty()) given_up_ = true;
    accepting.join();
    if (failure.empty()) failure = not_come();
    const std::vector<std::string> failures = control_.all_gather("connecting the ranks", failure, 2 * seconds_ + 10);
    for (const std::string& text : failures)
      if (!text.empty()) throw Error(text);
    return std::move(sockets_);
  }

 private:
  static bool same_host(const Hello& a, const Hello& b) {
    return a.place.host == b.place.host && a.place.boot_id == b.place.boot_id;
  }
  const Hello& hello(int rank) const { return control_.hellos()[static_cast<size_t>(rank)]; }

  Digest proof(std::string_view side, int dialler, int listener, const Nonce& of_dialler, const Nonce& of_listener,
               std::string_view channel) const {
    std::string ranks;
    put_u32(ranks, static_cast<uint32_t>(dialler));
    put_u32(ranks, static_cast<uint32_t>(listener));
    return sign(identity_.secret,
                {"sluice peer", side, identity_.run, ranks, view(of_dialler), view(of_listener), channel});
  }

  // --- towards lower ranks ---

  // Tries the addresses in turn until the deadline. Returns what went wrong, or nothing.
  std::string dial(int rank, std::string_view place) {
    ByteReader reader(place);
    const auto port = static_cast<uint16_t>(reader.u32());
    std::vector<Address> addresses;
    if (same_host(hello(rank), hello(control_.rank()))) addresses = resolve("127.0.0.1", port);
    while (reader.ok() && !reader.rest().empty())
      for (Address& address : resolve(std::string(reader.string()), port)) addresses.push_back(std::move(address));
    std::vector<std::string> tried;
    while (true) {
      tried.clear();
      for (const Address& address : addresses) {
        std::string why;
        if (Socket socket = call(rank, address, why)) {
          sockets_[static_cast<size_t>(rank)] = std::move(socket);
          return {};
        }
        tried.push_back(fmt::format("{} ({})", address.text, why));
      }
      if (monotonic_seconds() >= deadline_) break;
      std::this_thread::sleep_for(std::chrono::milliseconds(100));
    }
    return fmt::format(
        "{} does not reach {} at {}; without MPI the ranks send to each other over TCP: let the nodes reach each "
        "other's ports from 20000 on, or start the ranks with srun --mpi=pmix or mpirun",
        to_string(hello(control_.rank())), to_string(hello(rank)), fmt::join(tried, ", "));
  }

  Socket call(int rank, const Address& address, std::string& why) {
    int error = 0;
    Socket socket = connect_to(address, std::min(deadline_, monotonic_seconds() + kConnectSeconds), error);
    if (!socket) {
      why = std::strerror(error);
      return socket;
    }
    const double deadline = std::min(deadline_, monotonic_seconds() + kHandshakeSeconds);
    const Nonce mine = random_nonce();
    std::string text(kPeerMagic);
    put_u32(text, kPeerVersion);
    put_u32(text, static_cast<uint32_t>(control_.rank()));
    put_u32(text, static_cast<uint32_t>(rank));
    text += view(mine);
    Nonce theirs;
    Digest shown;
    why = "another service listens there, or it was closed";
    if (!write_all(socket.fd(), text, deadline) || !read_exactly(socket.fd(), theirs.data(), theirs.size(), deadline) ||
        !read_exactly(socket.fd(), shown.data(), shown.size(), deadline))
      return {};
    const std::string channel = peer_name(socket.fd());
    if (!same(shown, proof("listener", control_.rank(), rank, mine, theirs, channel))) {
      why = "it does not prove to be this run's";
      return {};
    }
    const Digest own = proof("dialler", control_.rank(), rank, mine, theirs, channel);
    return write_all(socket.fd(), view(own), deadline) ? std::move(socket) : Socket();
  }

  // --- from higher ranks ---

  int missing() {
    const std::lock_guard lock(mutex_);
    int n = 0;
    for (size_t r = static_cast<size_t>(control_.rank()) + 1; r < sockets_.size(); ++r) n += !sockets_[r];
    return n;
  }

  void accept_higher() {
    std::vector<std::thread> callers;
    while (missing() > 0 && !given_up_ && !control_.lost() && monotonic_seconds() < deadline_) {
      pollfd entry{listener_.fd(), POLLIN, 0};
      if (callers_ >= kMostCallers || ::poll(&entry, 1, 50) <= 0) {
        if (callers_ >= kMostCallers) std::this_thread::sleep_for(std::chrono::milliseconds(10));
        continue;
      }
      Socket socket(::accept4(listener_.fd(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
      if (!socket) continue;
      ++callers_;
      callers.emplace_back([this, socket = std::move(socket)]() mutable {
        answer(std::move(socket));
        --callers_;
      });
    }
    for (std::thread& caller : callers) caller.join();
  }

  void answer(Socket socket) {
    prepare_stream(socket.fd());
    const double deadline = std::min(deadline_, monotonic_seconds() + kHandshakeSeconds);
    char text[kCall];
    if (!read_exactly(socket.fd(), text, kCall, deadline)) return;
    ByteReader reader({text, kCall});
    if (reader.take(kPeerMagic.size()) != kPeerMagic || reader.u32() != kPeerVersion) return;
    const auto from = static_cast<int>(reader.u32()), to = static_cast<int>(reader.u32());
    if (to != control_.rank() || from <= control_.rank() || from >= control_.size()) return;
    Nonce theirs;
    std::memcpy(theirs.data(), reader.rest().data(), theirs.size());
    const Nonce mine = random_nonce();
    const std::string channel = own_name(socket.fd());
    const Digest own = proof("listener", from, to, theirs, mine, channel);
    Digest shown;
    if (!write_all(socket.fd(), std::string(view(mine)) + std::string(view(own)), deadline) ||
        !read_exactly(socket.fd(), shown.data(), shown.size(), deadline) ||
        !same(shown, proof("dialler", from, to, theirs, mine, channel)))
      return;
    const std::lock_guard lock(mutex_);
    sockets_[static_cast<size_t>(from)] = std::move(socket);
  }

  std::string not_come() {
    std::vector<std::string> names;
    for (int r = control_.rank() + 1; r < control_.size(); ++r)
      if (!sockets_[static_cast<size_t>(r)]) names.push_back(to_string(hello(r)));
    return names.empty() ? ""
                         : fmt::format("{} was not called by {} within {:g} s", to_string(hello(control_.rank())),
                                       fmt::join(names, ", "), seconds_);
  }

  ControlPlane& control_;
  const RunIdentity& identity_;
  const Launch& launch_;
  const double deadline_, seconds_;
  Socket listener_;
  std::mutex mutex_;             // sockets_, while others call
  std::vector<Socket> sockets_;  // by rank
  std::atomic<int> callers_{0};
  std::atomic<bool> given_up_{false};
};

}  // namespace

std::vector<Socket> connect_peers(ControlPlane& control, const RunIdentity& identity, const Launch& launch,
                                  std::vector<std::string> addresses, double seconds) {
  return Peers(control, identity, launch, seconds).run(std::move(addresses));
}

}  // namespace sluice
