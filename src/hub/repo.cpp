// SPDX-License-Identifier: Apache-2.0
#include "hub/repo.h"

#include <fmt/format.h>

#include <set>
#include <thread>

#include "base/error.h"
#include "base/log.h"

namespace sluice {
namespace {
constexpr size_t kAnswerLimit = size_t{64} << 20;  // bytes of one listing page
constexpr int kAttempts = 6;
constexpr int kRedirects = 8;
}  // namespace

Answer hub_get(Transfers& transfers, const HubSettings& hub, const std::string& url, const std::string& what) {
  for (int attempt = 0;; ++attempt) {
    std::string at = url;
    Answer answer;
    for (int hop = 0;; ++hop) {
      Get get;
      get.url = at;
      if (url_origin(at) == url_origin(hub.endpoint)) get.bearer = hub.token;
      answer = get_whole(transfers, get, kAnswerLimit);
      const std::string location = header(answer.result, "location");
      if (answer.result.status < 300 || answer.result.status >= 400 || location.empty()) break;
      if (hop == kRedirects)
        throw Error(fmt::format("{}: more than {} redirects, last to {}", what, kRedirects, location));
      at = resolve_location(at, location);
    }
    if (answer.result.status == 200 && answer.result.error.empty()) return answer;
    if (!worth_retrying(answer.result) || attempt + 1 == kAttempts)
      throw Error(explain_refusal(answer.result, hub, what));
    const double delay = retry_delay(answer.result, attempt);
    log_warning(fmt::format("{}; again in {:.1f} s", explain_refusal(answer.result, hub, what), delay));
    std::this_thread::sleep_for(std::chrono::duration<double>(delay));
  }
}

RepoListing list_repo(Transfers& transfers, const HubSettings& hub, const std::string& repo,
                      const std::string& revision) {
  const std::string base = fmt::format("{}/api/models/{}", hub.endpoint, repo);
  const std::string what = fmt::format("model '{}' at revision '{}'", repo, revision);
  RepoListing listing;
  listing.commit = read_commit(
      hub_get(transfers, hub, fmt::format("{}/revision/{}", base, url_quote(revision, false)), what).body, what);
  std::string url = fmt::format("{}/tree/{}?recursive=true", base, listing.commit);
  std::set<std::string> pages;
  while (!url.empty()) {
    if (!pages.insert(url).second) throw Error(fmt::format("{}: the listing leads back to itself at {}", what, url));
    const Answer page = hub_get(transfers, hub, url, what);
    read_listing(page.body, what, listing.files);
    const std::string next = next_page(page.result);
    url = next.empty() ? std::string() : resolve_location(url, next);
  }
  return listing;
}

std::string file_url(const HubSettings& hub, const std::string& repo, const std::string& commit,
                     const std::string& path) {
  return fmt::format("{}/{}/resolve/{}/{}", hub.endpoint, repo, commit, url_quote(path, true));
}

}  // namespace sluice
