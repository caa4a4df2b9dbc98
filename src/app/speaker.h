// SPDX-License-Identifier: Apache-2.0
// Who answers `sluice chat` and `sluice run`: a model in this process, a server by URL, or a job.
#pragma once

#include <functional>
#include <string>

#include "app/options.h"
#include "chat/interrupts.h"
#include "chat/session.h"

namespace CLI {
class App;
}

namespace sluice {

// The options that both verbs have.
struct SpeakerOptions {
  Settings settings = make_settings({Topic::kModel, Topic::kRun, Topic::kSampling});
  std::string who;  // checkpoint folder or name, URL, job id
  std::string key_file, via, system, format;
  std::vector<std::string> stop;
  bool verbose = false;
};
void add_speaker_options(CLI::App& verb, SpeakerOptions& options);

// Calls `talk` where answers come from: on rank 0, or on none but this process for a server. Returns its exit code.
// `raw`: no chat template is needed. Throws Error.
int with_speaker(SpeakerOptions& options, bool raw,
                 const std::function<int(Speaker&, Interrupts&, const SessionOptions&)>& talk);

}  // namespace sluice
