// SPDX-License-Identifier: Apache-2.0
// One verb of the command line, one file. Each add_*() declares its subcommand; its callback sets `exit_code`.
#pragma once

#include <string>
#include <vector>

namespace CLI {
class App;
}

namespace sluice {

// Exit codes: 0 done; 1 lost on the way; 2 the configuration is at fault (Error); 75 stopped by a signal, run again.
inline constexpr int kExitAgain = 75;

void add_serve(CLI::App& app, int& exit_code);
void add_generate(CLI::App& app, int& exit_code);
void add_chat(CLI::App& app, int& exit_code);
void add_run(CLI::App& app, int& exit_code);
void add_info(CLI::App& app, int& exit_code);
void add_bench(CLI::App& app, int& exit_code);
void add_download(CLI::App& app, int& exit_code);
void add_verify(CLI::App& app, int& exit_code);
void add_plan(CLI::App& app, int& exit_code);
void add_launch(CLI::App& app, int& exit_code);
void add_doctor(CLI::App& app, int& exit_code);
void add_keep(CLI::App& app, int& exit_code);  // for the job scripts alone
void add_jobs(CLI::App& app, int& exit_code);  // list, status, logs, stop, metrics
void add_connect(CLI::App& app, int& exit_code);
void add_route(CLI::App& app, int& exit_code);
void add_convert(CLI::App& app, int& exit_code);
void add_bench_serve(CLI::App& bench, int& exit_code);    // `bench serve`, added by add_bench
void add_bench_quality(CLI::App& bench, int& exit_code);  // `bench quality`, added by add_bench

// Whether argv[0] is MariTalk Local's name; its options then become a verb and arguments of this program.
bool called_as_maritalk(const char* name);
// Returns the exit code where the options end the program (help, version, a mistake), else -1.
int read_maritalk(int argc, char** argv, std::vector<std::string>& arguments);

}  // namespace sluice
