#include "core/digest.h"

#include <fmt/format.h>
#include <xxhash.h>

namespace quantfit {

Digest::Digest() : state_(XXH3_createState()) {
  XXH3_128bits_reset(state_.get());
}
Digest::Digest(Digest&&) noexcept = default;
Digest& Digest::operator=(Digest&&) noexcept = default;
Digest::~Digest() = default;

void Digest::Free::operator()(XXH3_state_s* state) const {
  XXH3_freeState(state);
}

void Digest::bytes(std::span<const std::byte> data) {
  XXH3_128bits_update(state_.get(), data.data(), data.size());
}

std::uint64_t Digest::value() const {
  return XXH3_128bits_digest(state_.get()).low64;
}

std::string Digest::hex() const {
  XXH128_canonical_t canonical;
  XXH128_canonicalFromHash(&canonical, XXH3_128bits_digest(state_.get()));
  std::string hex;
  for (const unsigned char byte : canonical.digest) hex += fmt::format("{:02x}", byte);
  return hex;
}

}  // namespace quantfit
