// SPDX-License-Identifier: Apache-2.0
#include "launch/script.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/error.h"
#include "base/file.h"
#include "base/shell.h"

namespace sluice {
namespace fs = std::filesystem;

namespace {
// Without the lines that only a file of its own needs: the shebang, shellcheck's and the licence's.
std::string body(std::string_view text) {
  std::string out;
  bool head = true;
  for (size_t at = 0; at < text.size();) {
    const size_t end = std::min(text.find('\n', at), text.size());
    const std::string_view line = text.substr(at, end - at);
    at = end + 1;
    head = head && (line.starts_with("#!") || line.starts_with("# shellcheck") || line.starts_with("# SPDX"));
    if (!head) out.append(line).append("\n");
  }
  return out;
}

std::string known_sites(const fs::path& folder) {
  std::vector<std::string> names;
  std::error_code error;
  for (fs::directory_iterator it(folder, error), end; !error && it != end; it.increment(error))
    if (it->path().extension() == ".sh") names.push_back(it->path().stem().string());
  std::sort(names.begin(), names.end());
  return fmt::format("{}", fmt::join(names, " "));
}
}  // namespace

JobTree read_job_tree(const fs::path& program, const std::string& release, const std::string& site) {
  std::error_code error;
  const fs::path folder = program.parent_path();
  std::vector<fs::path> places;
  if (!release.empty()) places.emplace_back(release);
  places.push_back(folder.parent_path());
  places.push_back(folder.parent_path().parent_path());
  places.push_back(fs::current_path(error));
  const auto found = std::find_if(places.begin(), places.end(), [&](const fs::path& place) {
    return fs::is_regular_file(place / "slurm/common.sh", error);
  });
  if (found == places.end()) {
    std::string looked;
    for (const fs::path& place : places) looked += (looked.empty() ? "" : ", ") + place.string();
    throw Error(fmt::format(
        "no slurm/common.sh in {}; set RELEASE_DIR to an installed release, or start this from the source tree",
        looked));
  }
  JobTree tree;
  tree.root = *found;
  tree.site = site.empty() ? "generic" : site;
  const fs::path file = tree.root / "env" / (tree.site + ".sh");
  if (tree.site.find('/') != std::string::npos || !fs::is_regular_file(file, error)) {
    throw Error(fmt::format("site '{}': no such file {}; known are: {} (docs/add-a-cluster.md adds one)", tree.site,
                            file.string(), known_sites(tree.root / "env")));
  }
  tree.site_text = read_file(file);
  tree.functions = read_file(tree.root / "slurm/common.sh");
  tree.container = read_file(tree.root / "slurm/container.sh");
  return tree;
}

std::string render_script(const ScriptRequest& request) {
  std::string out = "#!/usr/bin/env bash\n# shellcheck disable=SC1090,SC1091,SC2034,SC2317\n";
  out += fmt::format("# {}\n# It stands alone: sbatch THIS-FILE.\n", request.title);
  for (const std::string& option : request.options) {
    if (option.find('\n') != std::string::npos)
      throw Error(fmt::format("sbatch option '{}': expected one line", option));
    out += "#SBATCH " + shell_word(option) + "\n";
  }
  out += "set -uo pipefail\n\n";
  for (const auto& [name, value] : request.variables) out += fmt::format("export {}={}\n", name, shell_word(value));
  out += fmt::format("sluice_program={}\nroot={}\n", shell_word(request.program.string()),
                     shell_word(request.tree.root.string()));
  out += fmt::format("\n# The site: env/{}.sh.\nsite::values() {{\n{}}}\n", request.tree.site,
                     body(request.tree.site_text));
  if (request.container) out += fmt::format("\n# The image: slurm/container.sh.\n{}", body(request.tree.container));
  out += fmt::format("\n# The job: slurm/common.sh.\n{}\njob::serve \"$@\"\n", body(request.tree.functions));
  return out;
}

}  // namespace sluice
