// SPDX-License-Identifier: Apache-2.0
#include "launch/script.h"

#include <doctest/doctest.h>

#include <cstdlib>
#include <fstream>

#include "base/error.h"
#include "cluster/folder.h"
#include "launch/submit.h"
#include "launch/wait.h"
#include "places.h"

using namespace sluice;
namespace fs = std::filesystem;

namespace {
ScriptRequest request_of() {
  ScriptRequest request;
  request.title = "Serves x.";
  request.options = {"--job-name=sluice-x", "--comment=two words"};
  request.variables = {{"SLUICE_MODEL", "/models/it's here"}, {"SLUICE_TP", "2"}, {"SLUICE_SERVED_MODEL_NAME", "a,b"}};
  request.program = "/bin/echo";
  request.tree = read_job_tree("/nowhere/bin/sluice", test::source_dir().string(), "mila");
  return request;
}
int bash(const fs::path& file, const char* options) {
  return std::system(("bash " + std::string(options) + " " + file.string() + " >/dev/null 2>&1").c_str());
}
}  // namespace

TEST_CASE("the script holds options, settings, the site and the job functions, and is good bash") {
  TestFolder folder;
  const std::string text = render_script(request_of());
  CHECK(text.starts_with("#!/usr/bin/env bash\n"));
  CHECK(text.find("#SBATCH --job-name=sluice-x\n#SBATCH '--comment=two words'\nset -uo") != text.npos);
  CHECK(text.find(
            "export SLUICE_MODEL='/models/it'\\''s here'\nexport SLUICE_TP=2\nexport SLUICE_SERVED_MODEL_NAME=a,b\n") !=
        text.npos);
  CHECK(text.find("site::values() {\n") != text.npos);
  CHECK(text.find("\njob::serve \"$@\"\n") != text.npos);
  CHECK(text.find("source=slurm/common.sh") == text.npos);
  std::ofstream(folder.path / "job.sh") << text;
  CHECK(bash(folder.path / "job.sh", "-n") == 0);
  // Outside Slurm it becomes the program, wherever it lies.
  std::ofstream(folder.path / "run.sh") << "cd / && unset SLURM_JOB_ID && out=$(bash "
                                        << (folder.path / "job.sh").string() << ") && [[ $out == serve ]]\n";
  CHECK(bash(folder.path / "run.sh", "") == 0);
}

TEST_CASE("a script for an image needs nothing of the tree, and mounts the model that it names") {
  TestFolder folder;
  const std::string here = folder.path.string();
  ScriptRequest request = request_of();
  request.container = true;
  request.tree.root = "/nowhere";
  request.variables = {{"SLUICE_MODEL", here + "/model"},
                       {"SLUICE_HOME", here + "/home"},
                       {"CONTAINER_IMAGE", "/images/x.sif"},
                       {"CONTAINER_RUNTIME", "apptainer"}};
  fs::create_directory(folder.path / "model");
  fs::create_directory(folder.path / "bin");
  std::ofstream(folder.path / "bin/apptainer") << "#!/bin/sh\necho \"$@\"\n";
  fs::permissions(folder.path / "bin/apptainer", fs::perms::owner_all);
  std::ofstream(folder.path / "job.sh") << render_script(request);
  request.container = false;
  std::ofstream(folder.path / "without.sh") << render_script(request);
  std::ofstream(folder.path / "run.sh") << "cd / && unset SLURM_JOB_ID HF_HOME TGI_DIR MODEL_PATH && HOME=" << here
                                        << " PATH=" << here << "/bin:$PATH && out=$(bash " << here
                                        << "/job.sh) && [[ $out == 'exec --bind " << here << "/model," << here
                                        << "/home /images/x.sif sluice serve' ]] && out=$(bash " << here
                                        << "/without.sh 2>&1); [[ $? == 2 && $out == *'written without it'* ]]\n";
  CHECK(bash(folder.path / "run.sh", "") == 0);
}

TEST_CASE("an option that would end its line is refused") {
  ScriptRequest request = request_of();
  request.options.push_back("--comment=a\nrm -rf");
  CHECK_THROWS_WITH_AS(render_script(request), doctest::Contains("one line"), Error);
}

TEST_CASE("the tree and the site are looked for, and a miss says where and what there is") {
  const fs::path program = test::source_dir() / "build/cpu/sluice";
  CHECK(read_job_tree(program, "", "").root == test::source_dir());
  CHECK(read_job_tree(program, "", "").site == "generic");
  CHECK_THROWS_WITH_AS(read_job_tree(program, "", "brich"), doctest::Contains("known are: alliance generic mila"),
                       Error);
  CHECK_THROWS_WITH_AS(read_job_tree(program, "", "../env/mila"), doctest::Contains("no such file"), Error);
}

TEST_CASE("options of sbatch are understood in every spelling that sbatch knows") {
  using Words = std::vector<std::string>;
  CHECK(sbatch_words({"-w", "n1"}) == Words{"-wn1"});
  CHECK(sbatch_words({"-wn1", "--nodelist=n1"}) == Words{"-wn1", "--nodelist=n1"});
  CHECK(sbatch_words({"--nodelist", "n1", "--qos", "high"}) == Words{"--nodelist=n1", "--qos=high"});
  CHECK(sbatch_words({"-HQ", "-Hw", "n1", "-koff"}) == Words{"-HQ", "-Hwn1", "-koff"});
  CHECK(sbatch_words({"--exclusive", "-C", "a100&nvlink"}) == Words{"--exclusive", "-Ca100&nvlink"});
  CHECK(sbatch_words({"--comment=two words", "-J", "-odd"}) == Words{"--comment=two words", "-J-odd"});
  CHECK(sbatch_words({}).empty());
  CHECK_THROWS_WITH_AS(sbatch_words({"-w", "n1", "n2"}), doctest::Contains("'n2' is not an option of sbatch"), Error);
  CHECK_THROWS_WITH_AS(sbatch_words({"--hold", "-"}), doctest::Contains("'-' is not an option"), Error);
  CHECK_THROWS_WITH_AS(sbatch_words({"-Hw"}), doctest::Contains("'-Hw' lacks its value"), Error);
}

TEST_CASE("sbatch's answer is read behind a site's own lines, and a refusal keeps its words") {
  CHECK(submitted_id("148\n") == "148");
  CHECK(submitted_id("Your balance is fine\n3430148;cluster\n") == "3430148");
  CHECK(submitted_id("no\n").empty());
  const auto refuse = [](const auto& arguments, double) {
    CHECK(arguments[0] == "sh");
    CHECK(arguments[4] == "sbatch");
    return CommandResult{1, "sbatch: error: invalid account\nsbatch: error: Batch job submission failed\n"};
  };
  CHECK_THROWS_WITH_AS(submit_script(refuse, "job.sh", {}),
                       doctest::Contains("invalid account; sbatch: error: Batch job submission failed"), Error);
  CHECK_THROWS_WITH_AS(submit_script(
                           [](const auto&, double) {
                             return CommandResult{127, ""};
                           },
                           "job.sh", {}),
                       doctest::Contains("login node"), Error);
}

TEST_CASE("how a job ended comes from scontrol, and from sacct once that has forgotten") {
  CHECK(job_ending(
            [](const auto&, double) {
              return CommandResult{0, "JobId=1 JobState=TIMEOUT Reason=TimeLimit ExitCode=0:0\n"};
            },
            "1") == "TIMEOUT");
  CHECK(job_ending(
            [](const auto& a, double) {
              return a[0] == "sacct" ? CommandResult{0, "FAILED|2:0\n"} : CommandResult{1, ""};
            },
            "1") == "FAILED, exit code 2");
  CHECK(job_ending([](const auto&, double) { return std::nullopt; }, "1").empty());
  CHECK(scontrol_value("JobId=1 Reason=None XReason=a StdOut=/a/b", "Reason") == "None");
}

TEST_CASE("the stand of a job goes from the queue to the first answer") {
  JobView view;
  view.id = "148", view.state = "pending", view.detail = "waiting in the queue (Priority)";
  CHECK(judge_launch("148", {}, false, "").phase == LaunchPhase::kPending);
  CHECK(judge_launch("148", {}, true, "").phase == LaunchPhase::kEnded);
  CHECK(judge_launch("148", {view}, true, "").detail == "waiting in the queue (Priority)");
  view.state = "loading";
  CHECK(judge_launch("148", {view}, true, "").phase == LaunchPhase::kStarting);
  view.url = "http://n1:1", view.host = "n1";
  const LaunchStand loading = judge_launch("148", {view}, true, "weights: 4.0 of 16.0 GB, 1.50 GB/s\n");
  CHECK(loading.phase == LaunchPhase::kLoading);
  CHECK(loading.share == doctest::Approx(0.25));
  view.state = "ready";
  CHECK(judge_launch("148", {view}, true, "").phase == LaunchPhase::kReady);
  view.state = "lost", view.detail = "gone";
  CHECK(judge_launch("148", {view}, true, "").phase == LaunchPhase::kEnded);
  CHECK(load_share("weights: 16.06 GB in 9.70 s, 1.66 GB/s\n") == doctest::Approx(1));
  CHECK_FALSE(load_share("nothing yet"));
}
