// A model's hyper-parameters: metadata keys `<architecture>.<suffix>`, scalars or one value for each layer.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "core/error.h"
#include "core/gguf_value.h"

namespace quantfit {

// Refers to `metadata`, which must outlive it. Arrays are read in place, so a lookup costs the same whatever
// their length. Not thread-safe: remembers the first key that was asked for and is broken.
class Hyperparameters {
 public:
  explicit Hyperparameters(const GgufMetadata& metadata);

  [[nodiscard]] const std::string& architecture() const { return architecture_; }
  [[nodiscard]] const GgufKeyValue* find(std::string_view suffix) const;
  [[nodiscard]] bool has(std::string_view suffix) const { return find(suffix) != nullptr; }

  // A scalar, or element `layer` of an array; `absent` without the key, and where it is broken: of another
  // type, too short, negative or not below 2^31.
  [[nodiscard]] std::uint64_t value(std::string_view suffix, std::uint64_t absent, std::uint32_t layer = 0);

  // Malformed, naming the first broken key that value() met.
  [[nodiscard]] Result<void> check() const;

 private:
  const GgufMetadata& metadata_;
  std::string architecture_;
  std::string broken_;  // suffix
};

}  // namespace quantfit
