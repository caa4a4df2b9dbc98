// SPDX-License-Identifier: Apache-2.0
// Where models are: the Hugging Face cache layout, shared both ways with huggingface_hub, and a search path of shared
// folders.
//   CACHE/models--ORG--NAME/refs/REVISION                  the commit that a branch or tag named when it was fetched
//   CACHE/models--ORG--NAME/blobs/DIGEST                   contents
//   CACHE/models--ORG--NAME/snapshots/COMMIT/PATH          links to ../../blobs/DIGEST
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "cluster/launch.h"

namespace sluice {

// What the environment says of the hub. Variables as huggingface_hub reads them.
struct HubSettings {
  std::string endpoint;              // HF_ENDPOINT, a path prefix kept; default https://huggingface.co
  std::filesystem::path cache;       // HF_HUB_CACHE, TGI_DIR/hub, HF_HOME/hub, else below XDG_CACHE_HOME or ~/.cache
  std::filesystem::path token_file;  // HF_TOKEN_PATH, else HF_HOME/token
  std::string token;                 // HF_TOKEN, HUGGING_FACE_HUB_TOKEN, else the first line of token_file
  std::string token_origin;          // the variable or the file; empty without a token
  bool offline = false;              // HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE
  std::vector<std::filesystem::path> search;  // MODEL_PATH, separated by colons; then TGI_DIR
};
// Throws Error when no cache folder follows from the environment.
HubSettings read_hub_settings(const Environment& environment);

// "ORG/NAME", or "NAME" for the hub's oldest models: letters, digits, "-_." and at most one slash.
bool is_repo_id(std::string_view name);

struct RepoCache {
  std::filesystem::path root;  // CACHE/models--ORG--NAME

  RepoCache(const std::filesystem::path& cache, std::string_view repo);
  std::filesystem::path blob(std::string_view digest) const { return root / "blobs" / digest; }
  std::filesystem::path snapshot(std::string_view commit) const { return root / "snapshots" / commit; }
  std::filesystem::path ref(std::string_view revision) const { return root / "refs" / revision; }
  std::filesystem::path manifest(std::string_view commit) const;
  // The commit that `revision` stands for here: itself where a snapshot has that name, else what its ref says.
  std::optional<std::string> commit_of(const std::string& revision) const;
};

// The folder of a model: `name` itself where it is a folder with config.json; else, for a repository id, the first of
// MODEL_PATH's entries (DIR/ORG/NAME, DIR/NAME, or a cache root) and then the cache that holds a whole snapshot.
// nullopt when nothing does.
std::optional<std::filesystem::path> find_model(const HubSettings& hub, const std::string& name,
                                                const std::string& revision);

// As find_model; throws Error that names every place looked at and the download line.
std::filesystem::path require_model(const HubSettings& hub, const std::string& name, const std::string& revision);

}  // namespace sluice
