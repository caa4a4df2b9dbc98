// SPDX-License-Identifier: Apache-2.0
#include "weights/staging.h"

#include <fmt/format.h>

#include <algorithm>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <exception>
#include <mutex>
#include <optional>
#include <system_error>
#include <thread>

#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include "weights/convert.h"
#include "weights/random_fill.h"
#include "weights/staging_ring.h"

namespace sluice {
namespace {
// Unwanted bytes between two rows that are read through rather than skipped: what the system's read-ahead fetches
// anyway.
constexpr uint64_t kReadThrough = 128 << 10;

// One job of a thread: whole rows of a part as the file has them, or a stretch of bytes of it.
struct Piece {
  size_t item = 0, part = 0;
  int64_t row = 0, rows = 0;     // of the part, local; its columns where it is transposed
  uint64_t skip = 0, bytes = 0;  // nonzero bytes: a stretch that starts `skip` bytes into the part's contiguous range
};

struct ItemState {
  std::optional<size_t> place;  // in the ring; of an item that is being filled or consumed
  size_t bytes = 0;
  size_t pieces_left = 0;
};

bool contiguous(const StagingItem& item, const StagingPart& part) {
  return part.tensor != nullptr && !part.transposed && part.cols.count == part.source_cols &&
         part.cols.count == item.cols && part.tensor->dtype() == item.dtype;
}

bool padded(const StagingItem& item) {
  int64_t filled = 0;
  for (const StagingPart& part : item.parts) filled += part.rows.count * part.cols.count;
  return filled != item.rows * item.cols;
}

class Stager {
 public:
  Stager(const std::vector<File>& files, std::vector<StagingItem> items, const StagingOptions& options)
      : files_(files), items_(std::move(items)), options_(options), states_(items_.size()) {
    const auto place = [](const StagingItem& item) {
      const CheckpointTensor* tensor = item.parts.front().tensor;
      return tensor == nullptr ? std::pair<int, uint64_t>{0, 0}
                               : std::pair<int, uint64_t>{tensor->file, tensor->offset};
    };
    std::stable_sort(items_.begin(), items_.end(),
                     [&](const StagingItem& a, const StagingItem& b) { return place(a) < place(b); });
    size_t all = 0, largest = 0;
    for (size_t i = 0; i < items_.size(); ++i) {
      cut(i);
      const size_t bytes = StagingRing::rounded(states_[i].bytes);
      all += bytes;
      largest = std::max(largest, bytes);
    }
    ring_bytes_ = std::min(all, std::max(largest, options_.memory));
    ring_ = StagingRing(ring_bytes_);
  }

  void run() {
    if (items_.empty()) return;
    const double start = monotonic_seconds();
    memory_ = options_.backend != nullptr ? options_.backend->allocate_staging(ring_bytes_) : Buffer::host(ring_bytes_);
    std::vector<std::thread> threads;
    try {
      for (int i = 0; i < std::max(1, options_.threads); ++i) threads.emplace_back([this] { fill_loop(); });
    } catch (const std::system_error&) {
      if (threads.empty()) throw;  // else fewer do, only slower
    }
    try {
      consume_all(start);
    } catch (...) {
      fail(std::current_exception());
    }
    for (std::thread& thread : threads) thread.join();
    if (failure_) {
      abandon_copies();
      std::rethrow_exception(failure_);
    }
    if (!options_.quiet) {
      const double seconds = std::max(1e-9, monotonic_seconds() - start);
      log_info(fmt::format("weights: {:.2f} GB in {:.2f} s, {:.2f} GB/s", 1e-9 * static_cast<double>(total_bytes_),
                           seconds, 1e-9 * static_cast<double>(total_bytes_) / seconds));
    }
  }

 private:
  // Pieces of an item, in file order within each part.
  void cut(size_t index) {
    const StagingItem& item = items_[index];
    ItemState& state = states_[index];
    state.bytes = static_cast<size_t>(item.rows * item.cols) * dtype_bytes(item.dtype);
    const size_t before = pieces_.size();
    for (size_t p = 0; p < item.parts.size(); ++p) {
      const StagingPart& part = item.parts[p];
      if (part.rows.count == 0 || part.cols.count == 0) continue;
      const uint64_t element = part.tensor != nullptr ? dtype_bytes(part.tensor->dtype()) : dtype_bytes(item.dtype);
      const uint64_t slice = static_cast<uint64_t>(part.cols.count) * element;
      if (part.tensor != nullptr && part.tensor->quantised != nullptr) {
        total_bytes_ += part.tensor->bytes / static_cast<uint64_t>(part.tensor->shape[0]) *
                        static_cast<uint64_t>(part.rows.count) * static_cast<uint64_t>(part.cols.count) /
                        static_cast<uint64_t>(part.tensor->shape[1]);
        pieces_.push_back({index, p, 0, part.rows.count, 0, 0});
        continue;
      }
      total_bytes_ += static_cast<uint64_t>(part.rows.count) * slice;
      if (contiguous(item, part)) {
        const uint64_t first = part.tensor->offset + static_cast<uint64_t>(part.rows.begin) * slice;
        const uint64_t bytes = static_cast<uint64_t>(part.rows.count) * slice;
        for (uint64_t done = 0; done < bytes;) {
          const uint64_t to_boundary = options_.read_bytes - (first + done) % options_.read_bytes;
          const uint64_t now = std::min(bytes - done, to_boundary);
          pieces_.push_back({index, p, 0, 0, done, now});
          done += now;
        }
      } else {
        const uint64_t stride = static_cast<uint64_t>(part.source_cols) * element;
        const int64_t rows = std::max<int64_t>(1, static_cast<int64_t>(options_.read_bytes / stride));
        const int64_t stored = part.transposed ? part.cols.count : part.rows.count;
        for (int64_t row = 0; row < stored; row += rows)
          pieces_.push_back({index, p, row, std::min(rows, stored - row), 0, 0});
      }
    }
    if (pieces_.size() == before) pieces_.push_back({index, 0, 0, 0, 0, 0});  // padding only
    state.pieces_left = pieces_.size() - before;
  }

  void fail(std::exception_ptr why) {
    const std::lock_guard lock(mutex_);
    if (!failure_) failure_ = std::move(why);
    changed_.notify_all();
  }

  // With the lock held: the item has memory, or may get it.
  bool has_room(size_t index) const { return states_[index].place || ring_.has_room(states_[index].bytes); }

  char* memory_of(const ItemState& state) const { return static_cast<char*>(memory_.data()) + *state.place; }

  void open(size_t index) {
    ItemState& state = states_[index];
    state.place = ring_.take(state.bytes);
    if (const auto& groups = items_[index].groups) {
      groups->scale.assign(static_cast<size_t>(items_[index].rows) * groups->columns.groups.size(), 0.0f);
      groups->zero.assign(groups->scale.size(), 0.0f);
    }
    if (padded(items_[index])) std::memset(memory_of(state), 0, state.bytes);
  }

  void fill_loop() {
    std::vector<char> bounce;
    try {
      for (;;) {
        Piece piece;
        {
          std::unique_lock lock(mutex_);
          changed_.wait(lock, [&] { return failure_ || next_ == pieces_.size() || has_room(pieces_[next_].item); });
          if (failure_ || next_ == pieces_.size()) return;
          piece = pieces_[next_++];
          if (!states_[piece.item].place) {
            open(piece.item);
            changed_.notify_all();
          }
        }
        fill(piece, bounce);
        const std::lock_guard lock(mutex_);
        if (--states_[piece.item].pieces_left == 0) {
          ready_.push_back(piece.item);
          changed_.notify_all();
        }
      }
    } catch (...) {
      fail(std::current_exception());
    }
  }

  void fill(const Piece& piece, std::vector<char>& bounce) {
    const StagingItem& item = items_[piece.item];
    const StagingPart& part = item.parts[piece.part];
    const size_t element = dtype_bytes(item.dtype);
    const size_t row_bytes = static_cast<size_t>(item.cols) * element;
    char* to = memory_of(states_[piece.item]) + static_cast<size_t>(part.to_row + piece.row) * row_bytes +
               static_cast<size_t>(part.to_col) * element;
    if (part.tensor == nullptr) {
      for (int64_t r = 0; r < piece.rows; ++r) {
        fill_random(to + static_cast<size_t>(r) * row_bytes, item.dtype, part.seed,
                    static_cast<uint64_t>((part.rows.begin + piece.row + r) * part.source_cols + part.cols.begin),
                    part.cols.count, part.scale);
      }
      return;
    }
    if (part.tensor->quantised != nullptr) {
      if (piece.rows == 0) return;
      if (item.groups == nullptr)
        return read_as_floats(files_, *part.tensor->quantised, part.rows, part.cols, reinterpret_cast<float*>(to),
                              item.cols);
      StagedGroups& groups = *item.groups;
      const size_t at = static_cast<size_t>(part.to_row) * groups.columns.groups.size();
      return read_quantised(files_, *part.tensor->quantised, part.rows, part.cols, groups.columns,
                            reinterpret_cast<uint8_t*>(to), item.cols, groups.scale.data() + at,
                            groups.zero.data() + at);
    }
    const File& file = files_[static_cast<size_t>(part.tensor->file)];
    const DType dtype = part.tensor->dtype();
    const uint64_t source = dtype_bytes(dtype);
    const uint64_t stride = static_cast<uint64_t>(part.source_cols) * source;
    const uint64_t slice = static_cast<uint64_t>(part.cols.count) * source;
    if (piece.bytes > 0) {
      const uint64_t first = part.tensor->offset + static_cast<uint64_t>(part.rows.begin) * slice + piece.skip;
      file.read_at(first, to + piece.skip, static_cast<size_t>(piece.bytes));
      return;
    }
    if (piece.rows == 0) return;
    if (part.transposed) return fill_transposed(file, item, part, piece, bounce);
    const uint64_t first = part.tensor->offset + static_cast<uint64_t>(part.rows.begin + piece.row) * stride +
                           static_cast<uint64_t>(part.cols.begin) * source;
    const bool through = stride - slice < kReadThrough;
    const uint64_t span = through ? static_cast<uint64_t>(piece.rows - 1) * stride + slice : slice;
    bounce.resize(std::max(bounce.size(), static_cast<size_t>(span)));
    if (through) file.read_at(first, bounce.data(), static_cast<size_t>(span));
    for (int64_t r = 0; r < piece.rows; ++r) {
      const uint64_t at = static_cast<uint64_t>(r) * stride;
      if (!through) file.read_at(first + at, bounce.data(), static_cast<size_t>(slice));
      convert_elements(to + static_cast<size_t>(r) * row_bytes, item.dtype, bounce.data() + (through ? at : 0), dtype,
                       part.cols.count);
    }
  }

  // Stored rows are columns of the item: they are read whole, converted, and turned tile by tile.
  void fill_transposed(const File& file, const StagingItem& item, const StagingPart& part, const Piece& piece,
                       std::vector<char>& bounce) {
    const DType dtype = part.tensor->dtype();
    const size_t source = dtype_bytes(dtype), element = dtype_bytes(item.dtype);
    const size_t stride = static_cast<size_t>(part.source_cols) * source;
    const size_t slice = static_cast<size_t>(part.rows.count) * source;
    const size_t turned = static_cast<size_t>(part.rows.count) * element;
    const size_t span = static_cast<size_t>(piece.rows - 1) * stride + slice;
    const bool through = stride - slice < kReadThrough;
    const size_t raw = (through ? span : slice + 63) / 64 * 64 + 64;
    bounce.resize(std::max(bounce.size(), raw + static_cast<size_t>(piece.rows) * turned));
    const uint64_t first = part.tensor->offset + static_cast<uint64_t>(part.cols.begin + piece.row) * stride +
                           static_cast<uint64_t>(part.rows.begin) * source;
    if (through) file.read_at(first, bounce.data(), span);
    for (int64_t c = 0; c < piece.rows; ++c) {
      const size_t at = static_cast<size_t>(c) * stride;
      if (!through) file.read_at(first + at, bounce.data(), slice);
      convert_elements(bounce.data() + raw + static_cast<size_t>(c) * turned, item.dtype,
                       bounce.data() + (through ? at : 0), dtype, part.rows.count);
    }
    char* to = memory_of(states_[piece.item]) +
               static_cast<size_t>(part.to_row * item.cols + part.to_col + piece.row) * element;
    const auto turn = [&]<class T>(T* rows) {
      constexpr int64_t kTile = 32;
      const T* from = reinterpret_cast<const T*>(bounce.data() + raw);
      for (int64_t r = 0; r < part.rows.count; r += kTile) {
        for (int64_t c = 0; c < piece.rows; c += kTile) {
          for (int64_t i = r; i < std::min(part.rows.count, r + kTile); ++i) {
            for (int64_t j = c; j < std::min(piece.rows, c + kTile); ++j)
              rows[i * item.cols + j] = from[j * part.rows.count + i];
          }
        }
      }
    };
    if (element == 4) {
      turn(reinterpret_cast<uint32_t*>(to));
    } else {
      turn(reinterpret_cast<uint16_t*>(to));
    }
  }

  void consume_all(double start) {
    double next_line = start + 2.0;
    uint64_t done_bytes = 0;
    for (size_t done = 0; done < items_.size(); ++done) {
      size_t index = 0;
      {
        std::unique_lock lock(mutex_);
        while (!failure_ && ready_.empty() && !leaving_.empty()) {  // the threads may wait for that memory
          lock.unlock();
          release_oldest();
          lock.lock();
        }
        changed_.wait(lock, [&] { return failure_ || !ready_.empty(); });
        if (failure_) return;
        index = ready_.front();
        ready_.pop_front();
      }
      const StagingItem& item = items_[index];
      HostMatrix matrix{memory_of(states_[index]), item.dtype, item.rows, item.cols, item.cols};
      HostGroups groups;
      if (item.groups != nullptr) {
        const QuantisedColumns& columns = item.groups->columns;
        groups = {columns.group, item.groups->scale.data(), item.groups->zero.data(),
                  columns.order.empty() ? nullptr : columns.order.data()};
        matrix.groups = &groups;
      }
      for (const auto& consume : item.consumers) consume(matrix);
      if (item.groups != nullptr) *item.groups = {};
      done_bytes += states_[index].bytes;
      leaving_.push_back({index, options_.backend != nullptr ? options_.backend->mark_copies() : 0});
      // The copies of the item before this one run while this one's were queued.
      while (leaving_.size() > 1 || (done + 1 == items_.size() && !leaving_.empty())) release_oldest();
      if (const double now = monotonic_seconds(); !options_.quiet && now > next_line) {
        log_info(fmt::format("weights: {:.1f} of {:.1f} GB, {:.2f} GB/s", 1e-9 * static_cast<double>(done_bytes),
                             1e-9 * static_cast<double>(total_bytes_),
                             1e-9 * static_cast<double>(done_bytes) / (now - start)));
        next_line = now + 2.0;
      }
    }
  }

  // Its copies are done; the threads may have the memory.
  void release_oldest() {
    const Leaving oldest = leaving_.front();
    leaving_.pop_front();
    if (options_.backend != nullptr) options_.backend->wait_copies(oldest.mark);
    const std::lock_guard lock(mutex_);
    ring_.give_back(*states_[oldest.item].place);
    changed_.notify_all();
  }

  // The memory goes; what a consumer that failed has queued must not read it any more.
  void abandon_copies() noexcept {
    try {
      if (options_.backend != nullptr) options_.backend->wait_copies(options_.backend->mark_copies());
    } catch (const std::exception&) {  // the device is lost, and the first failure says why
    }
  }

  struct Leaving {  // an item whose copies to the device may be under way
    size_t item;
    uint64_t mark;
  };

  const std::vector<File>& files_;
  std::vector<StagingItem> items_;
  const StagingOptions options_;
  std::vector<ItemState> states_;
  std::vector<Piece> pieces_;
  uint64_t total_bytes_ = 0;
  Buffer memory_;  // of the ring
  size_t ring_bytes_ = 0;

  std::mutex mutex_;
  std::condition_variable changed_;
  StagingRing ring_{0};
  size_t next_ = 0;              // of pieces_
  std::deque<size_t> ready_;     // items to consume
  std::deque<Leaving> leaving_;  // of the consumer's thread
  std::exception_ptr failure_;
};
}  // namespace

void stage(const std::vector<File>& files, std::vector<StagingItem> items, const StagingOptions& options) {
  for (const StagingItem& item : items) check(!item.parts.empty(), "a staged matrix has parts");
  Stager(files, std::move(items), options).run();
}

}  // namespace sluice
