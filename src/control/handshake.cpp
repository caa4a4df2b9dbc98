// SPDX-License-Identifier: Apache-2.0
#include "control/formation.h"

namespace sluice::handshake {

Digest user_proof(const RunIdentity& identity, const Nonce& nonce) {
  return sign(identity.secret, {"sluice user", view(nonce)});
}

Digest run_proof(const RunIdentity& identity, const Nonce& nonce) {
  return sign(identity.secret, {"sluice run", identity.run, view(nonce)});
}

Digest hello_proof(const RunIdentity& identity, const Nonce& challenge, const Nonce& answer, std::string_view channel,
                   std::string_view hello) {
  return sign(identity.secret, {"sluice hello", identity.run, view(challenge), view(answer), channel, hello});
}

Digest verdict_proof(const RunIdentity& identity, const Nonce& challenge, const Nonce& answer, bool accepted,
                     std::string_view reason) {
  return sign(identity.secret, {"sluice verdict", identity.run, view(challenge), view(answer),
                                accepted ? "accepted" : "refused", reason});
}

}  // namespace sluice::handshake
