// SPDX-License-Identifier: Apache-2.0
// The hub's answers: what a revision is, NUL, what it holds. Names of files stay inside the model's folder.
#include "fuzz/fuzz.h"
#include "hub/repo.h"

using namespace sluice;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::string_view rest = fuzz::text_of(data, size);
  const std::string revision(fuzz::take_part(rest));
  fuzz::accepts([&] { fuzz::demand(read_commit(revision, "fuzz").size() == 40, "a commit of another length"); });
  std::vector<RepoFile> files;
  fuzz::accepts([&] {
    read_listing(std::string(rest), "fuzz", files);
    for (const RepoFile& file : files) {
      const std::filesystem::path path = std::filesystem::path(file.path).lexically_normal();
      fuzz::demand(!path.empty() && path.is_relative() && *path.begin() != "..", "a file outside the model's folder");
      fuzz::demand(!file.digest.empty(), "a file without a digest");
    }
    fuzz::demand(choose_files(files, {}, {}).size() <= files.size(), "files from nowhere");
    choose_files(files, {"*.json"}, {"*"});
  });
  fuzz::accepts([&] { check_revision(revision); });
  GetResult answer;
  answer.status = 429;
  answer.headers["retry-after"] = revision;
  const double delay = retry_delay(answer, 1);
  answer.headers.erase("retry-after");
  answer.headers["ratelimit"] = revision;
  fuzz::demand(delay >= 0 && delay <= 300 && retry_delay(answer, 1) <= 300, "a delay without bounds");
  fuzz::demand(!explain_refusal(answer, {}, "fuzz").empty(), "a refusal without words");
  return 0;
}
