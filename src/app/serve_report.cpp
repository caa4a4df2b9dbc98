// SPDX-License-Identifier: Apache-2.0
#include "app/serve_report.h"

#include <fmt/format.h>

#include <cstdlib>
#include <nlohmann/json.hpp>

#include "cluster/walltime.h"

namespace sluice {
namespace {

const char* variable(const char* name, const char* otherwise) {
  const char* value = std::getenv(name);
  return value != nullptr && *value != '\0' ? value : otherwise;
}

}  // namespace

std::string start_line(const ServeReport& report) {
  const Launch& launch = report.world.launch();
  nlohmann::ordered_json line;
  line["event"] = "start";
  line["version"] = SLUICE_VERSION;
  line["job"] = launch.job_id ? nlohmann::ordered_json(*launch.job_id) : nlohmann::ordered_json(nullptr);
  line["record"] = report.endpoint.id;
  line["restart_count"] = launch.restart_count;
  line["launcher"] = launcher_name(launch.launcher);
  line["transport"] = report.world.transport();
  line["mpi"] = launch.world > 1 && !report.world.on_gpu() ? launch.mpi_type : "none";
  line["world"] = launch.world;
  line["tp"] = report.world.layout().tp;
  line["pp"] = report.world.layout().pp;
  line["ranks"] = nlohmann::ordered_json::array();
  for (const RankPlace& place : report.world.places()) {
    line["ranks"].push_back({{"rank", place.rank},
                             {"host", place.host},
                             {"local_rank", place.local_rank},
                             {"device", place.device_uuid.empty() ? "cpu" : place.device_uuid}});
  }
  line["backend"] = report.world.backend();
  line["url"] = report.endpoint.url;
  line["port"] = report.endpoint.port;
  line["key_file"] = report.endpoint.key_file;
  line["seconds_left"] = report.seconds_left ? nlohmann::ordered_json(static_cast<int64_t>(*report.seconds_left))
                                             : nlohmann::ordered_json(nullptr);
  line["seconds_left_from"] = report.seconds_left_origin;
  line["model"] = report.model.name;
  line["family"] = report.model.info.family;
  line["dtype"] = report.executor.model.dtype;
  line["load_seconds"] = report.load_seconds;
  line["weights_seconds"] = report.world.times().load;
  line["warm_seconds"] = report.world.times().warm;
  line["cache_tokens"] =
      report.executor.limits.blocks.empty() ? 0 : report.executor.limits.blocks[0] * report.executor.limits.block_size;
  line["max_total_tokens"] = report.executor.limits.max_context;
  for (const Setting& setting : report.settings.table()) {
    const SettingValue& value = report.settings.at(setting.name);
    if (!value.value.empty()) line["settings"][setting.name] = {{"value", value.value}, {"origin", value.origin}};
  }
  return line.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

std::string human_block(const Endpoint& e, std::optional<double> seconds_left, const std::string& login) {
  const bool key = !e.key_file.empty();
  const std::string header = key ? fmt::format(" -H \"Authorization: Bearer $(cat {})\"", e.key_file) : "";
  const std::string left = seconds_left ? fmt::format(", {} left", format_time_left(*seconds_left)) : "";
  const std::string near = e.loopback ? fmt::format("http://localhost:{}", e.port) : e.url;
  std::string block = fmt::format("\n{} is ready at {}{}{}\n", e.model, near,
                                  e.loopback ? fmt::format(" on {} alone", e.host) : "", left);
  // A socket is reached through ssh to its node, or there by curl.
  const std::string socket = e.url.starts_with("unix:") ? e.url.substr(5) : "";
  const std::string url = socket.empty() ? near : "http://localhost";
  const std::string by = socket.empty() ? "" : fmt::format("--unix-socket {} ", socket);
  if (!socket.empty()) {
    block += fmt::format("\n  From your own machine:\n    ssh -N -L localhost:8000:{} {}@{}\n", socket,
                         variable("USER", "USER"), e.host);
  } else if (!login.empty() && e.loopback) {
    block += fmt::format("\n  From your own machine:\n    ssh -N -L localhost:{0}:localhost:{0} -J {1}@{2} {1}@{3}\n",
                         e.port, variable("USER", "USER"), login, e.host);
  } else if (!login.empty()) {
    block += fmt::format("\n  From your own machine:\n    ssh -N -L localhost:{0}:{1}:{0} {2}@{3}\n", e.port, e.host,
                         variable("USER", "USER"), login);
  }
  block += fmt::format(
      "\n  A first question{}:\n    curl {}{}/generate{} -H 'Content-Type: application/json' \\\n      -d "
      "'{{\"inputs\":\"Once upon a time\",\"parameters\":{{\"max_new_tokens\":20}}}}'\n",
      key ? " (the key is in the file, never in the log)" : "", by, url, header);
  block += fmt::format("\n  For OpenAI clients:  base_url={}/v1{}\n", socket.empty() ? url : "http://localhost:8000",
                       key ? fmt::format("  api_key=contents of {}", e.key_file) : "");
  return block;
}

}  // namespace sluice
