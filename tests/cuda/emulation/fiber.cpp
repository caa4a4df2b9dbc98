// SPDX-License-Identifier: Apache-2.0
#include "fiber.h"

#include <sys/mman.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

namespace sluice::emulation {

Fiber::Fiber() {
  void* stack =
      ::mmap(nullptr, kStackBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (stack == MAP_FAILED) {
    std::fputs("emulation: no memory for the stack of a thread\n", stderr);
    std::abort();
  }
  ::mprotect(stack, 4096, PROT_NONE);  // a kernel that runs too deep stops here
  stack_ = static_cast<unsigned char*>(stack);
}

#if defined(__x86_64__)

// Saves the callee-saved registers on this stack, and takes those of the other.
extern "C" void sluice_switch_stack(void** save, void* load);
asm(R"(
.text
.globl sluice_switch_stack
.type sluice_switch_stack, @function
sluice_switch_stack:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  retq
.size sluice_switch_stack, .-sluice_switch_stack
)");

void Fiber::set_up(void (*entry)()) {
  // As if `entry` had been called: at its first instruction the stack is 8 bytes off a multiple of 16.
  auto* top = reinterpret_cast<uint64_t*>(stack_ + kStackBytes) - 1;
  *top = 0;
  *--top = reinterpret_cast<uint64_t>(entry);
  for (int i = 0; i < 6; ++i) *--top = 0;
  own_ = top;
}

void Fiber::to_own() { sluice_switch_stack(&scheduler_, own_); }
void Fiber::to_scheduler() { sluice_switch_stack(&own_, scheduler_); }

#else

void Fiber::set_up(void (*entry)()) {
  ::getcontext(&own_);
  own_.uc_stack.ss_sp = stack_;
  own_.uc_stack.ss_size = kStackBytes;
  own_.uc_link = &scheduler_;
  ::makecontext(&own_, entry, 0);
}

void Fiber::to_own() { ::swapcontext(&scheduler_, &own_); }
void Fiber::to_scheduler() { ::swapcontext(&own_, &scheduler_); }

#endif

#ifdef __SANITIZE_ADDRESS__

// AddressSanitizer is told of every switch. The stack of a thread that has ended still has its last frames.
namespace {
thread_local Fiber* resumed = nullptr;
}

Fiber::~Fiber() {
  __asan_unpoison_memory_region(stack_, kStackBytes);
  ::munmap(stack_, kStackBytes);
}

void Fiber::start(void (*entry)()) {
#if defined(__x86_64__)
  const unsigned char* deepest = own_ == nullptr ? stack_ + kStackBytes : static_cast<unsigned char*>(own_);
#else
  const unsigned char* deepest = stack_;
#endif
  __asan_unpoison_memory_region(deepest, static_cast<size_t>(stack_ + kStackBytes - deepest));
  entry_ = entry;
  set_up(enter);
}

void Fiber::enter() {
  Fiber& self = *resumed;
  __sanitizer_finish_switch_fiber(nullptr, &self.scheduler_stack_, &self.scheduler_bytes_);
  self.entry_();
}

void Fiber::resume() {
  resumed = this;
  void* frames = nullptr;
  __sanitizer_start_switch_fiber(&frames, stack_, kStackBytes);
  to_own();
  __sanitizer_finish_switch_fiber(frames, nullptr, nullptr);
}

void Fiber::pause() {
  void* frames = nullptr;
  __sanitizer_start_switch_fiber(&frames, scheduler_stack_, scheduler_bytes_);
  to_scheduler();
  __sanitizer_finish_switch_fiber(frames, &scheduler_stack_, &scheduler_bytes_);
}

#else

Fiber::~Fiber() { ::munmap(stack_, kStackBytes); }
void Fiber::start(void (*entry)()) { set_up(entry); }
void Fiber::resume() { to_own(); }
void Fiber::pause() { to_scheduler(); }

#endif

}  // namespace sluice::emulation
