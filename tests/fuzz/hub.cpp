// SPDX-License-Identifier: Apache-2.0
// The hub's answers: what a revision is, NUL, what it holds. Names of files stay inside the model's folder.
#include "fuzz/fuzz.h"
#include "hub/answers.h"

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
  answer.headers["link"] = revision;
  next_page(answer);
  answer.headers["x-error-message"] = revision;
  for (const char* code : {"", "GatedRepo", "RevisionNotFound", "EntryNotFound", "RepoNotFound"}) {
    answer.headers["x-error-code"] = code;
    for (const long status : {0, 401, 403, 404, 407, 408, 429, 500}) {
      answer.status = status;
      fuzz::demand(!explain_refusal(answer, {}, "fuzz").empty(), "a refusal without words");
      fuzz::demand(status < 500 || worth_retrying(answer), "a fault that is not retried");
      if (*code != '\0') break;
    }
  }
  return 0;
}
