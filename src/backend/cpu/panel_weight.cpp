// SPDX-License-Identifier: Apache-2.0
// A product runs in two rounds: activations are packed, then tasks (some rows by some panels) are dealt to the threads.
// One packed copy of the weights serves one row and many. With few rows a task streams its weights once; with many, k
// is cut so that a panel's piece stays in the first-level cache while all rows of the task pass over it.
#include "backend/cpu/panel_weight.h"

#include <algorithm>

#include "base/error.h"

namespace sluice {
namespace {
constexpr int64_t kTaskPanels = 8,
                  kTaskRows = 512;          // sums of a task and a piece of its rows fit the second-level cache
constexpr int64_t kTasksPerThread = 6;      // so that threads finish together
constexpr size_t kPieceBytes = 32 << 10;    // of one panel
constexpr int64_t kStreamedRows = 64;       // up to here products are bound by reading weights
constexpr int64_t kStreamedTasks = 32;      // per thread when rows are few
constexpr size_t kStreamBytes = 256 << 10;  // of weights per task when rows are few
constexpr int64_t kPackedAtOnce = 8 << 10;  // activations: packing fewer is quicker than waking the threads

size_t index_of(Scheme scheme) { return static_cast<size_t>(scheme); }
}  // namespace

size_t PanelLayout::record_bytes() const {
  const auto elements = static_cast<size_t>(group * kPanel);
  switch (scheme) {
    case Scheme::kF32:
      return 4 * elements;
    case Scheme::kBF16:
    case Scheme::kF16:
      return 2 * elements;
    case Scheme::kInt8:
      return elements;
    case Scheme::kInt4:
      return kGroupHeader + elements / 2;
    case Scheme::kInt8Groups:
      return kGroupHeader + elements;
    case Scheme::kFp8:
      break;
  }
  fatal("unknown scheme");
}

// Bytes are those of the unpadded matrix.
PanelWeight::PanelWeight(int64_t rows, int64_t cols, const PanelLayout& layout, Buffer data, Buffer scales,
                         Buffer order)
    : Weight(rows, cols,
             static_cast<size_t>(static_cast<double>(rows * cols) * static_cast<double>(layout.record_bytes()) /
                                 static_cast<double>(layout.group * kPanel)) +
                 (scales.bytes() > 0 ? static_cast<size_t>(rows) * sizeof(float) : 0)),
      layout_(layout),
      data_(std::move(data)),
      scales_(std::move(scales)),
      order_(std::move(order)) {}

Products::Products(const CpuIsa& isa, Pool& pool, const RowOps& rows)
    : pool_(pool), rows_(rows), call_ahead_(isa.call_ahead) {
  for (const Scheme scheme : {Scheme::kF32, Scheme::kBF16, Scheme::kF16})
    kernels_[index_of(scheme)] = &vector_product(scheme, isa.vector_targets);
  for (const Scheme scheme : {Scheme::kInt8, Scheme::kInt4, Scheme::kInt8Groups})
    kernels_[index_of(scheme)] = &integer_product(scheme, isa.vector_targets, isa.vnni);
  const ProductKernel*& bf16 = kernels_[index_of(Scheme::kBF16)];
  if (isa.bf16_pairs && pair_product() != nullptr) bf16 = pair_product();
  if (isa.amx_bf16 && tile_product() != nullptr) bf16 = tile_product();
  sums_.resize(static_cast<size_t>(pool.threads()));
  ordered_.resize(sums_.size());
}

const ProductKernel& Products::kernel(Scheme scheme) const { return *kernels_[index_of(scheme)]; }

std::unique_ptr<Weight> Products::pack(const HostMatrix& source, Scheme scheme) {
  const PanelLayout layout{scheme};
  if (layout.quantised()) return pack_quantised(source, scheme);
  const int64_t rows = source.rows, cols = source.cols, depth = layout.depth(cols);
  const int64_t panels = (rows + kPanel - 1) / kPanel;
  const size_t element = layout.record_bytes() / static_cast<size_t>(kDepth * kPanel);
  Buffer data = allocate_pages(static_cast<size_t>(panels * depth * kPanel) * element);
  const size_t source_element = dtype_bytes(source.dtype);
  pool_.split(panels, 4, [&](int64_t begin, int64_t end, int) {
    std::vector<float> wide(static_cast<size_t>(cols));
    std::vector<uint16_t> narrow(static_cast<size_t>(cols));
    for (int64_t row = begin * kPanel; row < std::min(end * kPanel, rows); ++row) {
      const char* from =
          static_cast<const char*>(source.data) + static_cast<size_t>(row * source.row_stride) * source_element;
      char* panel = static_cast<char*>(data.data()) + static_cast<size_t>(row / kPanel * depth * kPanel) * element;
      const int64_t column = row % kPanel;
      rows_.widen(wide.data(), from, source.dtype, cols);
      if (scheme == Scheme::kF32) {
        float* to = reinterpret_cast<float*>(panel) + column;
        for (int64_t k = 0; k < cols; ++k) to[k * kPanel] = wide[static_cast<size_t>(k)];
        continue;
      }
      const bool pairs = scheme == Scheme::kBF16;
      rows_.narrow(narrow.data(), pairs ? DType::kBF16 : DType::kF16, wide.data(), cols);
      uint16_t* to = reinterpret_cast<uint16_t*>(panel);
      for (int64_t k = 0; k < cols; ++k) {
        const int64_t at = pairs ? (k / 2 * kPanel + column) * 2 + k % 2 : k * kPanel + column;
        to[at] = narrow[static_cast<size_t>(k)];
      }
    }
  });
  return std::make_unique<PanelWeight>(rows, cols, layout, std::move(data));
}

void Products::run(const Tensor& out, const Tensor& x, const PanelWeight& w, const Epilogue& epilogue) {
  jobs_.clear();
  add_job(w, 0, out.dim(0));
  run_jobs(out, x, epilogue);
}

void Products::run_group(const Tensor& out, const Tensor& x, const WeightGroup& group, const int32_t* offsets) {
  jobs_.clear();
  for (int64_t e = 0; e < group.size(); ++e) {
    const int64_t first = offsets[e], rows = offsets[e + 1] - first;
    check(first >= 0 && rows >= 0 && first + rows <= out.dim(0), "grouped_gemm: offsets are not within the rows");
    if (rows > 0) add_job(static_cast<const PanelWeight&>(group.member(e)), first, rows);
  }
  if (!jobs_.empty()) run_jobs(out, x, {});
}

void Products::add_job(const PanelWeight& w, int64_t first_row, int64_t rows) {
  const ProductKernel& kernel = this->kernel(w.scheme());
  Job job{};
  job.w = &w;
  job.first_row = first_row;
  job.rows = rows;
  job.height = kernel.block_height(rows);
  job.blocks = (rows + job.height - 1) / job.height;
  job.block_bytes = static_cast<size_t>(job.height) * kernel.x_row_bytes(w.depth(), w.layout().group);
  if (!jobs_.empty()) {
    const Job& last = jobs_.back();
    job.first_block = last.first_block + last.blocks;
    job.packed_at = last.packed_at + (static_cast<size_t>(last.blocks) * last.block_bytes + 63) / 64 * 64;
  }
  jobs_.push_back(job);
}

namespace {
// The last of `jobs` whose `first` is not beyond i.
template <class Job>
const Job& job_of(const std::vector<Job>& jobs, int64_t Job::*first, int64_t i) {
  const auto after =
      std::upper_bound(jobs.begin(), jobs.end(), i, [&](int64_t v, const Job& j) { return v < j.*first; });
  return *(after - 1);
}
}  // namespace

void Products::run_jobs(const Tensor& out, const Tensor& x, const Epilogue& epilogue) {
  const Job &first = jobs_.front(), &last = jobs_.back();
  const int64_t blocks = last.first_block + last.blocks, depth = first.w->depth();
  packed_.reserve(last.packed_at + static_cast<size_t>(last.blocks) * last.block_bytes);
  const int64_t pack_grain = std::max<int64_t>(1, kPackedAtOnce / (first.height * depth));
  pool_.split(blocks, pack_grain, [&](int64_t begin, int64_t end, int thread) {
    for (int64_t i = begin; i < end; ++i) {
      const Job& job = job_of(jobs_, &Job::first_block, i);
      pack_activations(job, i - job.first_block, x, thread);
    }
  });
  int64_t panels = 0;  // of all jobs
  for (const Job& job : jobs_) panels += job.w->panels();
  int64_t tasks = 0;
  for (Job& job : jobs_) {
    int64_t task_panels = kTaskPanels, parts = (job.rows + kTaskRows - 1) / kTaskRows;
    if (job.rows <= kStreamedRows) {
      const int64_t streamed = static_cast<int64_t>(kStreamBytes / job.w->panel_bytes());
      task_panels = std::clamp<int64_t>(panels / (kStreamedTasks * pool_.threads()), 1, std::max<int64_t>(streamed, 1));
    } else {
      const auto few = [&] { return panels * parts < kTasksPerThread * pool_.threads() * task_panels; };
      while (few() && task_panels > 4) task_panels /= 2;
      while (few() && job.rows > 128 * parts) parts *= 2;
      while (few() && task_panels > 1) task_panels /= 2;
    }
    job.task_panels = task_panels;
    job.task_blocks = (job.blocks + parts - 1) / parts;
    job.row_groups = (job.blocks + job.task_blocks - 1) / job.task_blocks;
    job.first_task = tasks;
    job.tasks = (job.w->panels() + task_panels - 1) / task_panels * job.row_groups;
    tasks += job.tasks;
  }
  pool_.split(tasks, 1, [&](int64_t begin, int64_t end, int thread) {
    for (int64_t i = begin; i < end; ++i) {
      const Job& job = job_of(jobs_, &Job::first_task, i);
      run_task(job, i - job.first_task, thread, out, epilogue);
    }
  });
}

void Products::pack_activations(const Job& job, int64_t block, const Tensor& x, int thread) {
  const PanelWeight& w = *job.w;
  const ProductKernel& kernel = this->kernel(w.scheme());
  char* to = static_cast<char*>(packed_.data()) + job.packed_at + static_cast<size_t>(block) * job.block_bytes;
  const float* from = static_cast<const float*>(x.row(job.first_row + block * job.height));
  int64_t stride = x.row_stride;
  const int64_t rows = std::min(job.height, job.rows - block * job.height), cols = w.cols();
  if (w.order() != nullptr) {
    auto* ordered = static_cast<float*>(
        ordered_[static_cast<size_t>(thread)].reserve(static_cast<size_t>(job.height * cols) * sizeof(float)));
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t k = 0; k < cols; ++k) ordered[r * cols + k] = from[r * stride + w.order()[k]];
    }
    from = ordered;
    stride = cols;
  }
  if (kernel.pack_groups != nullptr)
    kernel.pack_groups(to, from, stride, rows, job.height, cols, w.depth(), w.layout().group);
  else
    kernel.pack_rows(to, from, stride, rows, job.height, cols, w.depth());
}

void Products::run_task(const Job& job, int64_t task, int thread, const Tensor& out, const Epilogue& epilogue) {
  const PanelWeight& w = *job.w;
  const ProductKernel& kernel = this->kernel(w.scheme());
  const char* packed = static_cast<const char*>(packed_.data()) + job.packed_at;
  const int64_t first_block = task % job.row_groups * job.task_blocks;
  const int64_t panel_begin = task / job.row_groups * job.task_panels;
  const int64_t blocks = std::min(job.task_blocks, job.blocks - first_block);
  const int64_t panels = std::min(job.task_panels, w.panels() - panel_begin);
  const int64_t row_begin = first_block * job.height;
  const int64_t rows = std::min(blocks * job.height, job.rows - row_begin);
  const int64_t depth = w.depth();
  const PanelLayout& layout = w.layout();

  ProductCall call;
  // A few lines more than the columns, so that rows do not fall on the same cache sets.
  call.c_stride = panels * kPanel + 16;
  call.c = static_cast<float*>(
      sums_[static_cast<size_t>(thread)].reserve(static_cast<size_t>(blocks * job.height * call.c_stride) * 4));
  call.x_block_bytes = job.block_bytes;
  call.blocks = blocks;
  call.height = job.height;
  call.w_panel_bytes = w.panel_bytes();
  const char* task_weights = w.data() + static_cast<size_t>(panel_begin) * w.panel_bytes();
  call.group = layout.group;
  call.call_ahead = call_ahead_;
  const int64_t records = depth / layout.group;
  const int64_t piece = job.rows <= kStreamedRows
                            ? records
                            : std::max<int64_t>(1, static_cast<int64_t>(kPieceBytes / layout.record_bytes()));
  for (int64_t i = 0; i < records; i += piece) {
    call.depth = std::min(piece, records - i) * layout.group;
    call.continued = i > 0;
    call.x = packed + static_cast<size_t>(first_block) * job.block_bytes +
             static_cast<size_t>(job.height) * kernel.x_row_bytes(i * layout.group, layout.group);
    call.w = task_weights + static_cast<size_t>(i) * layout.record_bytes();
    call.panels = panels;
    call.next = i + piece < records
                    ? static_cast<const char*>(call.w) + static_cast<size_t>(piece) * layout.record_bytes()
                    : task_weights + static_cast<size_t>(panels) * w.panel_bytes();
    kernel.multiply(call);
  }

  const int64_t column = panel_begin * kPanel, columns = std::min(panels * kPanel, w.rows() - column);
  const float* scales = w.scales() != nullptr ? w.scales() + column : nullptr;
  const float* bias = epilogue.bias ? epilogue.bias.as<float>() + column : nullptr;
  for (int64_t r = 0; r < rows; ++r) {
    const int64_t row = job.first_row + row_begin + r;
    const float* residual =
        epilogue.residual ? static_cast<const float*>(epilogue.residual.row(row)) + column : nullptr;
    rows_.finish(static_cast<float*>(out.row(row)) + column, call.c + r * call.c_stride, scales, bias, residual,
                 columns);
  }
}

}  // namespace sluice
