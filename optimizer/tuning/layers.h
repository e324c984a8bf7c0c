// Tuning for models that do not fit into memory: one layer at a time, from the first to the last.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "core/error.h"
#include "core/model.h"
#include "core/progress.h"
#include "optimizer/calibration/text.h"
#include "optimizer/tuning/attempt.h"
#include "optimizer/tuning/plan.h"
#include "optimizer/tuning/tune.h"

namespace quantfit::tuning {

// Each layer gets the inputs that the tuned layers before it make, and is trained towards what the original's
// layer gives out for the original's inputs. The loss of a token is 1/2 sum over channels c of G_c (y_c -
// t_c)^2: G_c is the mean squared gradient of -ln p(y) at channel c of the stream behind the layer, from a
// backward pass of the original over some of the windows, so that it is the divergence that the layer's
// error costs, to second order and with channels taken as unrelated. Where that pass does not fit into the
// memory, all channels count the same, and the loss is half the squared error relative to the mean square of
// t. A layer is kept as it was where the windows held back are not better off by two standard errors; and all
// of them are where the whole file's divergence is not. Embedding, output matrix and final norm stay.
//
// In memory are one layer's numbers, a batch's activations, and, or in scratch files, three times the states
// of all tokens. What a layer became lies in a file beside options.checkpoint (layer_file()), where a run
// that was interrupted finds it; a layer that was under way begins anew. Errors as those of tune(), and
// InvalidArgument for models whose layers share keys.
[[nodiscard]] Result<TuneResult> tune_layers(const Model& original, const Model& quantized,
                                             const calibration::Text& text, const TuneOptions& options,
                                             ProgressSink& progress, const CancellationToken& cancel);

// Whether the models' layers can be run alone.
[[nodiscard]] bool can_tune_layers(const Opened& opened);
// Memory, scratch and work of that; plan.level is the highest that is tried. NoSpace where the limit has no
// room for a layer in any form.
[[nodiscard]] Result<LevelPlan> plan_layers(const Opened& opened, const TuneOptions& options);

[[nodiscard]] std::filesystem::path layer_file(const std::filesystem::path& checkpoint, std::size_t layer);
// Removes a tuning's checkpoint, those of its layers included.
void remove_checkpoint(const std::filesystem::path& checkpoint);

}  // namespace quantfit::tuning
