// What the commands that tune have in common.
#pragma once

#include <array>
#include <filesystem>
#include <string>
#include <string_view>

#include "cli/console.h"
#include "cli/option_table.h"
#include "core/error.h"
#include "core/model.h"
#include "optimizer/calibration/text.h"
#include "optimizer/output/encoded_tensors.h"
#include "optimizer/tuning/tune.h"
#include "state/records.h"

namespace quantfit::cli {

void add_tune_time_option(OptionTable& table, std::string& time);

// Keys of a file of ours that speak of the bytes of its tensors (tuned_file.h).
inline constexpr std::array<std::string_view, 2> kKeysAboutBytes = {optimizer::kTensorInputs,
                                                                    optimizer::kTensorData};

// Where the tuning of what becomes `output` goes on after an interruption.
[[nodiscard]] std::filesystem::path tuning_checkpoint(const std::filesystem::path& output);
// What to do after one, for people.
[[nodiscard]] std::string tuning_resume_hint(const std::filesystem::path& checkpoint);

// Where `time` is not empty: sets level and steps of `options`, and cuts `text`, read as `request` says, to
// what fits into it on this machine. InvalidArgument naming --tune-time; errors of choose_for_time.
[[nodiscard]] Result<void> fit_into_time(const std::string& time, const Model& original,
                                         const Model& quantized, const calibration::TextRequest& request,
                                         calibration::Text& text, tuning::TuneOptions& options,
                                         const JobContext& context);

// What a state file and reports keep of a tuning: divergences from the original on the text held back, before
// and after, as figures of `file`, which it made; `text` as it was tuned on.
inline constexpr std::string_view kDivergenceBefore = "kl divergence before tuning";
inline constexpr std::string_view kDivergenceAfter = "kl divergence after tuning";
inline constexpr std::string_view kDivergenceChange = "change of kl divergence by tuning";
[[nodiscard]] state::Evaluation tuning_record(const std::string& original_fingerprint, const Model& file,
                                              const calibration::Text& text,
                                              const tuning::TuneResult& result);

}  // namespace quantfit::cli
