#include "core/hyperparameters.h"

#include <fmt/format.h>

#include <optional>

namespace quantfit {
namespace {

constexpr std::uint64_t kLimit = std::uint64_t{1} << 31;

}  // namespace

Hyperparameters::Hyperparameters(const GgufMetadata& metadata)
    : metadata_(metadata), architecture_(metadata.string("general.architecture").value_or("")) {}

const GgufKeyValue* Hyperparameters::find(std::string_view suffix) const {
  return metadata_.find(fmt::format("{}.{}", architecture_, suffix));
}

std::uint64_t Hyperparameters::value(std::string_view suffix, std::uint64_t absent, std::uint32_t layer) {
  const GgufKeyValue* key = find(suffix);
  if (key == nullptr) return absent;
  std::optional<std::uint64_t> value = key->as_uint();
  if (key->type == GgufType::Array)
    if (const auto element = key->int_at(layer); element && *element >= 0)
      value = static_cast<std::uint64_t>(*element);
  if (value && *value < kLimit) return *value;
  if (broken_.empty()) broken_ = suffix;
  return absent;
}

Result<void> Hyperparameters::check() const {
  if (broken_.empty()) return outcome::success();
  return fail(ErrorCode::Malformed,
              "metadata key '{}.{}': expected a non-negative number below 2^31, or an array with one for "
              "each layer",
              architecture_, broken_);
}

}  // namespace quantfit
