// SPDX-License-Identifier: Apache-2.0
#include "control/control.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <utility>

#include "base/error.h"
#include "cluster/endpoint.h"
#include "control/formation.h"
#include "control/io_thread.h"
#include "control/peers.h"
#include "control/wire.h"

namespace sluice {
namespace {

std::string_view text(const std::vector<std::byte>& bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

// Messages that have arrived and wait for next(). A ring whose vectors keep their storage.
class Inbox {
 public:
  explicit Inbox(size_t room) : slots_(room) {}
  bool empty() const { return count_ == 0; }
  bool full() const { return count_ == slots_.size(); }
  void push(std::vector<std::byte>& message) {
    if (full()) {
      std::rotate(slots_.begin(), slots_.begin() + static_cast<std::ptrdiff_t>(first_), slots_.end());
      first_ = 0;
      slots_.resize(2 * slots_.size());
    }
    slots_[(first_ + count_++) % slots_.size()].swap(message);
  }
  void pop(std::vector<std::byte>& message) {
    message.swap(slots_[first_]);
    first_ = (first_ + 1) % slots_.size();
    --count_;
  }

 private:
  std::vector<std::vector<std::byte>> slots_;
  size_t first_ = 0, count_ = 0;
};

// Addresses of this host that its connections have shown to work.
std::vector<std::string> proven_addresses(const std::vector<Socket>& sockets) {
  std::vector<std::string> out;
  for (const Socket& socket : sockets) {
    if (!socket) continue;
    const auto where = parse_host_port(own_name(socket.fd()));
    if (where && std::ranges::find(out, where->first) == out.end()) out.push_back(where->first);
  }
  return out;
}

}  // namespace

class ControlPlane::Impl {
 public:
  Impl(const ControlOptions& options, const Launch& launch, const Hello& mine, RunIdentity identity, Formed formed)
      : launch_(launch), identity_(std::move(identity)), options_(options), mine_(mine) {
    hellos_ = formed.hellos;
    addresses_ = proven_addresses(formed.sockets);
    parts_.resize(hellos_.size());
    if (hellos_.size() == 1) return;
    IoThread::Handlers handlers{
        .frame = [this](int from, FrameType type, auto& payload, bool must) { return take(from, type, payload, must); },
        .goodbye = [this](int from) { goodbye(from); },
        .lost = [this](const std::string& reason) { on_lost(reason); }};
    io_ = std::make_unique<IoThread>(options, std::move(formed), mine, kBacklog, std::move(handlers));
  }

  int rank() const { return mine_.place.rank; }
  bool alone() const { return hellos_.size() == 1; }

  void broadcast(std::span<const std::byte> message) {
    check(rank() == 0, "only rank 0 broadcasts");
    check(message.size() <= kMaxMessage, "a broadcast message is too long");
    if (!alone() && io_->outbox().put_message(message)) io_->wake();
  }

  bool next(std::vector<std::byte>& message) {
    check(rank() != 0, "rank 0 has no messages to wait for");
    bool starved;
    {
      std::unique_lock lock(mutex_);
      arrived_.wait(lock, [&] { return !inbox_.empty() || departed_ || !reason_.empty(); });
      if (!reason_.empty() || inbox_.empty()) return false;
      inbox_.pop(message);
      starved = std::exchange(starved_, false);
    }
    if (starved) io_->wake();
    return true;
  }

  std::vector<std::string> all_gather(std::string_view what, std::string_view mine, double seconds) {
    check(mine.size() <= kMaxPart, "one rank's part of an exchange is too long");
    if (alone()) return {std::string(mine)};
    return rank() == 0 ? collect(what, mine, seconds) : contribute(what, mine, seconds);
  }

  void abort(std::string_view reason) noexcept {
    if (alone()) return;
    io_->abort(reason);
    // The calling thread may have failed while it held the lock.
    std::unique_lock lock(mutex_, std::try_to_lock);
    if (lock) end(reason);
  }

  void leave(double seconds) {
    if (!alone()) io_->leave(seconds);
    std::lock_guard lock(mutex_);
    departed_ = true;
    arrived_.notify_all();
  }

  std::string reason() const {
    std::lock_guard lock(mutex_);
    return reason_;
  }

  std::vector<Hello> hellos_;
  const Launch launch_;
  const RunIdentity identity_;
  std::vector<std::string> addresses_;

 private:
  struct Part {
    uint32_t number = 0;  // of the exchange
    std::string what, bytes;
  };

  // --- on the I/O thread ---

  bool take(int from, FrameType type, std::vector<std::byte>& payload, bool must_take) {
    std::lock_guard lock(mutex_);
    if (type == FrameType::kMessage && rank() != 0) {
      if (inbox_.full() && !must_take) {
        starved_ = true;
        return false;
      }
      inbox_.push(payload);
      arrived_.notify_one();
    } else if (type == FrameType::kExchanged && rank() != 0) {
      ByteReader reader(text(payload));
      result_number_ = reader.u32();
      result_ = reader.rest();
      exchanged_.notify_all();
    } else if (type == FrameType::kExchange && rank() == 0) {
      ByteReader reader(text(payload));
      Part& part = parts_[static_cast<size_t>(from)];
      part.number = reader.u32();
      part.what = reader.string();
      part.bytes = reader.rest();
      exchanged_.notify_all();
    }
    return true;
  }

  void goodbye(int) {
    if (rank() == 0) return;
    std::lock_guard lock(mutex_);
    departed_ = true;
    arrived_.notify_all();
    exchanged_.notify_all();
  }

  void on_lost(const std::string& reason) {
    {
      std::lock_guard lock(mutex_);
      end(reason);
    }
    if (options_.exit_seconds > 0) {
      // The record may lie on a file system that hangs; the process must not.
      std::thread([seconds = options_.exit_seconds] {
        std::this_thread::sleep_for(std::chrono::duration<double>(seconds));
        ::_exit(ControlOptions::kExitLost);
      }).detach();
    }
    if (options_.on_lost) options_.on_lost(reason);
  }

  void end(std::string_view reason) {  // with the lock held
    if (reason_.empty()) reason_ = reason.empty() ? "no reason given" : reason;
    arrived_.notify_all();
    exchanged_.notify_all();
  }

  // --- exchanges, on the calling thread ---

  std::vector<std::string> collect(std::string_view what, std::string_view mine, double seconds) {
    const uint32_t number = ++exchange_number_;
    std::vector<std::string> out{std::string(mine)}, absent, astray;
    std::string failure;
    {
      std::unique_lock lock(mutex_);
      const auto everyone = [&] {
        for (size_t r = 1; r < parts_.size(); ++r)
          if (parts_[r].number != number) return false;
        return true;
      };
      exchanged_.wait_for(lock, std::chrono::duration<double>(seconds), [&] { return !reason_.empty() || everyone(); });
      if (!reason_.empty() && !everyone()) throw Error(reason_);
      for (size_t r = 1; r < parts_.size(); ++r) {
        if (parts_[r].number != number) {
          absent.push_back(to_string(hellos_[r]));
        } else if (parts_[r].what != what) {
          astray.push_back(fmt::format("{} at '{}'", to_string(hellos_[r]), parts_[r].what));
        } else {
          out.push_back(std::move(parts_[r].bytes));
        }
      }
    }
    if (!absent.empty())
      failure = fmt::format("{}: waited {:g} s; not there: {}", what, seconds, fmt::join(absent, ", "));
    else if (!astray.empty())
      failure = fmt::format("{}: rank 0 is there, but {}", what, fmt::join(astray, ", "));
    std::string payload;
    put_u32(payload, number);
    put_u32(payload, failure.empty() ? 1 : 0);
    if (failure.empty())
      for (const auto& part : out) put_string(payload, part);
    else
      put_string(payload, failure);
    if (io_->outbox().put_control(FrameType::kExchanged, payload)) io_->wake();
    if (!failure.empty()) throw Error(failure);
    return out;
  }

  std::vector<std::string> contribute(std::string_view what, std::string_view mine, double seconds) {
    const uint32_t number = ++exchange_number_;
    std::string payload;
    put_u32(payload, number);
    put_string(payload, what.substr(0, 512));
    payload += mine;
    if (io_->outbox().put_control(FrameType::kExchange, payload)) io_->wake();
    std::string result;
    {
      std::unique_lock lock(mutex_);
      // Rank 0 decides about the deadline; the margin covers a rank 0 that arrives late itself.
      const bool done = exchanged_.wait_for(lock, std::chrono::duration<double>(2 * seconds + 5),
                                            [&] { return !reason_.empty() || departed_ || result_number_ >= number; });
      if (!reason_.empty() && result_number_ < number) throw Error(reason_);
      if (!done || result_number_ < number)
        throw Error(fmt::format("{}: rank 0 {}", what, departed_ ? "has left" : "did not come in time"));
      result = result_;
    }
    ByteReader reader(result);
    const bool good = reader.u32() == 1;
    if (!good) throw Error(std::string(reader.string()));
    std::vector<std::string> out;
    for (size_t r = 0; r < hellos_.size(); ++r) out.emplace_back(reader.string());
    check(reader.ok(), "rank 0 sent an exchange that cannot be read");
    return out;
  }

  const ControlOptions options_;
  const Hello mine_;
  mutable std::mutex mutex_;
  std::condition_variable arrived_, exchanged_;
  Inbox inbox_{kBacklog};
  bool starved_ = false;     // a message was refused for want of room
  bool departed_ = false;    // rank 0 said goodbye, or this rank has left
  std::string reason_;       // why the run is lost; empty while it is not
  std::vector<Part> parts_;  // rank 0: what each rank last contributed
  std::string result_;       // other ranks: the last exchange's outcome
  uint32_t result_number_ = 0;
  uint32_t exchange_number_ = 0;  // of the calling thread
  std::unique_ptr<IoThread> io_;  // last: its thread uses everything above
};

ControlPlane::ControlPlane() = default;
ControlPlane::~ControlPlane() = default;

std::unique_ptr<ControlPlane> ControlPlane::form(const ControlOptions& options, const Launch& launch,
                                                 const Hello& mine) {
  check(mine.place.rank == launch.rank && mine.world == launch.world, "the hello differs from the launch");
  Formed formed;
  RunIdentity identity;
  if (launch.world == 1) {
    formed.hellos = {mine};
  } else {
    if (!options.rendezvous.empty() && !parse_host_port(options.rendezvous))
      throw Error(fmt::format("--rendezvous: expected HOST:PORT, found '{}'", options.rendezvous));
    if (launch.run_id.empty())
      throw Error("several ranks but no common id of their run; start them with srun or mpirun");
    identity = {fmt::format("{}.{}", launch.run_id, launch.restart_count), user_secret(options.home)};
    formed =
        launch.rank == 0 ? gather_ranks(options, launch, mine, identity) : join_rank0(options, launch, mine, identity);
  }
  std::unique_ptr<ControlPlane> plane(new ControlPlane);
  plane->impl_ = std::make_unique<Impl>(options, launch, mine, std::move(identity), std::move(formed));
  return plane;
}

int ControlPlane::rank() const { return impl_->rank(); }
int ControlPlane::size() const { return static_cast<int>(impl_->hellos_.size()); }
const std::vector<Hello>& ControlPlane::hellos() const { return impl_->hellos_; }
void ControlPlane::broadcast(std::span<const std::byte> message) { impl_->broadcast(message); }
bool ControlPlane::next(std::vector<std::byte>& message) { return impl_->next(message); }
std::vector<std::string> ControlPlane::all_gather(std::string_view what, std::string_view mine, double seconds) {
  return impl_->all_gather(what, mine, seconds);
}
void ControlPlane::barrier(std::string_view what, double seconds) { impl_->all_gather(what, {}, seconds); }
std::vector<Socket> ControlPlane::connect_peers(double seconds) {
  if (size() == 1) return std::vector<Socket>(1);
  return sluice::connect_peers(*this, impl_->identity_, impl_->launch_, impl_->addresses_, seconds);
}
void ControlPlane::abort(std::string_view reason) noexcept { impl_->abort(reason); }
void ControlPlane::leave(double seconds) { impl_->leave(seconds); }
std::string ControlPlane::reason() const { return impl_->reason(); }
bool ControlPlane::lost() const { return !impl_->reason().empty(); }

}  // namespace sluice
