// SPDX-License-Identifier: Apache-2.0
// Slurm's texts: host lists, task counts, time left, visible devices. First byte: which.
#include "cluster/hostlist.h"
#include "cluster/placement.h"
#include "cluster/walltime.h"
#include "fuzz/fuzz.h"

using namespace sluice;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const std::string_view text = fuzz::text_of(data + 1, size - 1);
  fuzz::accepts([&] {
    switch (data[0]) {
      case 'c':
        for (const int count : expand_task_counts(text)) fuzz::demand(count >= 0, "a negative task count");
        break;
      case 't':
        if (const auto left = parse_time_left(text)) fuzz::demand(*left >= 0, "negative time left");
        break;
      case 'v':
        parse_visible_devices(text);
        break;
      default: {
        const auto hosts = expand_hostlist(text);
        fuzz::demand(hosts.size() <= 262144, "more hosts than the limit");
        for (const std::string& host : hosts) fuzz::demand(!host.empty(), "a host without a name");
      }
    }
  });
  return 0;
}
