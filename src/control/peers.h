// SPDX-License-Identifier: Apache-2.0
// A connection between every two ranks of a formed run, for collectives that do not go through rank 0. Where each rank
// listens is exchanged over the control plane; rank r dials the ranks below it.
//
//   dialler  -> magic, version, its rank, the rank it wants, nonce
//   listener -> nonce, HMAC
//   dialler  -> HMAC
//
// Both HMACs are keyed with the user's secret and cover the run, both ranks, both nonces and the listener's address.
#pragma once

#include <string>
#include <vector>

#include "control/control.h"
#include "control/formation.h"
#include "control/socket.h"

namespace sluice {

// `addresses`: under which the others have reached this rank so far, best first. Called by every rank at once. Returns
// the sockets by rank, this rank's own empty. Throws Error, on every rank, naming who cannot reach whom.
std::vector<Socket> connect_peers(ControlPlane& control, const RunIdentity& identity, const Launch& launch,
                                  std::vector<std::string> addresses, double seconds);

}  // namespace sluice
