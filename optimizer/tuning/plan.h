// What a tuning will do, and what it will need.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "core/error.h"
#include "core/model.h"
#include "optimizer/calibration/text.h"
#include "optimizer/engine/forward.h"
#include "optimizer/tuning/level.h"
#include "optimizer/tuning/moments.h"

namespace quantfit::tuning {

// Windows that a text has to have.
inline constexpr std::uint32_t kFewestWindows = 8;
inline constexpr std::uint32_t kLooks = 4;  // at the text held back during an attempt

inline constexpr std::uint32_t kFewestSteps = 16;

// Where the text held back refuses a level, it and those after it are tried with this share of the rates:
// what is close already is moved away by steps of the usual size. Mixture of experts at 4.5 bpw, divergence
// of the text held back over the untuned one, codes: more than 1 with the usual rates and half of them, 0.885
// (not decided) with a quarter, 0.798 with an eighth.
inline constexpr double kLowerRates = 1.0 / 8;

// What was chosen so that a tuning fits into a time: the same level, steps and windows given as such make the
// same file, on any machine.
struct TimedChoice {
  Level level = Level::None;
  std::uint32_t steps = 0;
  std::uint32_t chunks = 0;  // windows of the text, the first ones
  double allowed_seconds = 0, foreseen_seconds = 0;
  std::string question;  // digest of what it was chosen for
};

enum class TuneForm : std::uint8_t {
  Auto,    // whole, where the memory has room for it
  Whole,   // all layers together, on the divergence of predictions
  Layers,  // one layer at a time (layers.h)
  Both,    // so first, and then whole, from what that left
};

struct TuneOptions {
  // threads, and the memory of everything together; nothing depends on them but time.
  engine::RunOptions run = {};
  // Nothing: the highest level for which there is memory, and the next lower one where text held back refuses
  // it.
  std::optional<Level> level = {};
  TuneForm form = TuneForm::Auto;
  std::uint32_t steps = 0;           // 0: as many as suit the tokens (suitable_steps)
  std::uint32_t step_tokens = 1024;  // of a step; whole windows, at least one
  std::uint32_t seed = 1;            // of the order of windows
  // Of codes. Nothing: whole where the memory suffices, else bytes.
  std::optional<MomentForm> moments = {};
  // Rates of the first step; those of scales and codes are in proportion to the relative error of their
  // tensor's weights (Parameters::step).
  double value_rate = 0.007;  // relative to the root mean square of a tensor
  double scale_rate = 0.007;  // relative to each scale
  // In usual distances of levels. Measured before rates followed errors, divergences over the untuned ones,
  // near and far text: at 3.5 bpw 0.826 and 0.963 with 0.01, 0.789 and 0.902 with 0.005, 0.782 and 0.895 with
  // 0.0025; at 2.6 bpw 0.631 and 0.727 with 0.01, 0.656 and 0.734 with 0.005.
  double code_rate = 0.005;
  // The pull of offsets back to zero: the mean loss over N training tokens has offset^2 / (2 spread^2 N)
  // beside it for every number, as if offsets had a normal prior of that spread.
  double spread = 0.5;
  // Remembered in the checkpoint, so that a run that goes on has the same; changes nothing by itself.
  std::optional<TimedChoice> choice = {};
  // Where a run that was interrupted goes on; empty: nowhere. Who writes the result removes it.
  std::filesystem::path checkpoint = {};
  // Between two saves, at least; more where saving takes long. 0: after every step.
  double checkpoint_seconds = 5;
};

// Steps for so many training tokens: one pass over a long text, up to four over a short one.
[[nodiscard]] std::uint32_t suitable_steps(std::uint64_t tokens, std::uint32_t step_tokens);

// What a run will do and need.
struct TunePlan {
  Level level = Level::None;  // that it begins with
  bool by_layers = false;     // one layer at a time
  MomentForm moments = MomentForm::Whole;
  std::uint64_t values = 0, scales = 0, codes = 0;
  std::uint64_t training_tokens = 0, held_back_tokens = 0;
  std::uint32_t steps = 0;
  std::vector<engine::RunPlan::Item> memory;  // at the peak
  std::uint64_t memory_bytes = 0;
  std::uint64_t scratch_bytes = 0;   // of files for states between layers, one layer at a time
  double multiply_adds = 0;          // of everything
  double forward_multiply_adds = 0;  // of one pass of the original over the whole text
  // The work of everything in such passes.
  [[nodiscard]] double passes() const { return multiply_adds / forward_multiply_adds; }
  [[nodiscard]] std::string describe() const;
};

// Errors as those of tune(), as far as they can be known beforehand.
[[nodiscard]] Result<TunePlan> plan_tuning(const Model& original, const Model& quantized,
                                           const calibration::Text& text, const TuneOptions& options);

// What every level would do and need for which there is memory, the lowest first, of a file that need not
// exist: `stored` are its tensors, of the original's names. options.level counts for nothing. Errors of
// Engine::open; InvalidArgument for a text of too few windows.
[[nodiscard]] Result<std::vector<TunePlan>> plan_levels(const Model& original,
                                                        std::span<const TensorInfo> stored,
                                                        const calibration::Text& text,
                                                        const TuneOptions& options);
// A table of them for people.
[[nodiscard]] std::string describe(std::span<const TunePlan> plans);

// The models and the text of a tuning, opened.
struct Opened {
  engine::Engine original, quantized;
  engine::TokenWindows windows;
};
[[nodiscard]] Result<Opened> open_models(const Model& original, const Model& quantized,
                                         const calibration::Text& text);

// The levels to try, the highest first.
[[nodiscard]] std::vector<Level> levels_to_try(const Opened& opened, const TuneOptions& options);

// How a level will be gone about, with its memory limit shared out.
struct LevelPlan {
  TunePlan plan;
  bool states_in_memory = true;  // the original's final states
  engine::RunOptions run = {};   // of the original's pass, and of steps and looks after it
};
// NoSpace where there is no room for it in any form.
[[nodiscard]] Result<LevelPlan> plan_level(const Opened& opened, const TuneOptions& options, Level level);

// Windows of a step.
[[nodiscard]] std::size_t step_windows(const TuneOptions& options, std::size_t window_tokens);

}  // namespace quantfit::tuning
