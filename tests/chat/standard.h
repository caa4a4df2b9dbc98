// SPDX-License-Identifier: Apache-2.0
// Standard input, output and error of this process as files, while one of these lives.
#pragma once

#include <doctest/doctest.h>
#include <fcntl.h>
#include <unistd.h>

#include <cstdio>
#include <fstream>
#include <iterator>
#include <string>

#include "cluster/folder.h"

class Standard {
 public:
  explicit Standard(const std::string& input) {
    std::ofstream(folder_.path / "0") << input;
    for (int fd = 0; fd < 3; ++fd) {
      kept_[fd] = ::dup(fd);
      std::fflush(nullptr);
      const std::string path = (folder_.path / std::to_string(fd)).string();
      const int file = ::open(path.c_str(), fd == 0 ? O_RDONLY : O_WRONLY | O_CREAT | O_TRUNC, 0600);
      ::dup2(file, fd);
      ::close(file);
    }
  }
  ~Standard() { end(); }
  void end() {
    std::fflush(nullptr);
    for (int fd = 0; fd < 3; ++fd) {
      if (kept_[fd] < 0) continue;
      ::dup2(kept_[fd], fd);
      ::close(kept_[fd]);
      kept_[fd] = -1;
    }
  }
  // What was written so far; ends the redirection, so that a failed check can be read.
  std::string output() { return text("1"); }
  std::string errors() { return text("2"); }

 private:
  std::string text(const char* name) {
    end();
    std::ifstream file(folder_.path / name);
    return {std::istreambuf_iterator<char>(file), {}};
  }
  const TestFolder folder_;
  int kept_[3] = {-1, -1, -1};
};
