// SPDX-License-Identifier: Apache-2.0
// Facts of this place for `sluice doctor`, read here and now (launch/findings.h judges them).
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "launch/findings.h"

namespace sluice {

GpuFacts read_gpu_facts();
MpiFacts read_mpi_facts();
std::vector<Interface> read_interfaces();
std::vector<std::string> resolve_name(const std::string& host);  // addresses, empty where it stands for none
std::vector<uint16_t> free_ports(const std::vector<uint16_t>& wanted, size_t most);
// `make`: the folder is made where it is missing. Writes and removes a small file.
FolderFacts read_folder(const std::string& name, const std::filesystem::path& path, bool shared, bool make);
std::vector<KeyFacts> read_key_facts(const std::filesystem::path& home);
InternetFacts read_internet(double seconds);
LimitFacts read_limits();
int cpus_of_machine();

}  // namespace sluice
