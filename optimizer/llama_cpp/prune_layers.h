// Leaving whole layers out of a model, as llama-quantize's --prune-layers does.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "core/error.h"
#include "core/importance_matrix.h"
#include "core/model.h"

namespace quantfit::optimizer {

// What a tensor is called when `layers` (sorted) are gone: "blk.5.x" is "blk.4.x" without layer 2, "" when it
// is of one that goes, and as before without a layer.
[[nodiscard]] std::string name_without_layers(const std::string& name, std::span<const std::uint32_t> layers);

// The model without these layers: the others move up, <arch>.block_count and counts of leading or last layers
// say so, and arrays with one element per layer lose theirs. InvalidArgument for a layer that is not there or
// is named twice, and when none would be left. `warnings`: for people, where the layers' kinds follow from
// their numbers.
[[nodiscard]] Result<Model> prune_layers(Model model, std::vector<std::uint32_t> layers,
                                         std::vector<std::string>& warnings);

}  // namespace quantfit::optimizer
