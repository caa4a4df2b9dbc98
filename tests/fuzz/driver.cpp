// SPDX-License-Identifier: Apache-2.0
// Runs a fuzz target without libFuzzer: every corpus file, then mutations of them, the same for the same seed.
//   TARGET_fuzz CORPUS_FOLDER_OR_FILE... [--count N] [--seed S] [--seconds T] [--dict FILE]
// An input that crashes, or takes longer than kSlow seconds, is written to ./finding-<target> before the process ends.
#include <fcntl.h>
#include <signal.h>
#include <sys/time.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <chrono>
#include <cstring>
#include <random>
#include <vector>

#include "base/file.h"
#include "base/log.h"
#include "fuzz/fuzz.h"

extern "C" void __sanitizer_set_death_callback(void (*callback)()) __attribute__((weak));

namespace {
namespace fs = std::filesystem;
using sluice::fuzz::demand;

constexpr time_t kSlow = 60;           // seconds of processor time for one input, sanitizers included
constexpr size_t kMaxInput = 1 << 20;  // bytes of a mutated input

std::string input, finding_path;

// Async-signal-safe: called in a crashing process.
void keep_input() {
  const int fd = ::open(finding_path.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0644);
  if (fd < 0) return;
  (void)!::write(fd, input.data(), input.size());
  ::close(fd);
  for (std::string_view part :
       {std::string_view("the input is in "), std::string_view(finding_path), std::string_view("\n")})
    (void)!::write(2, part.data(), part.size());
}
void on_signal(int number) {
  if (number == SIGPROF) (void)!::write(2, "finding: too slow\n", 18);
  keep_input();
  ::signal(number, SIG_DFL);
  ::raise(number);
}

void limit(time_t seconds) {
  const itimerval timer{{}, {seconds, 0}};
  ::setitimer(ITIMER_PROF, &timer, nullptr);
}
void run_input() {
  limit(kSlow);
  LLVMFuzzerTestOneInput(reinterpret_cast<const uint8_t*>(input.data()), input.size());
  limit(0);
}

// Lines of libFuzzer's dictionaries: [name=]"bytes with \xNN, \\ and \"".
std::vector<std::string> read_dictionary(const fs::path& path) {
  std::vector<std::string> out;
  const std::string text = sluice::read_file(path);
  for (size_t begin = 0; begin < text.size();) {
    size_t end = std::min(text.find('\n', begin), text.size());
    const std::string line = text.substr(begin, end - begin);
    begin = end + 1;
    const size_t open = line.find('"'), close = line.rfind('"');
    if (line.empty() || line[0] == '#' || open == close) continue;
    std::string token;
    for (size_t i = open + 1; i < close; ++i) {
      if (line[i] == '\\' && line[i + 1] == 'x' && i + 3 < close) {
        token += static_cast<char>(std::stoi(line.substr(i + 2, 2), nullptr, 16));
        i += 3;
      } else {
        if (line[i] == '\\') ++i;
        token += line[i];
      }
    }
    out.push_back(token);
  }
  return out;
}

class Mutator {
 public:
  Mutator(uint64_t seed, const std::vector<std::string>& corpus, const std::vector<std::string>& dictionary)
      : random_(seed), corpus_(corpus), dictionary_(dictionary) {}

  void next(std::string& bytes) {
    bytes = corpus_[below(corpus_.size())];
    for (size_t edits = 1 + below(below(4) == 0 ? 16 : 4); edits > 0; --edits) edit(bytes);
    if (bytes.size() > kMaxInput) bytes.resize(kMaxInput);
  }

 private:
  size_t below(size_t n) { return n == 0 ? 0 : static_cast<size_t>(random_() % n); }
  void edit(std::string& bytes) {
    const size_t at = below(bytes.size() + 1);
    const size_t left = bytes.size() - at;
    const size_t span = std::min(left, below(4) == 0 ? below(left + 1) : 1 + below(16));
    switch (below(10)) {
      case 0:
        if (left > 0) bytes[at] = static_cast<char>(bytes[at] ^ (1 << below(8)));
        break;
      case 1:
        if (left > 0) bytes[at] = static_cast<char>(random_());
        break;
      case 2:
        bytes.erase(at, span);
        break;
      case 3:  // the same again, sometimes often enough to nest deeply
        for (size_t times = below(64) == 0 ? 1 + below(2000) : 1; times > 0 && bytes.size() < kMaxInput; --times)
          bytes.insert(at, bytes.substr(at, span));
        break;
      case 4: {  // the head of this with the tail of another
        const std::string& other = corpus_[below(corpus_.size())];
        bytes = bytes.substr(0, at) + other.substr(below(other.size() + 1));
        break;
      }
      case 5: {  // a piece of another
        const std::string& other = corpus_[below(corpus_.size())];
        bytes.insert(at, other, below(other.size() + 1), below(64));
        break;
      }
      case 6:
        edit_number(bytes, at);
        break;
      case 7:  // a binary length
        if (left >= 4) {
          static constexpr uint32_t kEdges[] = {0, 1, 127, 128, 255, 256, 65535, 0x7fffffff, 0x80000000, 0xffffffff};
          uint32_t value;
          std::memcpy(&value, bytes.data() + at, 4);
          value = below(2) == 0 ? kEdges[below(std::size(kEdges))] : value + static_cast<uint32_t>(below(5)) - 2;
          std::memcpy(bytes.data() + at, &value, 4);
        }
        break;
      default:
        if (dictionary_.empty()) break;
        if (below(2) == 0) bytes.erase(at, span);
        bytes.insert(at, dictionary_[below(dictionary_.size())]);
        break;
    }
  }
  void edit_number(std::string& bytes, size_t at) {
    size_t begin = bytes.find_first_of("0123456789", at);
    if (begin == std::string::npos) return;
    size_t end = bytes.find_first_not_of("0123456789", begin);
    if (end == std::string::npos) end = bytes.size();
    static constexpr const char* kNumbers[] = {"0",
                                               "-1",
                                               "1",
                                               "00",
                                               "2147483647",
                                               "2147483648",
                                               "-2147483649",
                                               "4294967296",
                                               "9223372036854775807",
                                               "9223372036854775808",
                                               "-9223372036854775808",
                                               "18446744073709551615",
                                               "18446744073709551616",
                                               "1e400",
                                               "-1e-400",
                                               "0.5",
                                               "1e9",
                                               "99999999999999999999999999",
                                               "NaN"};
    bytes.replace(begin, end - begin, kNumbers[below(std::size(kNumbers))]);
  }

  std::mt19937_64 random_;
  const std::vector<std::string>& corpus_;
  const std::vector<std::string>& dictionary_;
};

int64_t number(const char* text) {
  int64_t value = 0;
  const auto [end, error] = std::from_chars(text, text + std::strlen(text), value);
  demand(error == std::errc() && *end == '\0' && value >= 0, "expected a number after --count, --seed or --seconds");
  return value;
}

}  // namespace

int main(int argc, char** argv) {
  int64_t count = 2000, seed = 1, seconds = 0;
  std::vector<fs::path> files;
  std::vector<std::string> dictionary;
  for (int i = 1; i < argc; ++i) {
    const std::string_view option = argv[i];
    if (!option.starts_with("--")) {
      if (fs::is_directory(option)) {
        for (const auto& item : fs::directory_iterator(option)) files.push_back(item.path());
      } else {
        files.emplace_back(option);
      }
      continue;
    }
    demand(i + 1 < argc, "an option lacks its value");
    const char* value = argv[++i];
    if (option == "--count") {
      count = number(value);
    } else if (option == "--seed") {
      seed = number(value);
    } else if (option == "--seconds") {
      seconds = number(value);
    } else if (option == "--dict") {
      dictionary = read_dictionary(value);
    } else {
      demand(false, "known options are --count, --seed, --seconds and --dict");
    }
  }
  demand(!files.empty(), "no corpus; name a folder or files");
  sluice::set_log_level(sluice::LogLevel::kError);
  finding_path = "finding-" + fs::path(argv[0]).filename().string();
  if (__sanitizer_set_death_callback != nullptr) __sanitizer_set_death_callback(keep_input);
  for (const int caught : {SIGABRT, SIGPROF}) ::signal(caught, on_signal);
  if (__sanitizer_set_death_callback == nullptr)
    for (const int caught : {SIGSEGV, SIGBUS, SIGFPE, SIGILL}) ::signal(caught, on_signal);

  std::sort(files.begin(), files.end());
  std::vector<std::string> corpus;
  for (const fs::path& file : files) {
    corpus.push_back(sluice::read_file(file));
    input = corpus.back();
    run_input();
  }
  Mutator mutator(static_cast<uint64_t>(seed), corpus, dictionary);
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(seconds);
  int64_t done = 0;
  for (; seconds > 0 ? std::chrono::steady_clock::now() < end : done < count; ++done) {
    mutator.next(input);
    run_input();
  }
  std::printf("%zu corpus files, %lld mutations, no finding\n", corpus.size(), static_cast<long long>(done));
  return 0;
}
