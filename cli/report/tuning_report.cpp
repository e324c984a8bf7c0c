#include "cli/report/tuning_report.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

namespace quantfit::cli {
namespace {

nlohmann::ordered_json json_of(const tuning::Gain& gain) {
  return {{"before", gain.before},
          {"after", gain.after},
          {"difference", gain.difference},
          {"difference_error", gain.difference_error}};
}

}  // namespace

nlohmann::ordered_json to_json(const tuning::TuneResult& result,
                               const std::optional<tuning::TimedChoice>& choice) {
  auto attempts = nlohmann::ordered_json::array();
  for (const tuning::Attempt& attempt : result.attempts) {
    auto looks = nlohmann::ordered_json::array();
    for (const tuning::Look& look : attempt.looks)
      looks.push_back({{"step", look.step}, {"divergence", look.divergence}});
    attempts.push_back({{"level", tuning::to_string(attempt.level)},
                        {"moments", tuning::to_string(attempt.moments)},
                        {"rates", attempt.rates},
                        {"steps", attempt.steps},
                        {"best_step", attempt.best_step},
                        {"codes", attempt.codes},
                        {"codes_moved", attempt.codes_moved},
                        {"kept", attempt.kept},
                        {"given_up", attempt.given_up},
                        {"looks", looks},
                        {"divergence", json_of(attempt.gain)}});
  }
  auto layers = nlohmann::ordered_json::array();
  for (const tuning::LayerOutcome& one : result.layers)
    layers.push_back({{"layer", one.layer},
                      {"level", tuning::to_string(one.attempt.level)},
                      {"best_step", one.attempt.best_step},
                      {"kept", one.attempt.kept},
                      {"loss", json_of(one.attempt.gain)}});
  nlohmann::ordered_json chosen;
  if (choice)
    chosen = {{"level", tuning::to_string(choice->level)},
              {"steps", choice->steps},
              {"chunks", choice->chunks},
              {"seconds_allowed", choice->allowed_seconds},
              {"seconds_foreseen", choice->foreseen_seconds}};
  return {{"level", tuning::to_string(result.level)},
          {"divergence", json_of(result.gain)},
          {"attempts", attempts},
          {"layers", layers},
          {"training_tokens", result.training_tokens},
          {"held_back_tokens", result.held_back_tokens},
          {"chosen_for_time", chosen},
          {"continued_at", result.continued_at},
          {"seconds", result.seconds}};
}

nlohmann::ordered_json to_json(std::span<const tuning::TunePlan> plans) {
  auto out = nlohmann::ordered_json::array();
  for (const tuning::TunePlan& plan : plans) {
    auto memory = nlohmann::ordered_json::array();
    for (const auto& item : plan.memory) memory.push_back({{"what", item.name}, {"bytes", item.bytes}});
    out.push_back({{"level", tuning::to_string(plan.level)},
                   {"moments", tuning::to_string(plan.moments)},
                   {"values", plan.values},
                   {"scales", plan.scales},
                   {"codes", plan.codes},
                   {"training_tokens", plan.training_tokens},
                   {"held_back_tokens", plan.held_back_tokens},
                   {"steps", plan.steps},
                   {"memory_bytes", plan.memory_bytes},
                   {"memory", memory},
                   {"forward_passes", plan.passes()}});
  }
  return out;
}

std::string to_text(const tuning::TuneResult& result) {
  std::string out;
  if (result.continued_at > 0 && !result.layers.empty())
    out += fmt::format("{} layers were tuned before\n", result.continued_at);
  else if (result.continued_at > 0)
    out += fmt::format("went on after step {}\n", result.continued_at);
  for (const tuning::LayerOutcome& one : result.layers)
    out +=
        fmt::format("layer {}, {}: {:.3f} of its loss left, {}\n", one.layer,
                    tuning::to_string(one.attempt.level), one.attempt.gain.ratio(),
                    one.attempt.kept ? fmt::format("step {} of {}", one.attempt.best_step, one.attempt.steps)
                                     : std::string("not kept: no better than chance"));
  for (const tuning::Attempt& attempt : result.attempts) {
    out += fmt::format(
        "{}{}{}: KL divergence {:.5f} -> {:.5f} ({:.3f} of it; change {:+.5f} +- {:.5f}) on text held "
        "back, {}\n",
        tuning::to_string(attempt.level),
        attempt.level == tuning::Level::Codes && attempt.moments == tuning::MomentForm::Bytes
            ? " (moments in bytes)"
            : "",
        attempt.rates < 1 ? fmt::format(", {:g} of the rates", attempt.rates) : "", attempt.gain.before,
        attempt.gain.after, attempt.gain.ratio(), attempt.gain.difference, attempt.gain.difference_error,
        attempt.kept ? fmt::format("step {} of {}", attempt.best_step, attempt.steps)
        : attempt.given_up
            ? fmt::format("given up at step {} of {}: worse", attempt.looks.back().step, attempt.steps)
            : std::string("not kept: no better than chance"));
  }
  if (result.level == tuning::Level::None) out += "nothing helped: the file's weights stay as they are\n";
  return out;
}

}  // namespace quantfit::cli
