// SPDX-License-Identifier: Apache-2.0
// Line editing with history over libedit.
#include <fcntl.h>
#include <fmt/format.h>
#include <histedit.h>
#include <langinfo.h>
#include <poll.h>
#include <unistd.h>

#include <cerrno>
#include <clocale>
#include <cstdio>
#include <cstring>
#include <cwchar>
#include <utility>

#include "base/log.h"
#include "chat/line_source.h"

namespace sluice {
namespace {
constexpr int kHistoryLines = 1000;
constexpr const char* kPasteBegins = "\033[200~";
constexpr const wchar_t* kPasteEnds = L"\033[201~";

// libedit shows what is typed in the locale's encoding; a job's environment often names none.
void use_utf8() {
  std::setlocale(LC_CTYPE, "");
  for (const char* name : {"C.UTF-8", "C.utf8", "en_US.UTF-8"}) {
    if (std::strcmp(nl_langinfo(CODESET), "UTF-8") == 0) return;
    std::setlocale(LC_CTYPE, name);
  }
}

class EditedLines : public LineSource {
 public:
  EditedLines(int wake, std::filesystem::path history, std::vector<std::string> words)
      : wake_(wake), path_(std::move(history)), words_(std::move(words)) {
    use_utf8();
    history_ = ::history_init();
    HistEvent event;
    ::history(history_, &event, H_SETSIZE, kHistoryLines);
    ::history(history_, &event, H_SETUNIQUE, 1);
    load_history();
    editor_ = ::el_init("sluice", stdin, stdout, stderr);
    ::el_set(editor_, EL_CLIENTDATA, this);
    ::el_set(editor_, EL_EDITOR, "emacs");
    ::el_set(editor_, EL_PROMPT, &show_prompt);
    ::el_set(editor_, EL_HIST, ::history, history_);
    ::el_set(editor_, EL_GETCFN, &next_character);
    // Wide: el_set() would copy the names and never free them.
    ::el_wset(editor_, EL_ADDFN, L"sluice-paste", L"Insert a pasted text", &paste);
    ::el_wset(editor_, EL_ADDFN, L"sluice-newline", L"Insert a line feed", &newline);
    ::el_wset(editor_, EL_ADDFN, L"sluice-complete", L"Complete a command", &complete);
    const std::pair<const char*, const char*> keys[] = {
        {kPasteBegins, "sluice-paste"}, {"\\e^M", "sluice-newline"},       {"\\e^J", "sluice-newline"},
        {"^I", "sluice-complete"},      {"^R", "em-inc-search-prev"},      {"^W", "ed-delete-prev-word"},
        {"^U", "vi-kill-line-prev"},    {"\\e[3~", "ed-delete-next-char"}, {"\\e[1~", "ed-move-to-beg"},
        {"\\e[4~", "ed-move-to-end"},   {"\\e[H", "ed-move-to-beg"},       {"\\e[F", "ed-move-to-end"},
        {"\\e[1;5C", "em-next-word"},   {"\\e[1;5D", "ed-prev-word"},      {"\\e[1;3C", "em-next-word"},
        {"\\e[1;3D", "ed-prev-word"},
    };
    for (const auto& [key, function] : keys) ::el_set(editor_, EL_BIND, key, function, nullptr);
  }
  ~EditedLines() override {
    ::el_end(editor_);
    ::history_end(history_);
  }

  Outcome read(const std::string& prompt, std::string& line) override {
    prompt_ = prompt;
    ended_ = interrupted_ = false;
    say("\033[?2004h");                  // pasted texts come marked
    ::el_set(editor_, EL_PREP_TERM, 1);  // el_gets shows the prompt first and would lose a quick key
    int length = 0;
    const char* typed = ::el_gets(editor_, &length);
    say("\033[?2004l");
    if (interrupted_) {
      say("\n");
      return Outcome::kInterrupted;
    }
    if (typed == nullptr || length <= 0) {
      say("\n");
      return Outcome::kEnd;
    }
    line.assign(typed, static_cast<size_t>(length));
    while (!line.empty() && (line.back() == '\n' || line.back() == '\r')) line.pop_back();
    return Outcome::kLine;
  }

  void remember(const std::string& entry) override {
    HistEvent event;
    if (::history(history_, &event, H_ENTER, entry.c_str()) < 0 || path_.empty()) return;
    const int fd = ::open(path_.c_str(), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
    std::FILE* file = fd < 0 ? nullptr : ::fdopen(fd, "a");
    if (file == nullptr) {
      log_warning(fmt::format("{}: the history is not kept: {}", path_.string(), std::strerror(errno)));
      path_.clear();
      return;
    }
    std::fseek(file, 0, SEEK_END);    // libedit heads an empty file alone
    History* one = ::history_init();  // H_NSAVE_FP writes more than was asked for
    ::history(one, &event, H_SETSIZE, 1);
    ::history(one, &event, H_ENTER, entry.c_str());
    ::history(one, &event, H_SAVE_FP, file);
    ::history_end(one);
    std::fclose(file);
  }

 private:
  static EditedLines& self(EditLine* editor) {
    void* pointer = nullptr;
    ::el_get(editor, EL_CLIENTDATA, &pointer);
    return *static_cast<EditedLines*>(pointer);
  }
  static char* show_prompt(EditLine* editor) { return self(editor).prompt_.data(); }

  static void say(const char* text) {
    std::fputs(text, stdout);
    std::fflush(stdout);
  }

  void load_history() {
    if (path_.empty() || !std::filesystem::exists(path_)) return;
    HistEvent event;
    if (::history(history_, &event, H_LOAD, path_.c_str()) < 2 * kHistoryLines) return;
    const int fd = ::open(path_.c_str(), O_WRONLY | O_TRUNC | O_CLOEXEC);
    std::FILE* file = fd < 0 ? nullptr : ::fdopen(fd, "w");
    if (file == nullptr) return;
    ::history(history_, &event, H_SAVE_FP, file);
    std::fclose(file);
  }

  // One byte of standard input; -1 at its end or when the wait shall end.
  int byte() {
    for (;;) {
      pollfd wait[2] = {{STDIN_FILENO, POLLIN, 0}, {wake_, POLLIN, 0}};
      if (::poll(wait, 2, -1) < 0) continue;
      if (wait[1].revents != 0) {
        interrupted_ = true;
        return -1;
      }
      if (wait[0].revents == 0) continue;
      unsigned char c = 0;
      const ssize_t n = ::read(STDIN_FILENO, &c, 1);
      if (n < 0 && errno == EINTR) continue;
      if (n == 1) return c;
      ended_ = true;
      return -1;
    }
  }
  // UTF-8 whatever the locale; bytes that are none become U+FFFD.
  static int next_character(EditLine* editor, wchar_t* out) {
    EditedLines& me = self(editor);
    const int first = me.byte();
    if (first < 0) return me.interrupted_ ? -1 : 0;
    const int more = first < 0x80 ? 0 : first >= 0xf0 ? 3 : first >= 0xe0 ? 2 : first >= 0xc0 ? 1 : -1;
    if (more < 0 || first > 0xf7) {
      *out = 0xfffd;
      return 1;
    }
    int code = more == 0 ? first : first & (0x3f >> more);
    for (int i = 0; i < more; ++i) {
      const int next = me.byte();
      if (next < 0) return me.interrupted_ ? -1 : 0;
      code = (code << 6) | (next & 0x3f);
    }
    *out = code;
    return 1;
  }

  static unsigned char paste(EditLine* editor, wint_t) {
    std::wstring text;
    const std::wstring end = kPasteEnds;
    wchar_t c = 0;
    while (!text.ends_with(end)) {
      if (next_character(editor, &c) != 1) return CC_EOF;
      text += c == L'\r' ? L'\n' : c;
    }
    text.resize(text.size() - end.size());
    while (text.ends_with(L'\n')) text.pop_back();
    return insert(editor, text);
  }
  static unsigned char newline(EditLine* editor, wint_t) { return insert(editor, L"\n"); }
  static unsigned char insert(EditLine* editor, const std::wstring& text) {
    return ::el_winsertstr(editor, text.c_str()) == 0 || text.empty() ? CC_REFRESH : CC_ERROR;
  }

  static unsigned char complete(EditLine* editor, wint_t) {
    const LineInfo* info = ::el_line(editor);
    const std::string typed(info->buffer, info->cursor);
    std::string rest;
    size_t found = 0;
    for (const std::string& word : self(editor).words_) {
      if (typed.empty() || !word.starts_with(typed)) continue;
      const std::string tail = word.substr(typed.size());
      if (found++ == 0) {
        rest = tail;
      } else {
        size_t same = 0;
        while (same < rest.size() && same < tail.size() && rest[same] == tail[same]) ++same;
        rest.resize(same);
      }
    }
    if (found == 1) rest += ' ';
    if (rest.empty()) return CC_REFRESH_BEEP;
    return ::el_insertstr(editor, rest.c_str()) == 0 ? CC_REFRESH : CC_ERROR;
  }

  const int wake_;
  std::filesystem::path path_;
  const std::vector<std::string> words_;
  std::string prompt_;
  bool ended_ = false, interrupted_ = false;
  EditLine* editor_ = nullptr;
  History* history_ = nullptr;
};

}  // namespace

std::unique_ptr<LineSource> edited_lines(int wake, const std::filesystem::path& history,
                                         std::vector<std::string> words) {
  return std::make_unique<EditedLines>(wake, history, std::move(words));
}

}  // namespace sluice
