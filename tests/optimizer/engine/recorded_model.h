// Small models with the logits that llama.cpp computed for them.
#pragma once

#include <cstdint>
#include <filesystem>
#include <ostream>
#include <string>
#include <vector>

#include "core/model.h"
#include "optimizer/engine/forward.h"

namespace quantfit::test {

struct RecordedModel {
  std::string name;
  std::filesystem::path path;
  std::vector<std::int32_t> tokens;
  std::vector<std::vector<float>> logits;  // of every position
};
// For the names of failed tests.
inline void PrintTo(const RecordedModel& one, std::ostream* out) {
  *out << one.name;
}

// Those in tests/data/engine, then those of the shared folder that are not among them.
[[nodiscard]] std::vector<RecordedModel> recorded_models();

struct LogitDifference {
  double largest = 0;     // of any logit
  double divergence = 0;  // largest KL divergence of any position, nats
};
// NaN in either makes both infinite.
[[nodiscard]] LogitDifference compare_logits(const std::vector<std::vector<float>>& reference,
                                             const std::vector<std::vector<float>>& ours);

// Logits of all positions of one window.
[[nodiscard]] Result<std::vector<std::vector<float>>> logits_of(const engine::Engine& engine,
                                                                const engine::TokenWindows& windows,
                                                                const engine::RunOptions& options = {});

}  // namespace quantfit::test
