// SPDX-License-Identifier: Apache-2.0
// A job script that stands alone: options, settings, the site's values and the job functions in one file.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace sluice {

// What slurm/ and env/ of a release or source tree hold.
struct JobTree {
  std::filesystem::path root;
  std::string site;       // "mila"
  std::string site_text;  // env/<site>.sh
  std::string functions;  // slurm/common.sh
  std::string container;  // slurm/container.sh
};
// `program` is the running one; its release (bin/..), its source tree (build/cpu/../..), then `release` (RELEASE_DIR)
// and the current folder are tried. Throws Error that names the places, or the sites that are known.
JobTree read_job_tree(const std::filesystem::path& program, const std::string& release, const std::string& site);

struct ScriptRequest {
  std::string title;                                           // one line of comment
  std::vector<std::string> options;                            // of sbatch: "--nodes=2"
  std::vector<std::pair<std::string, std::string>> variables;  // exported
  std::filesystem::path program;
  bool container = false;  // runs the program of an image (CONTAINER_IMAGE)
  JobTree tree;
};
// Throws Error for a value with a line break, which an #SBATCH line cannot hold.
std::string render_script(const ScriptRequest& request);

}  // namespace sluice
