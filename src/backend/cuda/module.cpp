// SPDX-License-Identifier: Apache-2.0
// The entry of sluice_cuda.so.
#include <fmt/format.h>

#include <cstdlib>
#include <string_view>

#include "backend/cuda/check.h"
#include "backend/cuda/cuda_backend.h"

namespace sluice::cuda {
namespace {

// An instance of a divided GPU says so in its name ("NVIDIA A100-SXM4-40GB MIG 3g.20gb") and has an id of its own.
std::string uuid_of(const cudaDeviceProp& properties) {
  std::string out = std::string_view(properties.name).find(" MIG ") == std::string_view::npos ? "GPU-" : "MIG-";
  for (int i = 0; i < 16; ++i) {
    if (i == 4 || i == 6 || i == 8 || i == 10) out += '-';
    out += fmt::format("{:02x}", static_cast<unsigned char>(properties.uuid.bytes[i]));
  }
  return out;
}

class Module final : public CudaModule {
 public:
  std::vector<CudaDevice> devices() const override {
    int n = 0;
    if (const cudaError_t error = cudaGetDeviceCount(&n); error != cudaSuccess) {
      int driver = 0, runtime = 0;
      cudaDriverGetVersion(&driver);
      cudaRuntimeGetVersion(&runtime);
      const std::string why = cudaGetErrorString(error);
      cudaGetLastError();
      if (error == cudaErrorNoDevice) return {};
      throw Error(fmt::format("CUDA does not start: {}; the driver supports CUDA {}, this build uses {}{}", why,
                              driver == 0 ? "none" : fmt::format("{}.{}", driver / 1000, driver % 1000 / 10),
                              fmt::format("{}.{}", runtime / 1000, runtime % 1000 / 10),
                              driver == 0 ? ": there is no NVIDIA driver here" : ""));
    }
    std::vector<CudaDevice> out;
    for (int i = 0; i < n; ++i) {
      cudaDeviceProp properties{};
      SLUICE_CUDA(cudaGetDeviceProperties(&properties, i));
      CudaDevice device;
      device.uuid = uuid_of(properties);
      device.name = properties.name;
      device.total_bytes = properties.totalGlobalMem;
      device.major = properties.major;
      device.minor = properties.minor;
      out.push_back(device);
    }
    return out;
  }

  std::unique_ptr<Backend> make(const CudaOptions& options) const override {
    const std::vector<CudaDevice> all = devices();
    check(options.device >= 0 && options.device < static_cast<int>(all.size()), "the chosen GPU does not exist");
    CudaDevice device = all[static_cast<size_t>(options.device)];
    if (device.major < 8)
      throw Error(
          fmt::format("{} has compute capability {}.{}, expected 8.0 or newer; choose another GPU, or the CPU "
                      "with --device cpu",
                      device.name, device.major, device.minor));
    if (!(options.utilization > 0 && options.utilization <= 1))
      throw Error("gpu-memory-utilization: expected a share in (0, 1]");
    set_device_name(fmt::format("device {} ({}, {})", options.device, device.name, device.uuid));
    SLUICE_CUDA(cudaSetDevice(options.device));
    SLUICE_CUDA(cudaMemGetInfo(&device.free_bytes, &device.total_bytes));
    return std::make_unique<CudaBackend>(options, device);
  }

  void* stream(const Backend& backend) const override { return static_cast<const CudaBackend&>(backend).stream(); }
};

}  // namespace
}  // namespace sluice::cuda

extern "C" __attribute__((visibility("default"))) const sluice::CudaModule* sluice_cuda_module(uint32_t version) {
  static const sluice::cuda::Module module;
  return version == sluice::kCudaModuleVersion ? &module : nullptr;
}
