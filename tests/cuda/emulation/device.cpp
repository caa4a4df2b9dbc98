// SPDX-License-Identifier: Apache-2.0
// One device, shaped like a small Hopper part, and the calls that ask about it.
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
}  // namespace

namespace sluice::emulation {
bool warpgroup_products() { return warpgroups; }
void set_warpgroup_products(bool has) { warpgroups = has; }
}  // namespace sluice::emulation

extern "C" {

cudaError_t cudaGetDeviceCount(int* out) {
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
  std::snprintf(out->name, sizeof out->name, "CPU emulation");
  // Ranks of one machine must look like ranks with a device each.
  const int identity = number("SLUICE_EMULATION_UUID", number("SLURM_PROCID", number("OMPI_COMM_WORLD_RANK", 0)));
  std::memset(out->uuid.bytes, 0, sizeof out->uuid.bytes);
  out->uuid.bytes[0] = static_cast<char>(identity + 1);
  out->uuid.bytes[15] = static_cast<char>(device);
  size_t free_bytes = 0;
  cudaMemGetInfo(&free_bytes, &out->totalGlobalMem);
  out->major = 9;
  out->minor = 0;
  out->multiProcessorCount = kMultiprocessors;
  out->warpSize = 32;
  out->maxThreadsPerBlock = 1024;
  out->sharedMemPerBlock = 48 * 1024;
  out->sharedMemPerBlockOptin = 227 * 1024;
  out->sharedMemPerMultiprocessor = 228 * 1024;
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
