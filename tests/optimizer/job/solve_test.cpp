#include "optimizer/job/solve.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "optimizer/planning/recipe_cost.h"
#include "tests/optimizer/job/job_fixture.h"

namespace quantfit::optimizer {
namespace {

using testing::Contains;
using testing::HasSubstr;
using testing::Not;

// Bytes of weights of the one-layer model in a format, all tensors alike.
std::uint64_t tensor_size(Format format) {
  return tensor_bytes(format, 256, 64).value();
}

// A memory request in which only weights count.
MemoryTarget memories(std::uint64_t vram, std::optional<std::uint64_t> ram, const char* in_ram) {
  MemoryRequest request;
  request.ubatch = 1;
  request.runtime_overhead_bytes = request.margin_bytes = request.host_reserve_bytes = 0;
  request.vram_bytes = vram;
  request.ram_bytes = ram;
  request.overrides = parse_placement_rules(fmt::format("{}=CPU", in_ram)).value();
  return {request};
}

// The same with so much room for weights.
MemoryTarget room_for(test::Job& job, std::uint64_t vram, std::optional<std::uint64_t> ram,
                      const char* in_ram) {
  if (!job.inputs) job.open();
  MemoryTarget target = memories(std::uint64_t{1} << 40, std::uint64_t{1} << 40, in_ram);
  const auto estimate =
      estimate_memory(job.inputs->model.metadata(), job.inputs->model.tensors(), target.request).value();
  target.request.vram_bytes = estimate.gpu_other_bytes + vram;
  target.request.ram_bytes.reset();
  if (ram) target.request.ram_bytes = estimate.host_other_bytes + *ram;
  return target;
}

TEST(Solve, ATieOverTwoMemoriesHasOneFormat) {
  test::Job job;
  job.request.policy.rules.ties = {Pattern::compile("token_embd|output.weight").value()};
  const std::uint64_t gpu = 7 * tensor_size(Format::Q4_K) + tensor_size(Format::Q8_0);
  for (const std::uint64_t ram : {tensor_size(Format::Q8_0), tensor_size(Format::Q5_K)}) {
    SCOPED_TRACE(ram);
    const Solution answer = job.solve(room_for(job, gpu, ram, "nothing"));
    ASSERT_TRUE(answer.feasible);
    EXPECT_EQ(test::format_of(answer, "token_embd.weight"), test::format_of(answer, "output.weight"));
    ASSERT_EQ(answer.memories.size(), 2U);
    for (const MemoryAnswer& memory : answer.memories) EXPECT_LE(memory.used_bytes, *memory.budget_bytes);
    ASSERT_TRUE(answer.proof);
    EXPECT_EQ(answer.proof->why, Termination::Optimal);
    EXPECT_NEAR(answer.proof->objective, answer.predicted_error, 1e-9);
  }
}

TEST(Solve, ATiedEmbeddingIsChargedToBothMemories) {
  auto tensors = test::one_layer();
  std::erase_if(tensors, [](const test::SmallTensor& t) { return t.name == "output.weight"; });
  test::Job job(tensors);
  // RAM has room for a small embedding only, although the GPU could hold a large one.
  const Solution answer =
      job.solve(room_for(job, 8 * tensor_size(Format::Q8_0), tensor_size(Format::Q4_K), "nothing"));
  ASSERT_TRUE(answer.feasible);
  EXPECT_LE(answer.find(BudgetKind::Ram)->used_bytes, tensor_size(Format::Q4_K));
  EXPECT_GT(answer.find(BudgetKind::Gpu)->used_bytes, 7 * tensor_size(Format::Q6_K));
}

TEST(Solve, AStoppedSearchIsNeverWorseThanAStaticRecipe) {
  test::Job job;
  job.request.allocator.max_states = 1;
  const auto pool = default_candidate_formats();
  job.request.policy.rules.pool.assign(pool.begin(), pool.end());
  const PreparedJob known = job.prepare({BpwTarget{"16"}});
  const KnapsackOptions options = knapsack_options(known, job.request, 1);
  int stopped = 0;
  for (const Preset& preset : all_presets()) {
    if (!is_quantized(traits(preset.type).default_format)) continue;
    SCOPED_TRACE(preset.name);
    const Recipe recipe = plain_preset(*job.inputs, preset).value().recipe;
    const auto cost =
        recipe_cost(known.candidates, known.measured.measurements, known.sensitivity, options, recipe);
    if (!cost) continue;  // formats outside the pool
    std::uint64_t bytes = 0;
    for (const RecipeEntry& entry : recipe.entries) bytes += tensor_size(entry.format);
    const auto elements = static_cast<double>(job.files.model().total_elements());
    const MemoryTarget everything = room_for(job, bytes, std::nullopt, "nothing");
    for (const Target& target :
         {Target(BpwTarget{fmt::format("{:.9f}", 8.0 * static_cast<double>(bytes) / elements + 1e-8)}),
          Target(FileSizeTarget{bytes + 4096}), Target(everything)}) {
      SCOPED_TRACE(to_text(target));
      const Budget budget = find_budget(*job.inputs, known.candidates, target).value();
      if (!budget.feasible()) continue;
      const Solution answer = choose(*job.inputs, known, job.request, budget, job.control).value();
      stopped += answer.proof->why == Termination::Optimal ? 0 : 1;
      if (!std::holds_alternative<MemoryTarget>(target)) {
        EXPECT_LE(answer.predicted_error, cost->error * (1 + 1e-12));
      }
      EXPECT_NEAR(answer.proof->objective, answer.predicted_error, 1e-9);
      EXPECT_LE(answer.proof->lower_bound, answer.proof->objective);
      EXPECT_LE(answer.memories[0].used_bytes, *answer.memories[0].budget_bytes);
    }
  }
  EXPECT_GT(stopped, 0);
}

TEST(Solve, EveryMemorySaysWhenItHasTheBest) {
  test::Job job;
  const Solution plenty =
      job.solve(room_for(job, 9 * tensor_size(Format::F16), 9 * tensor_size(Format::F16), "ffn_down"));
  EXPECT_THAT(plenty.limits, Contains(HasSubstr("every tensor on the GPU has its best format already")));
  EXPECT_THAT(plenty.limits, Contains(HasSubstr("every tensor in RAM has its best format already")));
  job.inputs.reset();
  const Solution tight =
      job.solve(room_for(job, 9 * tensor_size(Format::F16), 2 * tensor_size(Format::Q4_K), "ffn_down"));
  EXPECT_THAT(tight.limits, Not(Contains(HasSubstr("in RAM"))));
}

TEST(Solve, WhatIsInRamWithoutALimitIsSaid) {
  test::Job job;
  const Solution answer = job.solve(room_for(job, 9 * tensor_size(Format::F16), std::nullopt, "ffn_down"));
  EXPECT_EQ(test::format_of(answer, "blk.0.ffn_down.weight"), Format::F16);
  EXPECT_THAT(answer.notes, Contains(HasSubstr("RAM has no limit")));
  EXPECT_FALSE(answer.find(BudgetKind::Ram)->budget_bytes);
  EXPECT_EQ(answer.find(BudgetKind::Ram)->used_bytes, 2 * tensor_size(Format::F16));
}

TEST(Solve, TheMemoryThatIsShortIsNamed) {
  test::Job job;
  const auto checked = job.check({room_for(job, 9 * tensor_size(Format::F16), 1, "ffn_down")}).value();
  const Budget& budget = checked.budgets[0];
  EXPECT_FALSE(budget.feasible());
  EXPECT_TRUE(budget.find(BudgetKind::Gpu)->feasible());
  EXPECT_FALSE(budget.find(BudgetKind::Ram)->feasible());
}

TEST(Solve, AStopByTimeIsPartOfTheAnswer) {
  test::Job job;
  job.request.allocator.max_seconds = 0;
  const Solution answer = job.solve(BpwTarget{"3.9"});
  ASSERT_EQ(answer.proof->why, Termination::TimeLimit);
  EXPECT_THAT(answer.limits, Contains(HasSubstr("other machines may answer differently")));
}

TEST(Solve, CanBeInterrupted) {
  test::Job job;
  const PreparedJob prepared = job.prepare({BpwTarget{"3.9"}});
  job.cancel.cancel();
  const auto stopped = choose(*job.inputs, prepared, job.request, prepared.budgets[0], job.control);
  ASSERT_FALSE(stopped);
  EXPECT_EQ(stopped.error().code, ErrorCode::Interrupted);
  const auto compared = compare_static_recipes(*job.inputs, prepared, job.request, job.control);
  ASSERT_FALSE(compared);
  EXPECT_EQ(compared.error().code, ErrorCode::Interrupted);
}

}  // namespace
}  // namespace quantfit::optimizer
