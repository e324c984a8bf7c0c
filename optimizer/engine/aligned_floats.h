// Floats aligned for the kernels.
#pragma once

#include <cstddef>
#include <cstdlib>
#include <memory>
#include <new>

namespace quantfit::engine {

// `size` floats at an address that is a multiple of 64, not initialized. Throws std::bad_alloc like any
// allocation.
class AlignedFloats {
 public:
  AlignedFloats() = default;
  explicit AlignedFloats(std::size_t size) : size_(size) {
    if (size == 0) return;
    if (size > (~std::size_t{0} - 64) / sizeof(float)) throw std::bad_alloc();
    const std::size_t bytes = (size * sizeof(float) + 63) / 64 * 64;
    memory_.reset(static_cast<float*>(std::aligned_alloc(64, bytes)));
    if (!memory_) throw std::bad_alloc();
  }
  [[nodiscard]] float* data() const { return memory_.get(); }
  [[nodiscard]] std::size_t size() const { return size_; }

 private:
  struct Free {
    void operator()(float* p) const { std::free(p); }
  };
  std::unique_ptr<float, Free> memory_;
  std::size_t size_ = 0;
};

}  // namespace quantfit::engine
