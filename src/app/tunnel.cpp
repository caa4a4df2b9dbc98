// SPDX-License-Identifier: Apache-2.0
#include "app/tunnel.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <thread>

#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"

namespace sluice {
namespace {
constexpr double kOpenSeconds = 60;  // a site may ask for a second factor

int free_port() {
  const int fd = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t length = sizeof address;
  const bool good = ::bind(fd, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0 &&
                    ::getsockname(fd, reinterpret_cast<sockaddr*>(&address), &length) == 0;
  ::close(fd);
  if (!good) throw Error("no free local port for a tunnel");
  return ntohs(address.sin_port);
}
}  // namespace

// Without a port the target is the path of a socket on `hop`.
Tunnel::Tunnel(const std::string& hop, const std::string& target_host, int target_port) : port_(free_port()) {
  const std::string forward = target_port == 0 ? fmt::format("127.0.0.1:{}:{}", port_, target_host)
                                               : fmt::format("127.0.0.1:{}:{}:{}", port_, target_host, target_port);
  const pid_t parent = ::getpid();
  pid_ = ::fork();
  if (pid_ < 0) throw Error("cannot start ssh: fork failed");
  if (pid_ == 0) {
    ::prctl(PR_SET_PDEATHSIG, SIGTERM);
    if (::getppid() != parent) ::_exit(1);
    sigset_t none;
    sigemptyset(&none);
    ::sigprocmask(SIG_SETMASK, &none, nullptr);
    ::signal(SIGINT, SIG_IGN);  // Ctrl-C stops an answer, not the tunnel; ssh leaves it ignored
    ::execlp("ssh", "ssh", "-N", "-o", "ExitOnForwardFailure=yes", "-o", "ServerAliveInterval=15", "-L",
             forward.c_str(), hop.c_str(), static_cast<char*>(nullptr));
    ::_exit(127);
  }
  for (const double end = monotonic_seconds() + kOpenSeconds; monotonic_seconds() < end;) {
    if (!alive()) throw Error(fmt::format("ssh to {} ended at once; the lines above say why", hop));
    try {
      ::close(connect_to(url(), 1));
      return;
    } catch (const Error&) {
      std::this_thread::sleep_for(std::chrono::milliseconds(200));
    }
  }
  throw Error(fmt::format("ssh to {} opened no tunnel within {:.0f} s", hop, kOpenSeconds));
}

Tunnel::~Tunnel() {
  if (pid_ <= 0) return;
  ::kill(pid_, SIGTERM);
  ::waitpid(pid_, nullptr, 0);
}

bool Tunnel::alive() {
  if (pid_ <= 0) return false;
  if (::waitpid(pid_, nullptr, WNOHANG) == 0) return true;
  pid_ = -1;
  return false;
}

Url Tunnel::url() const { return Url::parse(fmt::format("http://127.0.0.1:{}", port_)); }

Url Way::to(const JobView& job) {
  Url url = Url::parse(job.url);
  const std::string socket = job.url.starts_with("unix:") ? job.url.substr(5) : "";
  if (!socket.empty() && !via_.empty())
    throw Error(
        fmt::format("the server listens on a socket of {}, which {} cannot reach: leave --via out, and let ssh "
                    "jump (ProxyJump {} for {} in ~/.ssh/config)",
                    job.host, via_, via_, job.host));
  // Another node may hold a socket of the same name.
  const bool elsewhere = !socket.empty() && job.host != local_facts().host;
  if (via_.empty() && !elsewhere && reaches(url)) return url;
  forget(job);
  if (!tunnel_) {
    const std::string hop = via_.empty() ? job.host : via_;
    tunnel_ = !socket.empty() ? std::make_unique<Tunnel>(hop, socket, 0)
                              : std::make_unique<Tunnel>(hop, via_.empty() ? "127.0.0.1" : job.host, job.port);
    tunnel_for_ = job.url;
    log_info(fmt::format("tunnel over {} is open", hop));
  }
  return tunnel_->url();
}

void Way::forget(const JobView& job) {
  if (tunnel_ && (!tunnel_->alive() || tunnel_for_ != job.url)) tunnel_.reset();
}

bool Way::reaches(const Url& url) {
  if (url.text() == asked_) return direct_;
  asked_ = url.text();
  try {
    ::close(connect_to(url, 3));
    direct_ = true;
  } catch (const Error&) {
    direct_ = false;
  }
  return direct_;
}

}  // namespace sluice
