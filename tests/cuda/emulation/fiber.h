// SPDX-License-Identifier: Apache-2.0
// Fibers: a few hundred stacks and a switch between them. On x86-64 the switch is ten instructions; elsewhere ucontext.
#pragma once

#include <cstddef>

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

namespace sluice::emulation {

class Fiber {
 public:
  // Reserved; touched only as deep as a kernel goes. AddressSanitizer makes frames larger.
#ifdef __SANITIZE_ADDRESS__
  static constexpr size_t kStackBytes = 2048 * 1024;
#else
  static constexpr size_t kStackBytes = 256 * 1024;
#endif

  Fiber();
  ~Fiber();
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;

  void start(void (*entry)());  // the next resume() calls `entry`, which must not return but leave through pause()
  void resume();                // from the scheduler
  void pause();                 // from the fiber: back to the scheduler
  bool owns(const void* address) const { return address >= stack_ && address < stack_ + kStackBytes; }

 private:
  void set_up(void (*entry)());
  void to_own();
  void to_scheduler();

  unsigned char* stack_;
#if defined(__x86_64__)
  void* own_ = nullptr;
  void* scheduler_ = nullptr;
#else
  ucontext_t own_, scheduler_;
#endif
#ifdef __SANITIZE_ADDRESS__
  static void enter();  // `entry_` of the fiber that resume() has come to
  void (*entry_)() = nullptr;
  const void* scheduler_stack_ = nullptr;
  size_t scheduler_bytes_ = 0;
#endif
};

}  // namespace sluice::emulation
