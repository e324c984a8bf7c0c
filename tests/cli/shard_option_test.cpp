#include "cli/shard_option.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>

namespace quantfit::cli {
namespace {

using Variables = std::map<std::string, std::string>;

std::string parsed(std::string_view text, const Variables& variables = {}) {
  const auto shard = parse_shard(text, [&](const char* name) {
    const auto found = variables.find(name);
    return found == variables.end() ? nullptr : found->second.c_str();
  });
  if (!shard) {
    EXPECT_EQ(shard.error().code, ErrorCode::InvalidArgument);
    return shard.error().message;
  }
  return fmt::format("{}/{}", shard.value().index, shard.value().count);
}

TEST(ShardOption, ReadsWhatPeopleWrite) {
  EXPECT_EQ(parsed(""), "1/1");
  EXPECT_EQ(parsed("3/16"), "3/16");
  for (const char* text :
       {"0/4", "5/4", "1/0", "x/4", "3", "3/", "/4", "-1/4", "1/4/5", "auto/", "1/1000000"})
    EXPECT_THAT(parsed(text), testing::HasSubstr("--shard")) << text;
}

TEST(ShardOption, TakesTheEnvironmentsPlace) {
  EXPECT_EQ(parsed("auto", {{"SLURM_ARRAY_TASK_ID", "7"},
                            {"SLURM_ARRAY_TASK_MIN", "4"},
                            {"SLURM_ARRAY_TASK_COUNT", "8"},
                            {"SLURM_PROCID", "0"},
                            {"SLURM_NTASKS", "1"}}),
            "4/8");
  EXPECT_EQ(parsed("auto", {{"SLURM_ARRAY_TASK_ID", "20"},
                            {"SLURM_ARRAY_TASK_MIN", "0"},
                            {"SLURM_ARRAY_TASK_STEP", "10"},
                            {"SLURM_ARRAY_TASK_COUNT", "4"}}),
            "3/4");
  EXPECT_EQ(parsed("auto", {{"OMPI_COMM_WORLD_RANK", "0"}, {"OMPI_COMM_WORLD_SIZE", "4"}}), "1/4");
  EXPECT_EQ(parsed("auto", {{"SLURM_PROCID", "3"}, {"SLURM_NTASKS", "4"}}), "4/4");
  EXPECT_EQ(parsed("auto/16", {{"JOB_COMPLETION_INDEX", "15"}}), "16/16");
  EXPECT_THAT(parsed("auto", {{"JOB_COMPLETION_INDEX", "15"}}), testing::HasSubstr("auto/N"));
  EXPECT_THAT(parsed("auto/4", {{"JOB_COMPLETION_INDEX", "15"}}), testing::HasSubstr("does not exist"));
  EXPECT_THAT(parsed("auto"), testing::HasSubstr("SLURM_ARRAY_TASK_ID"));
  // Nobody shares work without being told to.
  EXPECT_EQ(parsed("", {{"SLURM_ARRAY_TASK_ID", "7"}, {"SLURM_ARRAY_TASK_COUNT", "8"}}), "1/1");
}

}  // namespace
}  // namespace quantfit::cli
