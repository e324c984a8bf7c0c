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
