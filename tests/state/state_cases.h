// Small values for the tests of the state file.
#pragma once

#include <gtest/gtest.h>

#include <bit>
#include <string>

#include "state/state_store.h"

namespace quantfit::state {

inline ModelIdentity model_case(const std::string& fingerprint = "aa11") {
  return {fingerprint, "model-" + fingerprint + "-F16.gguf", (std::uint64_t{1} << 52) + 3};
}

inline RunParameters parameters_case() {
  RunParameters parameters;
  parameters.importance_fingerprint = "bb22";
  parameters.effort = "default";
  parameters.encoder_version = 3;
  parameters.sampling = "rows=64 seed=1";
  parameters.metric = "kappa=3";
  return parameters;
}

// Two formats whose numbers depend on `seed` and need all 53 bits.
inline TensorMeasurement measurement_case(const std::string& tensor, int seed) {
  TensorMeasurement measurement;
  measurement.tensor = tensor;
  measurement.role = "ffn_up";
  measurement.layer = 0;
  measurement.shape.name = tensor;
  measurement.shape.n_dims = 2;
  measurement.shape.ne = {256, 64, 1, 1};
  measurement.shape.format = Format::F16;
  measurement.rows_sampled = 32;
  measurement.errors = {{Format::Q8_0, 1.0 / (3 + seed), 1e-7 / 3, 0.1, 0.25},
                        {Format::Q4_K, 0.1 * seed, 1e-5 / 7, 0.2, 1.0 / 3}};
  return measurement;
}

inline SavedRecipe recipe_case(const std::string& target) {
  SavedRecipe saved;
  saved.target = target;
  saved.budget_bytes = (std::uint64_t{1} << 53) + 1;
  saved.bytes = (std::uint64_t{1} << 53) - 1;
  saved.objective = 0.1;
  saved.lower_bound = 0.1 - 1e-17;
  saved.created = "2026-01-02T03:04:05Z";
  saved.recipe.entries = {{"z.weight", Format::Q4_K}, {"a.weight", Format::F32}};
  saved.recipe.provenance = {{"model", "model.gguf"}, {"version", "1.2.3"}};
  return saved;
}

inline SensitivitySet sensitivity_case() {
  SensitivitySet set;
  set.scope.unit = SensitivityUnit::Nats;
  set.scope.method = "perturbation";
  set.scope.text_fingerprint = "dd44";
  set.scope.importance_fingerprint = "bb22";
  set.scope.metric = "kappa=3";
  set.scope.program_version = "1";
  set.scope.engine_version = 2;
  set.scope.tokens = 4096;
  set.created = "2026-01-02T03:04:05Z";
  set.rows = {{"a", 1e-300, 0.1, "measured", ""}, {"output.weight", 45.25, 0.5, "measured", "head"}};
  return set;
}

inline std::vector<FileStamp> files_case() {
  return {{"model-00001-of-00002.gguf", (std::uint64_t{1} << 52) + 1, 1'790'000'000'123'456'789, 77},
          {"model-00002-of-00002.gguf", 5, -1, ~std::uint64_t{0}}};
}

inline Calibration calibration_case() {
  return {{"dd44", 4096, 512, 2}, "calibration.txt", "1", "2026-01-02T03:04:05Z", "", 3};
}

inline StatisticsFile statistics_case(const std::string& fingerprint) {
  return {fingerprint, "moments-" + fingerprint + ".gguf", "moments", 12345, "dd44", "2026-01-02T03:04:05Z"};
}

inline Evaluation evaluation_case() {
  Evaluation evaluation;
  evaluation.identity = {"aa11", "ff66", "dd44", 512, 20, 2};
  evaluation.candidate_name = "out.gguf";
  evaluation.text_name = "held-out.txt";
  evaluation.program_version = "1";
  evaluation.created = "2026-01-02T03:04:05Z";
  evaluation.estimates = {{"mean kl divergence", 0.0125, 0.0003}, {"perplexity", 7.5, std::nullopt}};
  return evaluation;
}

inline WrittenFile written_case(const std::string& name) {
  return {name, "cc33", "bb22", "default", 3, 1'000'000, "1", "2026-01-02T03:04:05Z"};
}

inline void expect_same_bits(double a, double b) {
  EXPECT_EQ(std::bit_cast<std::uint64_t>(a), std::bit_cast<std::uint64_t>(b)) << a << " and " << b;
}

inline void expect_same(const TensorMeasurement& a, const TensorMeasurement& b) {
  EXPECT_EQ(a.tensor, b.tensor);
  EXPECT_EQ(a.role, b.role);
  EXPECT_EQ(a.layer, b.layer);
  EXPECT_EQ(a.shape.name, b.shape.name);
  EXPECT_EQ(a.shape.n_dims, b.shape.n_dims);
  EXPECT_EQ(a.shape.ne, b.shape.ne);
  EXPECT_EQ(a.shape.format, b.shape.format);
  EXPECT_EQ(a.rows_sampled, b.rows_sampled);
  ASSERT_EQ(a.errors.size(), b.errors.size());
  for (std::size_t i = 0; i < a.errors.size(); ++i) {
    EXPECT_EQ(a.errors[i].format, b.errors[i].format);
    expect_same_bits(a.errors[i].nmse, b.errors[i].nmse);
    expect_same_bits(a.errors[i].standard_error, b.errors[i].standard_error);
    expect_same_bits(a.errors[i].bias_share, b.errors[i].bias_share);
    expect_same_bits(a.errors[i].seconds, b.errors[i].seconds);
  }
}

}  // namespace quantfit::state
