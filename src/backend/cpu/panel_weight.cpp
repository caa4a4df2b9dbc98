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
                  kTaskRows = 512;                // sums of a task and a piece of its rows fit the second-level cache
constexpr int64_t kTasksPerThread = 6;            // so that threads finish together
constexpr size_t kPieceBytes = 32 << 10;          // of one panel
constexpr int64_t kStreamedRows = 64;             // up to here products are bound by reading weights
constexpr size_t kStreamBytes = size_t{1} << 20;  // of weights per task when rows are few

size_t index_of(Scheme scheme) { return static_cast<size_t>(scheme); }
}  // namespace

PanelWeight::PanelWeight(int64_t rows, int64_t cols, Scheme scheme, Buffer data)
    : Weight(rows, cols, static_cast<size_t>(rows * cols) * element_bytes(scheme)),
      scheme_(scheme),
      data_(std::move(data)) {}

Products::Products(const CpuIsa& isa, Pool& pool, const RowOps& rows) : pool_(pool), rows_(rows) {
  for (const Scheme scheme : {Scheme::kF32, Scheme::kBF16, Scheme::kF16})
    kernels_[index_of(scheme)] = &vector_product(scheme, isa.vector_targets);
  const ProductKernel*& bf16 = kernels_[index_of(Scheme::kBF16)];
  if (isa.bf16_pairs && pair_product() != nullptr) bf16 = pair_product();
  if (isa.amx_bf16 && tile_product() != nullptr) bf16 = tile_product();
  sums_.resize(static_cast<size_t>(pool.threads()));
}

const ProductKernel& Products::kernel(Scheme scheme) const { return *kernels_[index_of(scheme)]; }

std::unique_ptr<Weight> Products::pack(const HostMatrix& source, Scheme scheme) {
  const int64_t rows = source.rows, cols = source.cols, depth = PanelWeight::padded_depth(cols);
  const int64_t panels = (rows + kPanel - 1) / kPanel;
  const size_t element = PanelWeight::element_bytes(scheme);
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
  return std::make_unique<PanelWeight>(rows, cols, scheme, std::move(data));
}

struct Products::Job {
  const Tensor& out;
  const PanelWeight& w;
  const Epilogue& epilogue;
  const ProductKernel& kernel;
  const char* x;  // packed
  int64_t height, blocks;
  size_t block_bytes;
  int64_t task_panels, task_blocks, row_groups;
};

void Products::run(const Tensor& out, const Tensor& x, const PanelWeight& w, const Epilogue& epilogue) {
  const int64_t rows = out.dim(0), cols = w.cols(), depth = w.depth();
  const ProductKernel& kernel = this->kernel(w.scheme());
  const int64_t height = kernel.block_height(rows), blocks = (rows + height - 1) / height;
  const size_t block_bytes = static_cast<size_t>(height * depth) * kernel.x_bytes;
  char* packed = static_cast<char*>(packed_.reserve(static_cast<size_t>(blocks) * block_bytes));
  // Packing little is quicker than waking the threads.
  const int64_t pack_grain = std::max<int64_t>(1, (32 << 10) / (height * depth));
  pool_.split(blocks, pack_grain, [&](int64_t begin, int64_t end, int) {
    for (int64_t b = begin; b < end; ++b) {
      kernel.pack_rows(packed + static_cast<size_t>(b) * block_bytes, static_cast<const float*>(x.row(b * height)),
                       x.row_stride, std::min(height, rows - b * height), height, cols, depth);
    }
  });
  int64_t task_panels = kTaskPanels, parts = (rows + kTaskRows - 1) / kTaskRows;
  if (rows <= kStreamedRows) {
    const int64_t streamed = static_cast<int64_t>(kStreamBytes / w.panel_bytes());
    task_panels =
        std::clamp<int64_t>(w.panels() / (kTasksPerThread * pool_.threads()), 1, std::max<int64_t>(streamed, 1));
  } else {
    const auto few = [&] { return w.panels() * parts < kTasksPerThread * pool_.threads() * task_panels; };
    while (few() && task_panels > 4) task_panels /= 2;
    while (few() && rows > 128 * parts) parts *= 2;
    while (few() && task_panels > 1) task_panels /= 2;
  }
  const int64_t task_blocks = (blocks + parts - 1) / parts, row_groups = (blocks + task_blocks - 1) / task_blocks;
  const Job job{out, w, epilogue, kernel, packed, height, blocks, block_bytes, task_panels, task_blocks, row_groups};
  const int64_t groups = (w.panels() + task_panels - 1) / task_panels;
  pool_.split(groups * job.row_groups, 1, [&](int64_t begin, int64_t end, int thread) {
    for (int64_t task = begin; task < end; ++task) run_task(job, task, thread);
  });
}

void Products::run_task(const Job& job, int64_t task, int thread) {
  const int64_t first_block = task % job.row_groups * job.task_blocks;
  const int64_t panel_begin = task / job.row_groups * job.task_panels;
  const int64_t blocks = std::min(job.task_blocks, job.blocks - first_block);
  const int64_t panels = std::min(job.task_panels, job.w.panels() - panel_begin);
  const int64_t row_begin = first_block * job.height;
  const int64_t rows = std::min(blocks * job.height, job.out.dim(0) - row_begin);
  const int64_t depth = job.w.depth();
  const size_t element = PanelWeight::element_bytes(job.w.scheme());

  ProductCall call;
  // A few lines more than the columns, so that rows do not fall on the same cache sets.
  call.c_stride = panels * kPanel + 16;
  call.c = static_cast<float*>(
      sums_[static_cast<size_t>(thread)].reserve(static_cast<size_t>(blocks * job.height * call.c_stride) * 4));
  call.x_block_bytes = job.block_bytes;
  call.blocks = blocks;
  call.height = job.height;
  call.w_panel_bytes = job.w.panel_bytes();
  const char* task_weights = job.w.data() + static_cast<size_t>(panel_begin) * job.w.panel_bytes();
  const int64_t piece = job.out.dim(0) <= kStreamedRows ? depth : static_cast<int64_t>(kPieceBytes / element) / kPanel;
  for (int64_t k = 0; k < depth; k += piece) {
    call.depth = std::min(piece, depth - k);
    call.continued = k > 0;
    call.x = job.x + static_cast<size_t>(first_block) * job.block_bytes +
             static_cast<size_t>(k * job.height) * job.kernel.x_bytes;
    call.w = task_weights + static_cast<size_t>(k * kPanel) * element;
    call.panels = panels;
    call.next = k + piece < depth ? static_cast<const char*>(call.w) + static_cast<size_t>(piece * kPanel) * element
                                  : task_weights + static_cast<size_t>(panels) * job.w.panel_bytes();
    job.kernel.multiply(call);
  }

  const int64_t column = panel_begin * kPanel, columns = std::min(panels * kPanel, job.w.rows() - column);
  const float* bias = job.epilogue.bias ? job.epilogue.bias.as<float>() + column : nullptr;
  for (int64_t r = 0; r < rows; ++r) {
    const int64_t row = row_begin + r;
    const float* residual =
        job.epilogue.residual ? static_cast<const float*>(job.epilogue.residual.row(row)) + column : nullptr;
    rows_.finish(static_cast<float*>(job.out.row(row)) + column, call.c + r * call.c_stride, bias, residual, columns);
  }
}

}  // namespace sluice
