#include "cli/tuning_job.h"

#include <fmt/format.h>

#include "cli/duration.h"
#include "core/fingerprint.h"
#include "core/text.h"
#include "optimizer/tuning/layers.h"
#include "optimizer/tuning/timing.h"

namespace quantfit::cli {

void add_tune_time_option(OptionTable& table, std::string& time) {
  table.add("--tune-time", time, "TIME",
            "tune what fits into this time on this machine, 30m say: level, steps and chunks of the text are "
            "chosen by the time that one step takes here, and told, so that they can be given as such");
}

std::filesystem::path tuning_checkpoint(const std::filesystem::path& output) {
  return output.string() + ".tuning";
}

std::string tuning_resume_hint(const std::filesystem::path& checkpoint) {
  std::error_code ignored;
  if (!std::filesystem::exists(checkpoint, ignored) &&
      !std::filesystem::exists(tuning::layer_file(checkpoint, 0), ignored))
    return "no step of the tuning was saved: the same command begins it anew";
  return fmt::format("the same command goes on with the tuning from what was saved last, in {}",
                     escaped(checkpoint.string()));
}

Result<void> fit_into_time(const std::string& time, const Model& original, const Model& quantized,
                           const calibration::TextRequest& request, calibration::Text& text,
                           tuning::TuneOptions& options, const JobContext& context) {
  if (time.empty()) return outcome::success();
  auto seconds = parse_duration(time);
  if (!seconds) return fail(seconds.error().code, "--tune-time: {}", seconds.error().message);
  QF_ASSIGN(options.choice, tuning::choose_for_time(original, quantized, text, options, seconds.value(),
                                                    context.progress, context.cancel));
  const tuning::TimedChoice& choice = *options.choice;
  options.level = choice.level;
  options.steps = choice.steps;
  if (choice.chunks < text.windows.count()) {
    calibration::TextRequest cut = request;
    cut.most = choice.chunks;
    QF_ASSIGN(text, calibration::read_text(original, cut));
  }
  context.logger.log(LogLevel::Info,
                     fmt::format("--tune-time {}: level {}, {} steps, {} chunks; about {} foreseen", time,
                                 tuning::to_string(choice.level), choice.steps, choice.chunks,
                                 format_duration(choice.foreseen_seconds)));
  return outcome::success();
}

state::Evaluation tuning_record(const std::string& original_fingerprint, const Model& file,
                                const calibration::Text& text, const tuning::TuneResult& result) {
  const auto length = static_cast<std::uint64_t>(text.windows.window_tokens());
  state::Evaluation out;
  out.identity.base_fingerprint = original_fingerprint;
  out.identity.candidate_fingerprint = fingerprint(file);
  out.identity.text_fingerprint = text.fingerprint;
  out.identity.context = static_cast<std::uint32_t>(length);
  out.identity.chunks = result.held_back_tokens / length;
  out.identity.engine_version = engine::kEngineVersion;
  out.candidate_name = file.shards()[0].path.filename().string();
  for (const std::string& name : text.names) out.text_name += (out.text_name.empty() ? "" : ", ") + name;
  out.program_version = QUANTFIT_VERSION;
  out.estimates = {{std::string(kDivergenceChange), result.gain.difference, result.gain.difference_error},
                   {std::string(kDivergenceAfter), result.gain.after, std::nullopt},
                   {std::string(kDivergenceBefore), result.gain.before, std::nullopt}};
  return out;
}

}  // namespace quantfit::cli
