// SPDX-License-Identifier: Apache-2.0
// Rank 0's side of the formation: one poll loop over the listener and every connection. What strangers send is bounded
// in size, number and time, and changes nothing but a note in the final error.
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <poll.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <deque>

#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include "cluster/port.h"
#include "cluster/signals.h"
#include "control/announcement.h"
#include "control/formation.h"
#include "control/wire.h"

namespace sluice {
namespace {

using namespace handshake;

constexpr size_t kMaxStrangers = 256;  // unproven connections held at once; the oldest makes room
constexpr double kReturnSeconds = 5;   // a rank that was there and went must be back by then

struct Stranger {
  Socket socket;
  Nonce nonce;
  double deadline;
  std::string input;
};

// Text from a stranger, fit for a message.
std::string printable(std::string_view text) {
  std::string out;
  for (const char c : text.substr(0, 64)) out += c > ' ' && c < 127 ? c : '?';
  return out;
}

bool is_host(std::string_view reported, std::string_view listed) {
  return reported == listed || (reported.starts_with(listed) && reported.substr(listed.size()).starts_with("."));
}

class Gathering {
 public:
  Gathering(const ControlOptions& options, const Launch& launch, const Hello& mine, const RunIdentity& identity)
      : options_(options), launch_(launch), identity_(identity), world_(static_cast<size_t>(mine.world)) {
    formed_.hellos.resize(world_);
    formed_.sockets.resize(world_);
    formed_.hellos[0] = mine;
    gone_.resize(world_, 0);
  }

  Formed run() {
    set_start_stage("waiting for " + missing());
    listen();
    const double deadline = monotonic_seconds() + options_.formation_seconds;
    try {
      while (here_ < world_) {
        const size_t before = here_;
        wait(deadline);
        if (here_ != before) set_start_stage("waiting for " + missing());
        const double now = monotonic_seconds();
        for (size_t r = 1; r < world_; ++r)
          if (gone_[r] > 0 && now > gone_[r])
            throw Error(fmt::format("{} was lost while the ranks were gathering; its own output says why",
                                    to_string(formed_.hellos[r])));
        if (here_ < world_ && now >= deadline) throw Error(too_late());
      }
      send_table(deadline);
    } catch (const Error& error) {
      tell_all(FrameType::kAbort, error.what());
      std::error_code ignored;
      std::filesystem::remove(announced_, ignored);
      throw;
    }
    std::error_code ignored;
    std::filesystem::remove(announced_, ignored);
    return std::move(formed_);
  }

 private:
  void listen() {
    Announcement announcement;
    const bool one_host = options_.rendezvous.empty() &&
                          (launch_.hosts.size() == 1 || (launch_.hosts.empty() && launch_.local_size == launch_.world));
    const std::string address = one_host ? "127.0.0.1" : "0.0.0.0";
    Listener listener;
    const int backlog = static_cast<int>(world_) + 64;
    if (!options_.rendezvous.empty()) {
      const auto where = parse_host_port(options_.rendezvous);
      listener = listen_first(address, {where->second}, backlog, "--rendezvous");
    } else {
      listener = listen_first(address, rendezvous_ports(launch_.job_id, launch_.run_id, read_port_limits()), backlog,
                              "rendezvous");
    }
    listener_ = Socket(listener.fd);
    prepare_stream(listener_.fd());
    announcement.host = formed_.hellos[0].place.host;
    announcement.boot_id = formed_.hellos[0].place.boot_id;
    announcement.port = listener.port;
    if (!one_host) announcement.addresses = own_addresses();
    announced_ = announcement_path(options_.home, identity_.run);
    write_announcement(announced_, announcement);
    log_debug(fmt::format("rendezvous on {}:{}, announced in {}", address, listener.port, announced_.string()));
  }

  void wait(double deadline) {
    std::vector<pollfd> entries{{listener_.fd(), POLLIN, 0}};
    double until = deadline;
    for (const Stranger& stranger : strangers_) {
      entries.push_back({stranger.socket.fd(), POLLIN, 0});
      until = std::min(until, stranger.deadline);
    }
    const size_t first_rank = entries.size();
    for (size_t r = 1; r < world_; ++r) {
      entries.push_back({formed_.sockets[r].fd(), POLLIN, 0});  // -1 is skipped by poll
      if (gone_[r] > 0) until = std::min(until, gone_[r]);
    }
    const double left = std::max(0.0, until - monotonic_seconds());
    if (::poll(entries.data(), entries.size(), static_cast<int>(std::min(left, 1e6) * 1000) + 1) < 0) return;

    for (size_t r = 1; r < world_; ++r)
      if (entries[first_rank + r - 1].revents != 0) check_present(r);
    const double now = monotonic_seconds();
    for (size_t i = 0; i < strangers_.size(); ++i)
      if ((entries[1 + i].revents != 0 && !listen_to(strangers_[i])) || now > strangers_[i].deadline)
        strangers_[i].socket.close();
    std::erase_if(strangers_, [](const Stranger& s) { return !s.socket; });
    if (entries[0].revents != 0) accept_all();
  }

  // A rank that has joined sends nothing before the table: readable means gone.
  void check_present(size_t r) {
    char byte;
    const ssize_t n = ::recv(formed_.sockets[r].fd(), &byte, 1, MSG_DONTWAIT);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
    formed_.sockets[r].close();
    gone_[r] = monotonic_seconds() + kReturnSeconds;
    --here_;
  }

  void accept_all() {
    for (;;) {
      Socket socket(::accept4(listener_.fd(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
      if (!socket) return;
      prepare_stream(socket.fd());
      Stranger stranger{std::move(socket), random_nonce(), monotonic_seconds() + kPatience, {}};
      std::string challenge(kMagic);
      put_u32(challenge, kVersion);
      challenge += view(stranger.nonce);
      challenge += view(user_proof(identity_, stranger.nonce));
      challenge += view(run_proof(identity_, stranger.nonce));
      // A fresh connection takes this much at once.
      if (::send(stranger.socket.fd(), challenge.data(), challenge.size(), MSG_DONTWAIT | MSG_NOSIGNAL) !=
          static_cast<ssize_t>(challenge.size()))
        continue;
      if (strangers_.size() == kMaxStrangers) strangers_.pop_front();
      strangers_.push_back(std::move(stranger));
    }
  }

  // Reads what is there. False when the connection is to be dropped.
  bool listen_to(Stranger& stranger) {
    char buffer[4096];
    const ssize_t n = ::recv(stranger.socket.fd(), buffer, sizeof buffer, MSG_DONTWAIT);
    if (n < 0) return errno == EAGAIN || errno == EINTR;
    if (n == 0) return false;
    stranger.input.append(buffer, static_cast<size_t>(n));
    const std::string_view input = stranger.input;
    const size_t seen = std::min(input.size(), kMagic.size());
    if (input.substr(0, seen) != kMagic.substr(0, seen)) return false;
    if (input.size() < kPrefix) return true;
    if (get_u32(input.data() + kMagic.size()) != kVersion) {
      note(fmt::format("{} speaks version {} of the handshake, this build speaks {}: two builds are mixed",
                       peer_name(stranger.socket.fd()), get_u32(input.data() + kMagic.size()), kVersion));
      return false;
    }
    if (input.size() < kHelloHead) return true;
    ByteReader reader(input.substr(kPrefix));
    const uint32_t kind = reader.u32();
    Nonce answer;
    Digest proof;
    std::memcpy(answer.data(), reader.take(answer.size()).data(), answer.size());
    std::memcpy(proof.data(), reader.take(proof.size()).data(), proof.size());
    const uint32_t length = reader.u32();
    if (length > kMaxHello || reader.rest().size() > length) return false;
    if (reader.rest().size() < length) return true;
    const std::string_view body = reader.rest();
    if (kind == kOtherSecret) {
      note(fmt::format(
          "{} ({}) turned away: its user secret is another one; let all ranks see one SLUICE_HOME (here {})",
          printable(body), peer_name(stranger.socket.fd()), options_.home.string()));
      return false;
    }
    if (kind != kJoin) return false;
    const std::string channel = options_.rendezvous.empty() ? own_name(stranger.socket.fd()) : "";
    if (!same(proof, hello_proof(identity_, stranger.nonce, answer, channel, body))) {
      note(fmt::format("{} sent a hello that is not signed by this run, or was relayed",
                       peer_name(stranger.socket.fd())));
      return false;
    }
    Hello hello;
    if (!parse(body, hello)) return false;
    admit(stranger, answer, hello);
    return false;  // the socket has moved, or an Error is under way
  }

  // `hello` is proven to come from this user's rank of this run.
  void admit(Stranger& stranger, const Nonce& answer, const Hello& hello) {
    const std::string refusal = objection(hello);
    const Digest proof = verdict_proof(identity_, stranger.nonce, answer, refusal.empty(), refusal);
    std::string verdict;
    put_u32(verdict, refusal.empty() ? 1 : 0);
    verdict += view(proof);
    put_string(verdict, refusal);
    const bool sent = write_all(stranger.socket.fd(), verdict, monotonic_seconds() + 1);
    if (!refusal.empty()) throw Error(refusal);
    if (!sent) return;
    const auto r = static_cast<size_t>(hello.place.rank);
    if (!formed_.sockets[r]) ++here_;
    formed_.sockets[r] = std::move(stranger.socket);
    formed_.hellos[r] = hello;
    gone_[r] = 0;
  }

  std::string objection(const Hello& hello) const {
    const Hello& leader = formed_.hellos[0];
    const std::string who = to_string(hello);
    if (hello.build != leader.build) {
      return fmt::format("two builds are mixed: {} runs build {}, {} runs {}; start one executable on all hosts", who,
                         printable(hello.build), to_string(leader), leader.build);
    }
    if (hello.world != leader.world) {
      return fmt::format(
          "{} was started in a world of {} ranks, {} in a world of {}; start all ranks with one srun or "
          "one mpirun",
          who, hello.world, to_string(leader), leader.world);
    }
    if (hello.place.rank < 0 || hello.place.rank >= hello.world)
      return fmt::format("{} does not exist in a world of {} ranks", who, hello.world);
    const Hello& other = formed_.hellos[static_cast<size_t>(hello.place.rank)];
    const bool same_process =
        other.pid == hello.pid && other.place.host == hello.place.host && other.place.boot_id == hello.place.boot_id;
    const bool taken = hello.place.rank == 0 || formed_.sockets[static_cast<size_t>(hello.place.rank)];
    if (taken && !same_process) {
      return fmt::format("two processes claim rank {}: {} and {}; start all ranks with one srun or one mpirun",
                         hello.place.rank, to_string(other), who);
    }
    return {};
  }

  void note(std::string text) {
    if (notes_.size() < 4 && std::find(notes_.begin(), notes_.end(), text) == notes_.end())
      notes_.push_back(std::move(text));
  }

  // Which ranks have not come, and where they should be. Placement is counted, never computed from the node list.
  std::string missing() const {
    std::vector<size_t> ranks;
    for (size_t r = 1; r < world_; ++r)
      if (!formed_.sockets[r]) ranks.push_back(r);
    std::string text = fmt::format("{} {}", ranks.size() == 1 ? "rank" : "ranks", fmt::join(ranks, ", "));
    std::vector<std::string> hosts;
    for (size_t h = 0; h < launch_.hosts.size(); ++h) {
      int came = 0;
      for (size_t r = 0; r < world_; ++r)
        came += (r == 0 || formed_.sockets[r]) && is_host(formed_.hellos[r].place.host, launch_.hosts[h]) ? 1 : 0;
      const bool counted = h < launch_.tasks_per_host.size();
      if (counted && came < launch_.tasks_per_host[h])
        hosts.push_back(fmt::format("{} ({} of {} came)", launch_.hosts[h], came, launch_.tasks_per_host[h]));
      if (!counted && came == 0) hosts.push_back(fmt::format("{} (none came)", launch_.hosts[h]));
    }
    if (!hosts.empty()) text += fmt::format(", expected on {}", fmt::join(hosts, ", "));
    if (hosts.empty() && launch_.hosts.empty())
      text += fmt::format(", expected on {} or where the launcher put them", formed_.hellos[0].place.host);
    return text;
  }

  std::string too_late() const {
    std::string text = fmt::format("waited {:g} s for {} ranks, {} came; missing: {}", options_.formation_seconds,
                                   world_, here_, missing());
    for (const auto& n : notes_) text += "; " + n;
    return text +
           "; see the output of the missing ranks, and whether their hosts reach this one (--rendezvous HOST:PORT)";
  }

  void send_table(double deadline) {
    std::string table;
    put_u32(table, static_cast<uint32_t>(world_));
    for (const Hello& hello : formed_.hellos) {
      std::string bytes;
      serialise(hello, bytes);
      put_string(table, bytes);
    }
    for (size_t r = 1; r < world_; ++r)
      if (!send_frame(formed_.sockets[r], FrameType::kTable, table, std::max(deadline, monotonic_seconds() + 5)))
        throw Error(fmt::format("{} was lost while the ranks were gathering", to_string(formed_.hellos[r])));
  }

  static bool send_frame(const Socket& socket, FrameType type, std::string_view payload, double deadline) {
    char header[kFrameHeader];
    frame_header(header, type, static_cast<uint32_t>(payload.size()));
    return write_all(socket.fd(), {header, sizeof header}, deadline) && write_all(socket.fd(), payload, deadline);
  }

  void tell_all(FrameType type, std::string_view text) {
    for (const Socket& socket : formed_.sockets)
      if (socket) send_frame(socket, type, text.substr(0, kMaxReason), monotonic_seconds() + 1);
  }

  const ControlOptions& options_;
  const Launch& launch_;
  const RunIdentity& identity_;
  const size_t world_;
  size_t here_ = 1;  // rank 0 and every rank with a socket
  Formed formed_;
  std::vector<double> gone_;  // by rank: when to give up on a rank that went; 0 otherwise
  Socket listener_;
  std::deque<Stranger> strangers_;
  std::filesystem::path announced_;
  std::vector<std::string> notes_;
};

}  // namespace

Formed gather_ranks(const ControlOptions& options, const Launch& launch, const Hello& mine,
                    const RunIdentity& identity) {
  return Gathering(options, launch, mine, identity).run();
}

}  // namespace sluice
