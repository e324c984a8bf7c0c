// A 128-bit fingerprint of values given one after the other: for recognising, not for security.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

struct XXH3_state_s;

namespace quantfit {

// XXH3 over everything added, in order. Texts and vectors count with their lengths, so that values cut
// differently give another digest.
class Digest {
 public:
  Digest();
  Digest(Digest&&) noexcept;
  Digest& operator=(Digest&&) noexcept;
  ~Digest();

  void bytes(std::span<const std::byte> data);
  void number(std::uint64_t value) { bytes(std::as_bytes(std::span(&value, 1))); }
  void text(std::string_view value) {
    number(value.size());
    bytes(std::as_bytes(std::span(value)));
  }
  template <class T>
  void values(const std::vector<T>& all) {
    number(all.size());
    bytes(std::as_bytes(std::span(all)));
  }

  // 32 lower-case hexadecimal digits. More may be added afterwards.
  [[nodiscard]] std::string hex() const;
  // The lower half of the same: enough to tell things apart that nobody made to collide.
  [[nodiscard]] std::uint64_t value() const;

 private:
  struct Free {
    void operator()(XXH3_state_s* state) const;
  };
  std::unique_ptr<XXH3_state_s, Free> state_;
};

}  // namespace quantfit
