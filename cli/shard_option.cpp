#include "cli/shard_option.h"

#include <array>
#include <charconv>

#include "core/text.h"

namespace quantfit::cli {
namespace {

constexpr std::uint32_t kMostShards = 100'000;

std::optional<std::uint64_t> number_of(std::string_view text) {
  std::uint64_t value = 0;
  const auto [end, trouble] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (trouble != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

std::optional<std::uint64_t> number_in(const Environment& environment, const char* name) {
  const char* const text = environment(name);
  return text == nullptr ? std::nullopt : number_of(text);
}

// Where a process learns its place among others. Numbers there count from 0, but for arrays of Slurm, which
// count from wherever they were told to.
struct Source {
  const char* number;
  const char* count;  // null: nobody says
  const char* first;  // null: 0
};
constexpr std::array kSources = {
    Source{"SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT", "SLURM_ARRAY_TASK_MIN"},
    Source{"OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", nullptr},
    Source{"SLURM_PROCID", "SLURM_NTASKS", nullptr},
    Source{"JOB_COMPLETION_INDEX", nullptr, nullptr},
};

Result<optimizer::Shard> checked(std::uint64_t index, std::uint64_t count, std::string_view text) {
  if (count == 0 || count > kMostShards || index == 0 || index > count)
    return fail(ErrorCode::InvalidArgument, "--shard {}: part {} of {} does not exist; parts count from 1",
                printable(text), index, count);
  return optimizer::Shard{static_cast<std::uint32_t>(index), static_cast<std::uint32_t>(count)};
}

// `count`: given by the user, or nothing.
Result<optimizer::Shard> from_environment(const std::optional<std::uint64_t>& count, std::string_view text,
                                          const Environment& environment) {
  for (const Source& source : kSources) {
    const auto number = number_in(environment, source.number);
    // A job of one task has these too and is no part of anything, unless it is told so.
    if (!number) continue;
    const auto known = source.count == nullptr ? std::nullopt : number_in(environment, source.count);
    const auto first =
        source.first == nullptr ? std::optional<std::uint64_t>(0) : number_in(environment, source.first);
    if (!known && !count)
      return fail(ErrorCode::InvalidArgument,
                  "--shard auto: {} is {}, but nothing says how many parts there are; write --shard auto/N",
                  source.number, *number);
    if (*number < first.value_or(0))
      return fail(ErrorCode::InvalidArgument, "--shard auto: {} is {}, below the first one, {}",
                  source.number, *number, *first);
    // Arrays with steps (0-30:10) have numbers beyond their count.
    std::uint64_t place = *number - first.value_or(0);
    if (source.first != nullptr)
      if (const auto step = number_in(environment, "SLURM_ARRAY_TASK_STEP"); step && *step > 1)
        place /= *step;
    return checked(place + 1, count ? *count : *known, text);
  }
  return fail(ErrorCode::InvalidArgument,
              "--shard auto: none of SLURM_ARRAY_TASK_ID, OMPI_COMM_WORLD_RANK, SLURM_PROCID and "
              "JOB_COMPLETION_INDEX is set; write --shard i/n");
}

}  // namespace

Result<optimizer::Shard> parse_shard(std::string_view text, const Environment& environment) {
  if (text.empty()) return optimizer::Shard{};
  const std::size_t slash = text.find('/');
  const std::string_view before = text.substr(0, slash);
  std::optional<std::uint64_t> count;
  if (slash != std::string_view::npos) count = number_of(text.substr(slash + 1));
  if (before == "auto" && (slash == std::string_view::npos || count))
    return from_environment(count, text, environment);
  const auto index = number_of(before);
  if (!index || !count)
    return fail(ErrorCode::InvalidArgument, "--shard {}: expected i/n, such as 3/16, or auto or auto/n",
                printable(text));
  return checked(*index, *count, text);
}

}  // namespace quantfit::cli
