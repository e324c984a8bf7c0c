#include "optimizer/job/inputs.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "core/fingerprint.h"
#include "core/out_of_memory.h"
#include "core/text.h"
#include "optimizer/llama_cpp/prune_layers.h"
#include "optimizer/llama_cpp/quantize_rules.h"

namespace quantfit::optimizer {
namespace {

// Up to this share of a tensor's experts, those that no token reached are nothing to be warned of.
constexpr double kManyUnseen = 0.05;

// The importance matrix must speak of this model: entries that fit, and at least some for its matrices.
Result<void> check_importance(const Model& model, const ImportanceMatrix& importance,
                              std::vector<bool>& has_importance, std::vector<std::string>& warnings) {
  std::size_t matched = 0;
  std::size_t unmatched = 0;
  std::string first_unmatched;
  for (const auto& [name, entry] : importance.entries()) {
    if (model.find(name) != nullptr) {
      ++matched;
    } else if (unmatched++ == 0) {
      first_unmatched = name;
    }
  }
  if (matched == 0)
    return fail(
        ErrorCode::IdentityMismatch,
        "{}: none of its {} entries names a tensor of {}; this importance matrix belongs to another model",
        importance.path().string(), importance.entries().size(), model.shards()[0].path.string());
  if (unmatched != 0)
    warnings.push_back(fmt::format("{} of {} importance entries have no tensor in the model ('{}', ...)",
                                   unmatched, importance.entries().size(), first_unmatched));
  std::size_t imputed = 0;
  double most_imputed = 0;  // share of a tensor's matrices
  std::size_t quantizable = 0;
  std::size_t without_entry = 0;
  std::string first_without;
  for (const TensorInfo& tensor : model.tensors()) {
    auto statistics = importance.statistics(tensor);
    if (!statistics) return std::move(statistics).error();
    has_importance.push_back(statistics.value().has_value());
    const bool wanted = quantizability(tensor).quantizable && tensor.name.starts_with("blk.");
    quantizable += wanted ? 1 : 0;
    if (!statistics.value()) {
      if (wanted && without_entry++ == 0) first_without = tensor.name;
      continue;
    }
    const auto unseen = std::ranges::count_if(*statistics.value(), &ColumnStatistics::imputed);
    imputed += static_cast<std::size_t>(unseen);
    most_imputed = std::max(most_imputed, double(unseen) / double(statistics.value()->size()));
  }
  if (2 * without_entry > quantizable)
    return fail(
        ErrorCode::IdentityMismatch,
        "{}: {} of the model's {} quantizable matrices have no entry ('{}', ...); this importance matrix "
        "belongs to another model",
        importance.path().string(), without_entry, quantizable, first_without);
  if (without_entry != 0)
    warnings.push_back(
        fmt::format("{} quantizable tensors have no importance data ('{}', ...): all their columns "
                    "count the same",
                    without_entry, first_without));
  if (most_imputed > kManyUnseen)
    warnings.push_back(
        fmt::format("{} expert matrices were never reached by the calibration text, up to {:.0f} % of a "
                    "tensor's; the mean of the others stands in: a longer text tells more",
                    imputed, 100 * most_imputed));
  return outcome::success();
}

// The store of a file that is only read; IdentityMismatch as StateStore::open.
Result<state::StateStore> recall(const JobPaths& paths, const std::string& fingerprint,
                                 const CancellationToken* cancel) {
  QF_ASSIGN(state::StateStore store, state::StateStore::open_read_only(paths.state, cancel));
  QF_ASSIGN(const state::ModelIdentity model, store.model());
  if (model.fingerprint != fingerprint)
    return fail(ErrorCode::IdentityMismatch, "{}: holds measurements of model {}, not of {}",
                paths.state.string(), printable(model.name), printable(paths.model.filename().string()));
  return store;
}

// What the state file knows about the model's files. fingerprint() has compared samples of every tensor;
// files that are the same by size, time and inode hold the same weights, of others that is not proved.
Result<void> look_at_source(JobInputs& inputs, StateUse use) {
  QF_ASSIGN(inputs.files, file_stamps(inputs.model));
  if (!inputs.store) return outcome::success();
  QF_ASSIGN(const state::ModelIdentity model, inputs.store->model());
  inputs.known_digest = model.digest;
  QF_ASSIGN(const auto sources, inputs.store->sources());
  const auto now = std::ranges::find(sources, stamp_key(inputs.files),
                                     [](const state::Source& source) { return stamp_key(source.files); });
  const bool known = now != sources.end();
  if (!sources.empty() && !(known && (now->proved || sources.size() == 1)))
    inputs.warnings.push_back(fmt::format(
        "{}: by size, time and inode it is not known to be the file that was {}: samples of every tensor "
        "agree, which does not prove that every weight does; {}",
        printable(inputs.model.shards().front().path.filename().string()),
        model.digest.empty() ? "measured" : "read as a whole",
        model.digest.empty() ? "a copy of the same file is nothing to worry about"
                             : "what is written next compares them all"));
  return known || use == StateUse::Recall ? outcome::success() : inputs.store->remember_source(inputs.files);
}

}  // namespace

Result<void> remember_digest(JobInputs& inputs, const std::string& digest) {
  if (!inputs.store) return outcome::success();
  QF_TRY(inputs.store->remember_source(inputs.files, digest));
  inputs.known_digest = digest;
  return outcome::success();
}

Result<JobInputs> open_inputs(const JobPaths& paths, const CancellationToken* cancel, StateUse use) {
  return or_out_of_memory(paths.model.string(), [&]() -> Result<JobInputs> {
    std::vector<std::string> warnings;
    QF_ASSIGN(Model model, Model::open(paths.model));
    QF_ASSIGN(model, prune_layers(std::move(model), paths.pruned_layers, warnings));
    QF_ASSIGN(ModelTraits facts, model_traits(model.metadata(), model.tensors()));
    JobInputs inputs{std::move(model), std::move(facts), {}, {}, {}, {}, {}, {}, std::move(warnings), {}, {}};
    if (!paths.importance.empty()) {
      QF_ASSIGN(inputs.importance, ImportanceMatrix::read(paths.importance));
      if (!paths.pruned_layers.empty() && !paths.importance_is_pruned) {
        std::vector<std::uint32_t> layers = paths.pruned_layers;
        std::ranges::sort(layers);
        inputs.importance = inputs.importance->renamed(
            [&](const std::string& name) { return name_without_layers(name, layers); });
      }
      std::ranges::copy(inputs.importance->warnings(), std::back_inserter(inputs.warnings));
      QF_TRY(check_importance(inputs.model, *inputs.importance, inputs.has_importance, inputs.warnings));
      inputs.importance_fingerprint = fingerprint(*inputs.importance);
      QF_TRY(inputs.importance->check_unchanged());
    }
    {
      const ModelWatch watch(inputs.model);
      inputs.model_fingerprint = fingerprint(inputs.model);
      QF_TRY(watch.check());
    }
    if (!paths.state.empty() && use == StateUse::Recall) {
      QF_ASSIGN(inputs.store, recall(paths, inputs.model_fingerprint, cancel));
    } else if (!paths.state.empty()) {
      QF_ASSIGN(inputs.store,
                state::StateStore::open(paths.state,
                                        {inputs.model_fingerprint, paths.model.filename().string(),
                                         inputs.model.total_elements()},
                                        cancel));
      if (inputs.importance) {
        state::ImportanceIdentity identity;
        identity.fingerprint = inputs.importance_fingerprint;
        identity.name = paths.importance.filename().string();
        for (const std::string& dataset : inputs.importance->datasets())
          identity.datasets += (identity.datasets.empty() ? "" : ",") + dataset;
        identity.chunk_count = inputs.importance->chunk_count();
        identity.has_activations = inputs.importance->has_activations();
        QF_TRY(inputs.store->remember_importance(identity));
      }
    }
    QF_TRY(look_at_source(inputs, use));
    return inputs;
  });
}

}  // namespace quantfit::optimizer
