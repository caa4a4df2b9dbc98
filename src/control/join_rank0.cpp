// SPDX-License-Identifier: Apache-2.0
// The other ranks' side of the formation: try every place where rank 0 may be until one proves to be it.
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <map>
#include <thread>

#include "base/clock.h"
#include "base/error.h"
#include "cluster/port.h"
#include "cluster/signals.h"
#include "control/announcement.h"
#include "control/formation.h"
#include "control/wire.h"

namespace sluice {
namespace {

using namespace handshake;

constexpr size_t kWalk = 8;            // ports of the walk tried without an announcement
constexpr double kConnectSeconds = 1;  // an address that does not answer is passed over
constexpr double kAvoidSeconds = 3;    // and not tried again for so long
constexpr double kExtraSeconds = 3;    // longer than rank 0 waits: its message is the better one

class Joining {
 public:
  Joining(const ControlOptions& options, const Launch& launch, const Hello& mine, const RunIdentity& identity)
      : options_(options), launch_(launch), mine_(mine), identity_(identity) {}

  Formed run() {
    deadline_ = monotonic_seconds() + options_.formation_seconds + kExtraSeconds;
    double pause = 0.02;
    set_start_stage("waiting for rank 0 at " + tried());
    while (monotonic_seconds() < deadline_) {
      for (const Address& address : candidates()) {
        double& avoid = avoid_until_[address.text];
        if (monotonic_seconds() < avoid) continue;
        if (Socket socket = try_to_join(address, avoid)) return wait_for_table(std::move(socket));
        if (monotonic_seconds() >= deadline_) break;
        if (!seen_announcement_ && read_announcement(announced_)) break;  // it knows better
      }
      std::this_thread::sleep_for(std::chrono::duration<double>(pause));
      pause = std::min(0.25, pause * 1.5);
    }
    throw Error(fmt::format(
        "{} found no rank 0 within {:g} s: tried {}; last: {}; if rank 0 runs, its host may be unreachable from here: "
        "set "
        "--rendezvous HOST:PORT to an address of it that is",
        to_string(mine_), options_.formation_seconds, tried(),
        !passed_.empty() ? passed_
        : last_.empty()  ? "no address to try"
                         : last_));
  }

 private:
  // Announced addresses first, then the port rule on the first host of the step.
  std::vector<Address> candidates() {
    std::vector<Address> out;
    const auto add = [&](const std::string& host, uint16_t port) {
      for (auto& address : resolve(host, port)) out.push_back(std::move(address));
    };
    if (!options_.rendezvous.empty()) {
      const auto where = parse_host_port(options_.rendezvous);
      add(where->first, where->second);
      if (out.empty()) last_ = fmt::format("the name {} does not resolve", where->first);
      return out;
    }
    if (const auto found = read_announcement(announced_)) {
      seen_announcement_ = true;
      const bool here = found->host == mine_.place.host && found->boot_id == mine_.place.boot_id;
      if (here) add("127.0.0.1", found->port);
      for (const auto& address : found->addresses) add(address, found->port);
    }
    const auto ports = rendezvous_ports(launch_.job_id, launch_.run_id, limits_);
    const bool local = launch_.hosts.empty() || launch_.hosts.front() == launch_.node_name;
    const std::string host = local ? "127.0.0.1" : launch_.hosts.front();
    for (size_t i = 0; i < std::min(kWalk, ports.size()); ++i) {
      const size_t before = out.size();
      add(host, ports[i]);
      if (out.size() == before) break;  // a name that does not resolve may take seconds each time
    }
    return out;
  }

  std::string tried() const {
    if (!options_.rendezvous.empty()) return options_.rendezvous;
    const auto ports = rendezvous_ports(launch_.job_id, launch_.run_id, limits_);
    return fmt::format("{} from port {} on, and the announcement {} ({})",
                       launch_.hosts.empty() ? "this host" : launch_.hosts.front(), ports.front(), announced_.string(),
                       seen_announcement_ ? "seen" : "never seen");
  }

  // Empty when this address is not rank 0's or not yet. Throws Error when rank 0 refuses.
  Socket try_to_join(const Address& address, double& avoid) {
    int error = 0;
    const double now = monotonic_seconds();
    Socket socket = connect_to(address, std::min(deadline_, now + kConnectSeconds), error);
    if (!socket) {
      last_ = fmt::format("{}: {}", address.text, std::strerror(error));
      if (error != ECONNREFUSED) avoid = monotonic_seconds() + kAvoidSeconds;
      return socket;
    }
    const double patience = std::min(deadline_, now + kPatience);
    char challenge[kChallenge];
    if (!read_exactly(socket.fd(), challenge, kPrefix, std::min(deadline_, now + kConnectSeconds)) ||
        std::string_view(challenge, kMagic.size()) != kMagic) {
      return pass_over(address, avoid, "another service listens there");
    }
    if (const uint32_t version = get_u32(challenge + kMagic.size()); version != kVersion) {
      return pass_over(address, avoid,
                       fmt::format("it speaks version {} of the handshake, this build {}: two builds are mixed, or it "
                                   "belongs to another run",
                                   version, kVersion));
    }
    if (!read_exactly(socket.fd(), challenge + kPrefix, kChallenge - kPrefix, patience))
      return pass_over(address, avoid, "closed during the handshake");
    Nonce nonce;
    Digest user, run;
    std::memcpy(nonce.data(), challenge + kPrefix, 32);
    std::memcpy(user.data(), challenge + kPrefix + 32, 32);
    std::memcpy(run.data(), challenge + kPrefix + 64, 32);
    if (!same(user, user_proof(identity_, nonce))) {
      write_all(socket.fd(), hello(kOtherSecret, nonce, random_nonce(), "", to_string(mine_)), patience);
      return pass_over(address, avoid,
                       fmt::format("it holds another user secret than {}/secret; let all ranks see one SLUICE_HOME, "
                                   "unless it is another user's",
                                   options_.home.string()));
    }
    if (!same(run, run_proof(identity_, nonce))) return pass_over(address, avoid, "it belongs to another run of yours");

    const Nonce answer = random_nonce();
    const std::string channel = options_.rendezvous.empty() ? peer_name(socket.fd()) : "";
    std::string body;
    serialise(mine_, body);
    char head[kVerdictHead];
    if (!write_all(socket.fd(), hello(kJoin, nonce, answer, channel, body), patience) ||
        !read_exactly(socket.fd(), head, sizeof head, patience)) {
      return pass_over(address, avoid, "closed during the handshake");
    }
    const bool accepted = get_u32(head) == 1;
    const uint32_t length = get_u32(head + 36);
    if (length > kMaxReason) return pass_over(address, avoid, "its verdict is too long");
    std::string reason(length, '\0');
    if (!read_exactly(socket.fd(), reason.data(), length, patience))
      return pass_over(address, avoid, "closed during the handshake");
    Digest proof;
    std::memcpy(proof.data(), head + 4, 32);
    if (!same(proof, verdict_proof(identity_, nonce, answer, accepted, reason)))
      return pass_over(address, avoid, "its verdict is not signed by this run");
    if (!accepted) throw Error(reason);
    return socket;
  }

  Socket pass_over(const Address& address, double& avoid, const std::string& why) {
    passed_ = fmt::format("{}: {}", address.text, why);
    avoid = monotonic_seconds() + kAvoidSeconds;
    return {};
  }

  std::string hello(Kind kind, const Nonce& challenge, const Nonce& answer, const std::string& channel,
                    const std::string& body) const {
    std::string out(kMagic);
    put_u32(out, kVersion);
    put_u32(out, kind);
    out += view(answer);
    // Turning away proves nothing and shows nothing of the secret.
    out += kind == kJoin ? std::string(view(hello_proof(identity_, challenge, answer, channel, body)))
                         : std::string(sizeof(Digest), '\0');
    put_string(out, body);
    return out;
  }

  Formed wait_for_table(Socket socket) {
    set_start_stage("waiting for the ranks that rank 0 has not seen yet; its output names them");
    char header[kFrameHeader];
    std::string payload;
    bool complete = read_exactly(socket.fd(), header, sizeof header, deadline_);
    if (!complete && errno == ETIMEDOUT)
      throw Error(
          fmt::format("{} joined rank 0, but the other ranks did not come within {:g} s; rank 0's output names "
                      "them",
                      to_string(mine_), options_.formation_seconds));
    const auto type = static_cast<FrameType>(get_u32(header));
    const uint32_t length = get_u32(header + 4);
    complete = complete && length <= kMaxMessage;
    if (complete) {
      payload.resize(length);
      complete = read_exactly(socket.fd(), payload.data(), length, deadline_ + kPatience);
    }
    if (!complete) throw Error("rank 0 was lost while the ranks were gathering; its own output says why");
    if (type == FrameType::kAbort) throw Error(payload);

    Formed formed;
    ByteReader reader(payload);
    const uint32_t world = reader.u32();
    bool good = type == FrameType::kTable && world == static_cast<uint32_t>(mine_.world);
    for (uint32_t r = 0; good && r < world; ++r) {
      Hello hello;
      good = parse(reader.string(), hello) && hello.place.rank == static_cast<int>(r);
      formed.hellos.push_back(std::move(hello));
    }
    check(good && reader.ok(), "rank 0 sent a table of ranks that cannot be read");
    formed.sockets.push_back(std::move(socket));
    return formed;
  }

  const ControlOptions& options_;
  const Launch& launch_;
  const Hello& mine_;
  const RunIdentity& identity_;
  const PortLimits limits_ = read_port_limits();
  double deadline_ = 0;
  std::map<std::string, double> avoid_until_;  // by address
  const std::filesystem::path announced_ = announcement_path(options_.home, identity_.run);
  bool seen_announcement_ = false;
  std::string last_, passed_;  // why the latest attempt failed; what was wrong with who answered
};

}  // namespace

Formed join_rank0(const ControlOptions& options, const Launch& launch, const Hello& mine, const RunIdentity& identity) {
  return Joining(options, launch, mine, identity).run();
}

}  // namespace sluice
