// SPDX-License-Identifier: Apache-2.0
#include "app/plan_request.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/error.h"
#include "hub/cache.h"
#include "weights/packed.h"

namespace sluice {
namespace {
bool is_shape(const std::string& model) {
  const std::vector<std::string> shapes = random_shapes();
  std::error_code error;
  return std::find(shapes.begin(), shapes.end(), model) != shapes.end() && !std::filesystem::exists(model, error);
}

// Of a checkpoint here: the folder itself, or its config.json.
std::optional<std::filesystem::path> folder_of(const std::filesystem::path& path) {
  std::error_code error;
  if (path.filename() == "config.json" && std::filesystem::is_regular_file(path, error))
    return path.has_parent_path() ? path.parent_path() : ".";
  if (std::filesystem::is_directory(path, error)) return path;
  return std::nullopt;
}

ModelSource source_of(const ModelQuery& query) {
  ModelSource source;
  source.dtype = query.dtype;
  if (is_shape(query.model)) {
    source.random_shape = query.model;
    return source;
  }
  if (const auto folder = folder_of(query.model)) {
    source.folder = *folder;
    return source;
  }
  const HubSettings hub = read_hub_settings(process_environment());
  if (const auto found = find_model(hub, query.model, query.revision)) {
    source.folder = *found;
  } else if (is_repo_id(query.model)) {
    throw Error(fmt::format(
        "model '{0}' is not here; config.json is enough to plan. Where there is internet, run: sluice download {0}{1} "
        "--include config.json",
        query.model, query.revision.empty() ? "" : " --revision " + query.revision));
  } else {
    source.folder = require_model(hub, query.model, query.revision);
  }
  return source;
}

double weight_bytes(const std::string& name, const ModelInfo& model) {
  const auto wide = static_cast<double>(dtype_bytes(parse_dtype(model.dtype)));
  if (name.empty() && !model.quantised.empty()) {  // a checkpoint's own, whose head is none
    const double each = model.quantised.starts_with("int4")    ? 0.5625
                        : model.quantised.ends_with("(mxfp4)") ? 1.125
                                                               : 1.03;
    return each + (wide - each) * static_cast<double>(model.vocab * model.d_model) /
                      static_cast<double>(std::max<int64_t>(model.parameters, 1));
  }
  if (name.empty() || name == "none") return wide;
  if (name == "int8" || name == "bitsandbytes" || name == "fp8") return 1.0;
  if (name == "int4" || name == "gptq" || name == "awq") return 0.5625;  // with scales
  throw Error(fmt::format("--quantize '{}': expected int8, bitsandbytes, int4, gptq, awq or fp8", name));
}
}  // namespace

bool is_downloaded(const std::string& model) { return !is_shape(model) && !folder_of(model); }

std::optional<PackedLayout> packed_layout(const ModelQuery& query) {
  return read_packed_layout(source_of(query).folder);
}

PlanRequest plan_request(const ModelQuery& query, int64_t context) {
  PlanRequest request;
  const ModelSource source = source_of(query);
  const auto layout = read_packed_layout(source.folder);
  request.model = read_model_info(source);
  request.bytes_per_weight = weight_bytes(layout ? layout->quantize : query.quantize, request.model);
  request.bytes_per_cache = static_cast<double>(dtype_bytes(parse_dtype(request.model.dtype)));
  request.context = context > 0 ? context : std::min<int64_t>(request.model.max_positions, 4096);
  if (request.context > request.model.max_positions)
    throw Error(fmt::format("a context of {} tokens is more than the model's {} positions", request.context,
                            request.model.max_positions));
  return request;
}

}  // namespace sluice
