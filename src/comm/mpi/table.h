// SPDX-License-Identifier: Apache-2.0
// What the run-time module sluice_mpi.so offers: plain C types only, so that the executable never links MPI and one
// executable runs with the module that a site has built against its own MPI.
#pragma once

#include <stddef.h>

extern "C" {

#define SLUICE_MPI_ABI 1u

// Every call is made by one thread. int results: 0, or anything else after which error() says why.
struct SluiceMpiTable {
  unsigned abi;                                         // SLUICE_MPI_ABI
  const char* (*library)(void);                         // "Open MPI v4.1.4, ..."
  int (*init)(int* rank, int* size);                    // MPI_Init_thread; once
  int (*group)(const int* ranks, int n, void** group);  // by world ranks, called by these ranks alone, in one order
  int (*all_reduce)(void* group, float* data, size_t n);
  int (*all_gather)(void* group, void* out, const void* in, size_t bytes);  // `bytes` from each rank
  int (*broadcast)(void* group, void* data, size_t bytes, int root);
  int (*send)(void* group, const void* data, size_t bytes, int to);
  int (*recv)(void* group, void* data, size_t bytes, int from);
  int (*finish)(void);  // MPI_Finalize; all ranks
  const char* (*error)(void);
};

// The one symbol of the module: "sluice_mpi_table".
typedef const struct SluiceMpiTable* (*SluiceMpiEntry)(void);
}
