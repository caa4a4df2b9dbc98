// SPDX-License-Identifier: Apache-2.0
// Device, memory and loading; the ops are in ops.cpp and sampling.cpp.
#include "backend/cuda/cuda_backend.h"

#include <fmt/format.h>

#include <algorithm>

#include "backend/cuda/check.h"
#include "backend/row_form.h"
#include "kernels/rows.h"

namespace sluice::cuda {
namespace {

// Of a piece of a matrix whose type changes on the device.
constexpr size_t kConvertBytes = size_t{64} << 20;

int bind(int device) {
  SLUICE_CUDA(cudaSetDevice(device));
  int n = 0;
  SLUICE_CUDA(cudaDeviceGetAttribute(&n, cudaDevAttrMultiProcessorCount, device));
  return n;
}

}  // namespace

Stream::Stream() { SLUICE_CUDA(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking)); }
Stream::~Stream() { cudaStreamDestroy(stream_); }

CudaBackend::CudaBackend(const CudaOptions& options, const CudaDevice& device)
    : options_(options),
      device_(device),
      multiprocessors_(bind(options.device)),
      ring_(stream_),
      downloads_(stream_, kCopiesOut),
      products_(stream_, options.deterministic),
      graphs_(stream_) {
  for (cudaEvent_t& event : marks_) SLUICE_CUDA(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
}

CudaBackend::~CudaBackend() {
  cudaStreamSynchronize(stream_);
  for (const cudaEvent_t event : marks_) cudaEventDestroy(event);
}

std::string CudaBackend::describe() const {
  return fmt::format("cuda, {} ({}), {} multiprocessors, {:.0f} GiB{}", device_.name, device_.uuid, multiprocessors_,
                     static_cast<double>(device_.total_bytes) / (1 << 30),
                     options_.deterministic ? ", deterministic" : "");
}

// The share that is not ours stays free.
size_t CudaBackend::free_bytes() const {
  size_t free_bytes = 0, total = 0;
  SLUICE_CUDA(cudaMemGetInfo(&free_bytes, &total));
  const auto others = static_cast<size_t>(static_cast<double>(total) * (1.0 - options_.utilization));
  return free_bytes - std::min(free_bytes, others);
}

void CudaBackend::copy_in(const Tensor& device, const void* host) {
  if (device.elements() == 0) return;
  if (device.contiguous() && PinnedMemory::holds(host, device.bytes())) {
    SLUICE_CUDA(cudaMemcpyAsync(device.data, host, device.bytes(), cudaMemcpyHostToDevice, stream_));
    return;
  }
  const size_t element = dtype_bytes(device.dtype), row = static_cast<size_t>(device.row_elements()) * element;
  ring_.upload(device.data, static_cast<size_t>(device.row_stride) * element, host, row,
               static_cast<size_t>(device.dim(0)));
}

void CudaBackend::copy_out(void* host, const Tensor& device) {
  check(device.contiguous(), "copies are of contiguous tensors");
  if (device.elements() == 0) return;
  SLUICE_CUDA(cudaMemcpyAsync(host, device.data, device.bytes(), cudaMemcpyDeviceToHost, stream_));
  SLUICE_CUDA(cudaStreamSynchronize(stream_));
}

void CudaBackend::start_copy_out(const Tensor& device) {
  check(device.contiguous(), "copies are of contiguous tensors");
  downloads_.start(device.data, device.bytes());
}

void CudaBackend::upload(void* device, DType to, int64_t stride, const void* host, DType from, int64_t host_stride,
                         int64_t rows, int64_t width) {
  const size_t from_bytes = dtype_bytes(from), to_bytes = dtype_bytes(to);
  const size_t row = static_cast<size_t>(width) * from_bytes,
               host_pitch = static_cast<size_t>(host_stride) * from_bytes;
  const bool pinned = PinnedMemory::holds(host, static_cast<size_t>(rows - 1) * host_pitch + row);
  const auto copy = [&](void* at, size_t pitch, const char* source, int64_t n) {
    if (pinned) {
      SLUICE_CUDA(cudaMemcpy2DAsync(at, pitch, source, host_pitch, row, static_cast<size_t>(n), cudaMemcpyHostToDevice,
                                    stream_));
    } else if (host_pitch == row) {
      ring_.upload(at, pitch, source, row, static_cast<size_t>(n));
    } else {
      for (int64_t r = 0; r < n; ++r)
        ring_.upload(static_cast<char*>(at) + static_cast<size_t>(r) * pitch, pitch,
                     source + static_cast<size_t>(r) * host_pitch, row, 1);
    }
  };
  const auto* source = static_cast<const char*>(host);
  if (from == to) return copy(device, static_cast<size_t>(stride) * to_bytes, source, rows);
  const int64_t most = std::max<int64_t>(1, static_cast<int64_t>(kConvertBytes / row));
  for (int64_t done = 0; done < rows; done += most) {
    const int64_t now = std::min(most, rows - done);
    void* raw = convert_work_.reserve(static_cast<size_t>(now) * row, stream_);
    copy(raw, row, source + static_cast<size_t>(done) * host_pitch, now);
    kernels::ConvertParams p{};
    p.out = static_cast<char*>(device) + static_cast<size_t>(done * stride) * to_bytes;
    p.in = raw;
    p.rows = now;
    p.width = width;
    p.out_stride = stride;
    p.in_stride = width;
    p.out_type = type_of(to);
    p.in_type = type_of(from);
    SLUICE_CUDA(kernels::convert(p, stream_));
  }
}

std::unique_ptr<Weight> CudaBackend::pack(const HostMatrix& source, Scheme scheme) {
  check(source.rows > 0 && source.cols > 0 && source.row_stride >= source.cols, "a matrix to pack has no rows");
  if (source.groups != nullptr || scheme == Scheme::kInt8 || scheme == Scheme::kInt4)
    return pack_narrow(source, scheme);
  const DType dtype = stored(scheme);
  const int64_t stride = RowForm(source, scheme).stride;
  auto weight = std::make_unique<CudaWeight>(
      source.rows, source.cols, stride, dtype,
      allocate_device(static_cast<size_t>(source.rows * stride) * dtype_bytes(dtype), stream_));
  upload(weight->data.data(), dtype, stride, source.data, source.dtype, source.row_stride, source.rows, source.cols);
  return weight;
}

bool CudaBackend::copy_in_converted(const Tensor& device, const void* host, DType from) {
  if (from != DType::kF32 && from != DType::kBF16 && from != DType::kF16) return false;
  check(device.contiguous(), "copies are of contiguous tensors");
  constexpr int64_t kRow = 1 << 20;  // elements
  const int64_t n = device.elements();
  const auto* source = static_cast<const char*>(host);
  for (int64_t done = 0; done < n; done += kRow) {
    const int64_t now = std::min(kRow, n - done);
    upload(static_cast<char*>(device.data) + static_cast<size_t>(done) * dtype_bytes(device.dtype), device.dtype, now,
           source + static_cast<size_t>(done) * dtype_bytes(from), from, now, 1, now);
  }
  return true;
}

uint64_t CudaBackend::mark_copies() {
  SLUICE_CUDA(cudaEventRecord(marks_[marked_ % kMarks], stream_));
  return ++marked_;
}

void CudaBackend::wait_copies(uint64_t mark) {
  check(mark > 0 && marked_ - mark < kMarks, "a mark of copies is too old");
  SLUICE_CUDA(cudaEventSynchronize(marks_[(mark - 1) % kMarks]));
}

int64_t CudaBackend::decode_bucket(int64_t rows) const {
  if (rows <= 4) return rows == 3 ? 4 : rows;
  const int64_t step = rows <= 128 ? 8 : rows <= 256 ? 16 : 32;
  return (rows + step - 1) / step * step;
}

double CudaBackend::probe_read_gbps(size_t bytes) {
  bytes = bytes / 4096 * 4096;
  if (probe_.bytes() < bytes + 256) probe_ = allocate(bytes + 256);
  cudaEvent_t begin, end;
  SLUICE_CUDA(cudaEventCreate(&begin));
  SLUICE_CUDA(cudaEventCreate(&end));
  double best = 0;
  for (int pass = 0; pass < 4; ++pass) {  // the first warms up
    SLUICE_CUDA(cudaEventRecord(begin, stream_));
    SLUICE_CUDA(kernels::read_probe(static_cast<uint32_t*>(probe_.data()), static_cast<char*>(probe_.data()) + 256,
                                    bytes, 8 * multiprocessors_, stream_));
    SLUICE_CUDA(cudaEventRecord(end, stream_));
    SLUICE_CUDA(cudaEventSynchronize(end));
    float ms = 0;
    SLUICE_CUDA(cudaEventElapsedTime(&ms, begin, end));
    best = std::max(best, static_cast<double>(bytes) / std::max(static_cast<double>(ms), 1e-6) * 1e-6);
  }
  SLUICE_CUDA(cudaEventDestroy(begin));
  SLUICE_CUDA(cudaEventDestroy(end));
  return best;
}

}  // namespace sluice::cuda
