// SPDX-License-Identifier: Apache-2.0
#include "hub/fetch.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <charconv>
#include <exception>
#include <set>

#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include "hub/part_file.h"
#include "hub/verifier.h"

namespace sluice {
namespace fs = std::filesystem;
namespace {
constexpr double kTickSeconds = 0.1;
// Bytes written together, ending at a multiple of it: libcurl hands over 8 to 16 KiB.
constexpr uint64_t kBlock = WriteLength::kBytes[0];

struct Job {
  const RepoFile* file = nullptr;
  std::shared_ptr<PartFile> part;  // while it arrives
  std::string direct;              // where the hub's redirect led; signed, so it runs out
  std::vector<char> running;       // per piece
  int failures = 0;                // in a row
  double not_before = 0;
  bool whole = false;  // the server knows no ranges: one piece
  int mismatches = 0;
  bool finished = false;
};

class Fetch;

class PieceGet final : public GetListener {
 public:
  PieceGet(Fetch& fetch, Job& job, int64_t piece, bool direct)
      : fetch_(fetch), job_(job), part_(job.part), piece_(piece), direct_(direct), have_(part_->done(piece)) {}
  bool on_headers(const GetResult& so_far) override;
  bool on_data(const char* bytes, size_t n) override;
  void on_end(const GetResult& result) override;
  bool flush();  // writes what the block holds; false: failed, and fetch_.failure_ says why

 private:
  Fetch& fetch_;
  Job& job_;
  std::shared_ptr<PartFile> part_;
  const int64_t piece_;
  const bool direct_;
  uint64_t have_;            // of the piece, with what the block holds
  std::vector<char> block_;  // the end of it
  bool no_ranges_ = false;
};

class Fetch {
 public:
  Fetch(Transfers& transfers, const HubSettings& hub, const std::string& repo, const std::string& commit,
        const RepoCache& paths, const std::vector<RepoFile>& files, const FetchOptions& options)
      : transfers_(transfers), hub_(hub), repo_(repo), commit_(commit), paths_(paths), options_(options) {
    std::set<std::string> seen;
    for (const RepoFile& file : files) {
      if (!seen.insert(file.digest).second) continue;  // two paths, one blob
      jobs_.push_back(std::make_unique<Job>());
      jobs_.back()->file = &file;
      progress_.total += file.size;
    }
    progress_.files = static_cast<int64_t>(jobs_.size());
  }

  ~Fetch() {
    transfers_.stop();
    for (PieceGet* get : gets_) {
      get->flush();
      delete get;
    }
  }

  void run(const std::function<bool(const FetchProgress&)>& tick);

 private:
  friend class PieceGet;
  void open(Job& job);
  bool start_one(double now);
  void start(Job& job, int64_t piece);
  void use_one_piece(Job& job);
  void failed(Job& job, const GetResult& result, bool direct);
  void take_verified();
  void update_progress();
  std::string what(const Job& job) const { return fmt::format("{} of {}", job.file->path, repo_); }

  Transfers& transfers_;
  const HubSettings& hub_;
  const std::string repo_, commit_;
  const RepoCache& paths_;
  const FetchOptions options_;
  std::vector<std::unique_ptr<Job>> jobs_;
  std::set<PieceGet*> gets_;
  Verifier verifier_{[this] { transfers_.wake(); }};
  FetchProgress progress_;
  std::exception_ptr failure_;
};

bool PieceGet::on_headers(const GetResult& so_far) {
  if (so_far.status == 206) {
    // "bytes FIRST-LAST/SIZE"
    const auto range = so_far.headers.find("content-range");
    const std::string text = range == so_far.headers.end() ? std::string() : range->second;
    const size_t digit = text.find_first_of("0123456789");
    uint64_t first = 0;
    if (digit != text.npos) std::from_chars(text.data() + digit, text.data() + text.size(), first);
    return digit != text.npos && first == part_->begin(piece_) + have_;
  }
  if (so_far.status != 200) return false;
  if (part_->pieces() == 1) {
    if (have_ > 0) part_->reset();
    have_ = 0;
    return true;
  }
  no_ranges_ = true;
  return false;
}

bool PieceGet::on_data(const char* bytes, size_t n) {
  if (part_ != job_.part) return false;  // started afresh meanwhile
  if (have_ + n > part_->length(piece_)) return false;
  fetch_.progress_.fetched += n;
  job_.failures = 0;
  while (n > 0) {
    const uint64_t at = part_->begin(piece_) + have_;
    const size_t fits = static_cast<size_t>(std::min<uint64_t>(n, kBlock - at % kBlock));
    block_.insert(block_.end(), bytes, bytes + fits);
    bytes += fits, n -= fits, have_ += fits;
    if ((at + fits) % kBlock == 0 && !flush()) return false;
  }
  return true;
}

bool PieceGet::flush() {
  try {
    part_->append(piece_, block_.data(), block_.size());
  } catch (const Error&) {
    fetch_.failure_ = std::current_exception();
  }
  block_.clear();
  return !fetch_.failure_;
}

void PieceGet::on_end(const GetResult& result) {
  const std::unique_ptr<PieceGet> self(this);
  fetch_.gets_.erase(this);
  if (part_ != job_.part || !flush()) return;
  job_.running[static_cast<size_t>(piece_)] = 0;
  if (part_->done(piece_) == part_->length(piece_)) return;
  if (no_ranges_) return fetch_.use_one_piece(job_);
  const auto location = result.headers.find("location");
  if (result.status >= 300 && result.status < 400 && location != result.headers.end() && !direct_) {
    job_.direct =
        resolve_location(file_url(fetch_.hub_, fetch_.repo_, fetch_.commit_, job_.file->path), location->second);
    return;
  }
  fetch_.failed(job_, result, direct_);
}

void Fetch::open(Job& job) {
  const uint64_t piece = job.whole ? std::max<uint64_t>(job.file->size, 1) : options_.piece;
  job.part = std::make_shared<PartFile>(paths_.blob(job.file->digest), job.file->size, piece,
                                        job.whole ? piece : options_.shortest_piece);
  job.running.assign(static_cast<size_t>(job.part->pieces()), 0);
  verifier_.follow(job.part, job.file->digest);
}

void Fetch::use_one_piece(Job& job) {
  if (job.whole) return;
  log_warning(fmt::format("{}: the server knows no ranges; one connection, and an interruption starts the file afresh",
                          what(job)));
  job.whole = true;
  verifier_.forget(job.part);
  job.part->remove();
  open(job);
}

void Fetch::start(Job& job, int64_t piece) {
  const bool direct = !job.direct.empty();
  Get get;
  get.url = direct ? job.direct : file_url(hub_, repo_, commit_, job.file->path);
  if (url_origin(get.url) == url_origin(hub_.endpoint)) get.bearer = hub_.token;
  const uint64_t have = job.part->done(piece);
  if (!job.whole || have > 0) {
    get.first = job.part->begin(piece) + have;
    get.last = static_cast<int64_t>(job.part->begin(piece) + job.part->length(piece)) - 1;
  }
  auto* listener = new PieceGet(*this, job, piece, direct);
  gets_.insert(listener);
  job.running[static_cast<size_t>(piece)] = 1;
  transfers_.start(get, *listener);
}

// The first piece that waits, in order of files. A file's first request learns where its bytes are; the others follow.
bool Fetch::start_one(double now) {
  for (const auto& job : jobs_) {
    if (job->finished || job->not_before > now) continue;
    if (!job->part) open(*job);
    const bool asking = job->direct.empty() && std::count(job->running.begin(), job->running.end(), 1) > 0;
    if (asking && job->part->pieces() > 1 && job->part->done() == 0) continue;
    for (int64_t i = 0; i < job->part->pieces(); ++i) {
      if (job->running[static_cast<size_t>(i)] != 0 || job->part->done(i) == job->part->length(i)) continue;
      start(*job, i);
      return true;
    }
  }
  return false;
}

void Fetch::failed(Job& job, const GetResult& result, bool direct) {
  // A signed address runs out: ask the hub again.
  if (direct && (result.status == 401 || result.status == 403 || result.status == 404 || result.status == 410)) {
    job.direct.clear();
  } else if (result.status == 416) {
    job.part->reset();
  } else if (result.status != 206 && result.status != 200 && !worth_retrying(result)) {
    throw Error(explain_refusal(result, hub_, what(job)));
  }
  if (++job.failures > options_.attempts) throw Error(explain_refusal(result, hub_, what(job)));
  const double delay =
      result.status == 206 || result.status == 200 ? 0.1 * job.failures : retry_delay(result, job.failures);
  job.not_before = monotonic_seconds() + delay;
}

void Fetch::take_verified() {
  while (const auto verdict = verifier_.next()) {
    const auto found =
        std::find_if(jobs_.begin(), jobs_.end(), [&](const auto& job) { return job->part == verdict->part; });
    if (found == jobs_.end()) continue;
    Job& job = **found;
    if (!verdict->error.empty()) throw Error(verdict->error);
    if (verdict->digest == job.file->digest) {
      job.part->finish();
      job.part.reset();
      job.finished = true;
      ++progress_.finished;
      continue;
    }
    if (++job.mismatches == 3) {
      job.part->remove();
      throw Error(
          fmt::format("{}: three times the bytes did not match: expected digest {}, found {}; something on the "
                      "way changes them",
                      what(job), job.file->digest, verdict->digest));
    }
    log_warning(fmt::format("{}: the digest is {}, expected {}; fetching it again", what(job), verdict->digest,
                            job.file->digest));
    job.part->remove();
    open(job);
  }
}

void Fetch::update_progress() {
  progress_.done = 0;
  for (const auto& job : jobs_) {
    progress_.done += job->finished ? job->file->size : job->part ? job->part->done() : 0;
  }
}

void Fetch::run(const std::function<bool(const FetchProgress&)>& tick) {
  for (const auto& job : jobs_) {
    std::error_code error;
    const fs::path blob = paths_.blob(job->file->digest);
    if (fs::file_size(blob, error) == job->file->size && !error) {
      job->finished = true;
      ++progress_.finished;
    }
  }
  // Room for what is missing, before a night is spent on it.
  uint64_t missing = 0;
  for (const auto& job : jobs_) missing += job->finished ? 0 : job->file->size;
  std::error_code error;
  fs::create_directories(paths_.root / "blobs", error);
  if (error) throw Error(fmt::format("cannot make {}: {}", (paths_.root / "blobs").string(), error.message()));
  const fs::space_info space = fs::space(paths_.root, error);
  if (!error && space.available < missing) {
    update_progress();
    for (const auto& job : jobs_) {
      const fs::path part = paths_.blob(job->file->digest).string() + ".part";
      if (!job->finished && fs::exists(part, error)) missing -= std::min(missing, job->file->size);
    }
    if (space.available < missing) {
      throw Error(
          fmt::format("{} needs {:.2f} GB more in {}, where {:.2f} GB are free; set HF_HUB_CACHE to another file "
                      "system",
                      repo_, static_cast<double>(missing) * 1e-9, paths_.root.string(),
                      static_cast<double>(space.available) * 1e-9));
    }
  }
  double told = 0;
  while (progress_.finished < progress_.files) {
    const double now = monotonic_seconds();
    while (transfers_.running() < static_cast<size_t>(options_.connections) && start_one(now)) {
    }
    transfers_.poll(50);
    if (failure_) std::rethrow_exception(failure_);
    take_verified();
    if (now - told < kTickSeconds) continue;
    told = now;
    update_progress();
    if (!tick(progress_)) throw Error("stopped; the same command goes on from here");
  }
  update_progress();
  tick(progress_);
}

}  // namespace

void fetch_blobs(Transfers& transfers, const HubSettings& hub, const std::string& repo, const std::string& commit,
                 const RepoCache& paths, const std::vector<RepoFile>& files, const FetchOptions& options,
                 const std::function<bool(const FetchProgress&)>& tick) {
  Fetch(transfers, hub, repo, commit, paths, files, options).run(tick);
}

}  // namespace sluice
