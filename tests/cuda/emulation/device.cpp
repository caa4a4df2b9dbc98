// SPDX-License-Identifier: Apache-2.0
// Devices, shaped like small parts of the generation that SLUICE_EMULATION_ARCH names (80, 86, 89, 90; 90 at start),
// and the calls that ask about them.
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "runtime.h"

namespace {
int number(const char* variable, int otherwise) {
  const char* text = std::getenv(variable);
  return text != nullptr && *text != '\0' ? std::atoi(text) : otherwise;
}
int devices() { return number("SLUICE_EMULATION_DEVICES", 1); }
thread_local int current = 0;
constexpr int kMultiprocessors = 4;
bool warpgroups = false;

struct Generation {
  int arch, shared, shared_of_block;  // shared memory of a multiprocessor and of a block that asks for it, KiB
};
const Generation& generation() {
  static const Generation& chosen = [&]() -> const Generation& {
    static constexpr Generation kAll[] = {{80, 164, 163}, {86, 100, 99}, {89, 100, 99}, {90, 228, 227}};
    const int arch = number("SLUICE_EMULATION_ARCH", 90);
    for (const Generation& g : kAll)
      if (g.arch == arch) return g;
    std::fprintf(stderr, "emulation: SLUICE_EMULATION_ARCH is %d, expected 80, 86, 89 or 90\n", arch);
    std::abort();
  }();
  return chosen;
}

// Looked at once, when CUDA starts. Other orders than the bus's turn the devices round.
bool by_bus() {
  static const bool ordered = [] {
    const char* order = std::getenv("CUDA_DEVICE_ORDER");
    return order != nullptr && std::strcmp(order, "PCI_BUS_ID") == 0;
  }();
  return ordered;
}
}  // namespace

namespace sluice::emulation {
bool warpgroup_products() { return warpgroups; }
void set_warpgroup_products(bool has) { warpgroups = has && generation().arch == 90; }
size_t most_shared_bytes() { return static_cast<size_t>(generation().shared_of_block) * 1024; }
}  // namespace sluice::emulation

extern "C" {

cudaError_t cudaGetDeviceCount(int* out) {
  by_bus();
  *out = devices();
  return *out > 0 ? cudaSuccess : cudaErrorNoDevice;
}
cudaError_t cudaSetDevice(int device) {
  if (device < 0 || device >= devices()) return cudaErrorInvalidDevice;
  current = device;
  return cudaSuccess;
}
cudaError_t cudaGetDevice(int* out) {
  *out = current;
  return cudaSuccess;
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp* out, int device) {
  if (device < 0 || device >= devices()) return cudaErrorInvalidDevice;
  *out = {};
  if (!by_bus()) device = devices() - 1 - device;
  const char* name = std::getenv("SLUICE_EMULATION_NAME");
  std::snprintf(out->name, sizeof out->name, "%s", name != nullptr ? name : "CPU emulation");
  // Ranks of one machine must look like ranks with a device each.
  const int identity = number("SLUICE_EMULATION_UUID", number("SLURM_PROCID", number("OMPI_COMM_WORLD_RANK", 0)));
  std::memset(out->uuid.bytes, 0, sizeof out->uuid.bytes);
  out->uuid.bytes[0] = static_cast<char>(identity + 1);
  out->uuid.bytes[15] = static_cast<char>(device);
  size_t free_bytes = 0;
  cudaMemGetInfo(&free_bytes, &out->totalGlobalMem);
  out->major = generation().arch / 10;
  out->minor = generation().arch % 10;
  out->multiProcessorCount = kMultiprocessors;
  out->warpSize = 32;
  out->maxThreadsPerBlock = 1024;
  out->sharedMemPerBlock = 48 * 1024;
  out->sharedMemPerBlockOptin = sluice::emulation::most_shared_bytes();
  out->sharedMemPerMultiprocessor = static_cast<size_t>(generation().shared) * 1024;
  out->l2CacheSize = 4 << 20;
  out->pciBusID = identity;
  out->pciDeviceID = device;
  return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int* out, cudaDeviceAttr attribute, int device) {
  cudaDeviceProp p;
  if (const cudaError_t error = cudaGetDeviceProperties(&p, device); error != cudaSuccess) return error;
  switch (attribute) {
    case cudaDevAttrMultiProcessorCount:
      *out = p.multiProcessorCount;
      return cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor:
      *out = static_cast<int>(p.sharedMemPerMultiprocessor);
      return cudaSuccess;
    case cudaDevAttrComputeCapabilityMajor:
      *out = p.major;
      return cudaSuccess;
    case cudaDevAttrComputeCapabilityMinor:
      *out = p.minor;
      return cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
      *out = static_cast<int>(p.sharedMemPerBlockOptin);
      return cudaSuccess;
    default:
      return cudaErrorInvalidValue;
  }
}

cudaError_t cudaDeviceGetPCIBusId(char* out, int length, int device) {
  cudaDeviceProp p;
  if (const cudaError_t error = cudaGetDeviceProperties(&p, device); error != cudaSuccess) return error;
  std::snprintf(out, static_cast<size_t>(length), "0000:%02x:%02x.0", p.pciBusID, p.pciDeviceID);
  return cudaSuccess;
}

cudaError_t cudaDriverGetVersion(int* out) {
  *out = CUDART_VERSION;
  return cudaSuccess;
}
cudaError_t cudaRuntimeGetVersion(int* out) {
  *out = CUDART_VERSION;
  return cudaSuccess;
}
cudaError_t cudaGetLastError() { return cudaSuccess; }
cudaError_t cudaPeekAtLastError() { return cudaSuccess; }
cudaError_t cudaDeviceReset() { return cudaSuccess; }

const char* cudaGetErrorName(cudaError_t error) {
  switch (error) {
    case cudaSuccess:
      return "cudaSuccess";
    case cudaErrorInvalidValue:
      return "cudaErrorInvalidValue";
    case cudaErrorMemoryAllocation:
      return "cudaErrorMemoryAllocation";
    case cudaErrorNoDevice:
      return "cudaErrorNoDevice";
    case cudaErrorInvalidDevice:
      return "cudaErrorInvalidDevice";
    case cudaErrorNotReady:
      return "cudaErrorNotReady";
    case cudaErrorInvalidConfiguration:
      return "cudaErrorInvalidConfiguration";
    case cudaErrorStreamCaptureUnsupported:
      return "cudaErrorStreamCaptureUnsupported";
    default:
      return "another CUDA error";
  }
}
const char* cudaGetErrorString(cudaError_t error) { return cudaGetErrorName(error); }

}  // extern "C"
