// SPDX-License-Identifier: Apache-2.0
// The handshake that turns strangers on a port into ranks of one run. Rank 0 gathers, every other rank joins.
//
//   rank 0 -> challenge  magic, version, nonce, HMAC of the user, HMAC of the run: the other side sees whom it found
//   joiner -> hello      magic, version, kind, nonce, HMAC, length, Hello; or why it turns away
//   rank 0 -> verdict    accepted or refused, HMAC, reason
//   rank 0 -> kTable     once all are there, or kAbort
//
// Every HMAC is keyed with the user's secret and covers the run and both nonces.
#pragma once

#include <string>
#include <vector>

#include "control/auth.h"
#include "control/control.h"
#include "control/socket.h"

namespace sluice {

struct Formed {
  std::vector<Hello> hellos;    // by rank
  std::vector<Socket> sockets;  // rank 0: by rank, its own empty; others: one, to rank 0
};

// What both sides know beforehand.
struct RunIdentity {
  std::string run;     // run id and restart count: a requeued job does not meet its former self
  std::string secret;  // of the user
};

// Both throw Error.
Formed gather_ranks(const ControlOptions& options, const Launch& launch, const Hello& mine,
                    const RunIdentity& identity);
Formed join_rank0(const ControlOptions& options, const Launch& launch, const Hello& mine, const RunIdentity& identity);

namespace handshake {
constexpr std::string_view kMagic = "SLUICECP";
constexpr uint32_t kVersion = 1;  // of the handshake and the frames
constexpr size_t kPrefix = 12;    // magic and version
constexpr size_t kChallenge = kPrefix + 3 * 32;
constexpr size_t kHelloHead = kPrefix + 4 + 32 + 32 + 4;
constexpr uint32_t kMaxHello = 16384;
constexpr size_t kVerdictHead = 4 + 32 + 4;
constexpr double kPatience = 5;  // seconds for one connection's handshake
enum Kind : uint32_t { kJoin = 0, kOtherSecret = 1, kOtherRun = 2 };

Digest user_proof(const RunIdentity& identity, const Nonce& nonce);
Digest run_proof(const RunIdentity& identity, const Nonce& nonce);
// `channel` is rank 0's address as each side sees it, so that a stranger who listens first cannot relay; empty with
// --rendezvous, where a tunnel may stand between.
Digest hello_proof(const RunIdentity& identity, const Nonce& challenge, const Nonce& answer, std::string_view channel,
                   std::string_view hello);
Digest verdict_proof(const RunIdentity& identity, const Nonce& challenge, const Nonce& answer, bool accepted,
                     std::string_view reason);
}  // namespace handshake

}  // namespace sluice
