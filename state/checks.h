// What may stand in a state file: the same rules for what is to be saved and for what was read.
#pragma once

#include <cstdint>
#include <string_view>

#include "core/error.h"
#include "state/records.h"

namespace quantfit::state {

class Database;

// Longest text of a name, a key or a value.
inline constexpr std::size_t kLongestTextBytes = std::size_t{64} << 10;
// Longest name that is for people only; longer ones are cut.
inline constexpr std::size_t kLongestNameBytes = 4096;

// InvalidArgument, naming the tensor or the record, for text that is not UTF-8 or too long, numbers that are
// not finite or not in their range, formats that do not exist, lists that hold something twice; ShapeMismatch
// for a shape that has no size.
[[nodiscard]] Result<void> check(const RunParameters& parameters);
[[nodiscard]] Result<void> check(const TensorMeasurement& measurement);
[[nodiscard]] Result<void> check(const SensitivitySet& set);
[[nodiscard]] Result<void> check(const SavedRecipe& recipe);
[[nodiscard]] Result<void> check(const Calibration& calibration);
[[nodiscard]] Result<void> check(const StatisticsFile& file);
[[nodiscard]] Result<void> check(const Evaluation& evaluation);
[[nodiscard]] Result<void> check(const WrittenFile& file);
[[nodiscard]] Result<void> check_text(std::string_view text, std::string_view what);

// The outcome of a check of values that were read: the file is damaged, Malformed.
[[nodiscard]] Result<void> sound(const Database& database, const Result<void>& checked);

// A name for people, as it can be stored: bytes that are not UTF-8 replaced, too much of it cut.
[[nodiscard]] std::string storable_name(std::string_view text);

// Bytes of the tensor's data. ShapeMismatch when its shape has none.
[[nodiscard]] Result<std::uint64_t> bytes_of(const TensorInfo& shape);

}  // namespace quantfit::state
