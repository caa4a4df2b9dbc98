// SPDX-License-Identifier: Apache-2.0
// Talking to sbatch, and what Slurm says of a job that it has ended.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "cluster/command.h"

namespace sluice {

// A command with its standard error beside its output: what sbatch says of a refusal is for the user.
std::optional<CommandResult> run_with_errors(const CommandRunner& run, const std::vector<std::string>& arguments,
                                             double deadline);

// Options of sbatch as a person types them, each as one word: "-w n1" becomes "-wn1", "--nodelist n1" "--nodelist=n1".
// Throws Error for a word that belongs to no option, and for an option that lacks its value.
std::vector<std::string> sbatch_words(const std::vector<std::string>& typed);

// The id in what sbatch --parsable prints ("148", "148;cluster"), behind whatever lines the site adds; empty: none.
std::string submitted_id(std::string_view output);
// Submits the script file; throws Error with sbatch's own words.
std::string submit_script(const CommandRunner& run, const std::string& script, const std::vector<std::string>& options);

// How a job ended, in words: "TIMEOUT", "FAILED, exit code 2", "CANCELLED". From scontrol while it remembers, else from
// sacct; empty where neither knows.
std::string job_ending(const CommandRunner& run, const std::string& job);
// Value of KEY in scontrol's one-line KEY=VALUE output; empty when it is not there.
std::string scontrol_value(std::string_view output, std::string_view key);

}  // namespace sluice
