// SPDX-License-Identifier: Apache-2.0
#include "comm/thread_groups.h"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <mutex>

#include "base/error.h"
#include "comm/sum.h"

namespace sluice {
namespace {

// Of no bytes, both places may be null.
void copy(void* to, const void* from, size_t bytes) {
  if (bytes > 0) std::memcpy(to, from, bytes);
}

// What the threads of one group share. A collective is: publish, meet, read the others' data, meet.
class Meeting {
 public:
  explicit Meeting(int size)
      : size_(size), parts_(static_cast<size_t>(size)), lengths_(parts_.size()), slices_(parts_.size()) {
    channels_ = std::vector<Channel>(parts_.size() * parts_.size());
  }
  int size() const { return size_; }

  // Returns when all ranks of the group have called it; what they wrote before is then visible.
  void meet() {
    const uint32_t round = round_.load(std::memory_order_acquire);
    if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 < size_) {
      round_.wait(round, std::memory_order_acquire);
      return;
    }
    arrived_.store(0, std::memory_order_relaxed);
    round_.store(round + 1, std::memory_order_release);
    round_.notify_all();
  }

  void publish(int rank, const void* data, size_t bytes) {
    parts_[static_cast<size_t>(rank)] = data;
    lengths_[static_cast<size_t>(rank)] = bytes;
    meet();
    check(lengths_[static_cast<size_t>(rank)] == lengths_[0], "ranks disagree about the length of a collective");
  }
  const void* part(int rank) const { return parts_[static_cast<size_t>(rank)]; }

  // A rank's slice of the sum: its own to write after the others have published, theirs to read after the next meeting.
  std::vector<float>& slice(int rank) { return slices_[static_cast<size_t>(rank)]; }

  void put(int from, int to, const void* data, size_t bytes) {
    Channel& channel = channel_of(from, to);
    const auto* begin = static_cast<const std::byte*>(data);
    {
      std::lock_guard lock(channel.mutex);
      channel.messages.emplace_back(begin, begin + bytes);
    }
    channel.filled.notify_one();
  }
  void take(int from, int to, void* data, size_t bytes) {
    Channel& channel = channel_of(from, to);
    std::unique_lock lock(channel.mutex);
    channel.filled.wait(lock, [&] { return !channel.messages.empty(); });
    const std::vector<std::byte> message = std::move(channel.messages.front());
    channel.messages.pop_front();
    lock.unlock();
    if (message.size() != bytes)
      fatal(fmt::format("recv from rank {}: expected {} bytes, found {}", from, bytes, message.size()));
    copy(data, message.data(), bytes);
  }

 private:
  struct Channel {
    std::mutex mutex;
    std::condition_variable filled;
    std::deque<std::vector<std::byte>> messages;
  };
  Channel& channel_of(int from, int to) {
    check(from >= 0 && from < size_ && to >= 0 && to < size_ && from != to,
          "send or recv with a rank outside the group");
    return channels_[static_cast<size_t>(from * size_ + to)];
  }

  const int size_;
  std::atomic<int> arrived_ = 0;
  std::atomic<uint32_t> round_ = 0;
  std::vector<const void*> parts_;
  std::vector<size_t> lengths_;
  std::vector<std::vector<float>> slices_;
  std::vector<Channel> channels_;
};

class ThreadCommunicator final : public Communicator {
 public:
  ThreadCommunicator(std::shared_ptr<Meeting> meeting, int rank) : meeting_(std::move(meeting)), rank_(rank) {}
  int rank() const override { return rank_; }
  int size() const override { return meeting_->size(); }

  void all_reduce(const Tensor& inout) override {
    check(inout.dtype == DType::kF32 && inout.contiguous(), "all_reduce takes a contiguous float32 tensor");
    const auto n = static_cast<size_t>(inout.elements()), ranks = static_cast<size_t>(size());
    const auto start = [&](int rank) { return n * static_cast<size_t>(rank) / ranks; };
    meeting_->publish(rank_, inout.data, inout.bytes());
    std::vector<const float*> parts;
    for (int r = 0; r < size(); ++r) parts.push_back(static_cast<const float*>(meeting_->part(r)) + start(rank_));
    std::vector<float>& mine = meeting_->slice(rank_);
    mine.resize(start(rank_ + 1) - start(rank_));
    sum_in_rank_order(mine.data(), parts, mine.size());
    meeting_->meet();
    for (int r = 0; r < size(); ++r) std::ranges::copy(meeting_->slice(r), static_cast<float*>(inout.data) + start(r));
  }

  void all_gather(const Tensor& out, const Tensor& in) override {
    check(out.dtype == in.dtype && out.elements() == in.elements() * size() && out.contiguous() && in.contiguous(),
          "all_gather takes contiguous tensors of one dtype, the output `size` times as long as the input");
    // In place: the input may be this rank's part of the output, which nobody else's part overlaps.
    meeting_->publish(rank_, in.data, in.bytes());
    for (int r = 0; r < size(); ++r) {
      char* to = static_cast<char*>(out.data) + static_cast<size_t>(r) * in.bytes();
      if (to != meeting_->part(r)) copy(to, meeting_->part(r), in.bytes());
    }
    meeting_->meet();
  }

  void broadcast(const Tensor& inout, int root) override {
    check(inout.contiguous() && root >= 0 && root < size(),
          "broadcast takes a contiguous tensor and a rank of the group");
    meeting_->publish(rank_, inout.data, inout.bytes());
    if (rank_ != root) copy(inout.data, meeting_->part(root), inout.bytes());
    meeting_->meet();
  }

  void send(const Tensor& data, int to) override {
    check(data.contiguous(), "send takes a contiguous tensor");
    meeting_->put(rank_, to, data.data, data.bytes());
  }
  void recv(const Tensor& data, int from) override {
    check(data.contiguous(), "recv takes a contiguous tensor");
    meeting_->take(from, rank_, data.data, data.bytes());
  }

 private:
  std::shared_ptr<Meeting> meeting_;
  int rank_;
};

}  // namespace

std::vector<Groups> make_thread_groups(int tp, int pp) {
  check(tp >= 1 && pp >= 1, "make_thread_groups takes positive sizes");
  auto world = std::make_shared<Meeting>(tp * pp);
  std::vector<std::shared_ptr<Meeting>> stages, pipelines;
  for (int stage = 0; stage < pp; ++stage) stages.push_back(std::make_shared<Meeting>(tp));
  for (int i = 0; i < tp; ++i) pipelines.push_back(std::make_shared<Meeting>(pp));
  std::vector<Groups> groups;
  for (int rank = 0; rank < tp * pp; ++rank) {
    const int stage = rank / tp, tp_rank = rank % tp;
    groups.push_back({std::make_unique<ThreadCommunicator>(world, rank),
                      std::make_unique<ThreadCommunicator>(stages[static_cast<size_t>(stage)], tp_rank),
                      std::make_unique<ThreadCommunicator>(pipelines[static_cast<size_t>(tp_rank)], stage)});
  }
  return groups;
}

}  // namespace sluice
