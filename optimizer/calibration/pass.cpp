#include "optimizer/calibration/pass.h"

#include <optional>
#include <utility>

#include "core/clock.h"

namespace quantfit::calibration {
namespace {

// Hands everything on, and now and then keeps what the next layer begins with.
class Keeper final : public engine::ForwardObserver {
 public:
  Keeper(std::filesystem::path checkpoint, CheckpointIdentity identity, double seconds,
         std::span<PassObserver* const> observers)
      : path_(std::move(checkpoint)),
        identity_(std::move(identity)),
        seconds_(seconds),
        observers_(observers),
        saved_(Clock::now()) {}

  Result<void> begin_layer(std::uint32_t layer) override {
    writer_.reset();
    const double waited = seconds_since(saved_);
    if (!path_.empty() && layer > 0 && waited >= seconds_) {
      static const FinishedSums none;
      const FinishedSums* sums = &none;
      for (const PassObserver* observer : observers_)
        if (observer->sums() != nullptr) sums = observer->sums();
      QF_ASSIGN(writer_, CheckpointWriter::create(path_, identity_, layer, *sums));
    }
    for (PassObserver* observer : observers_) QF_TRY(observer->begin_layer(layer));
    return outcome::success();
  }
  Result<void> layer_input(std::uint32_t layer, std::uint64_t first_token,
                           kernels::MatrixView<const float> rows) override {
    for (PassObserver* observer : observers_) QF_TRY(observer->layer_input(layer, first_token, rows));
    if (!writer_) return outcome::success();
    QF_TRY(writer_->append(rows));
    if (writer_->complete()) {
      writer_.reset();
      saved_ = Clock::now();
    }
    return outcome::success();
  }
  Result<void> product(const engine::MatrixProduct& product) override {
    for (PassObserver* observer : observers_) QF_TRY(observer->product(product));
    return outcome::success();
  }
  Result<void> end_layer(std::uint32_t layer) override {
    for (PassObserver* observer : observers_) QF_TRY(observer->end_layer(layer));
    return outcome::success();
  }

 private:
  std::filesystem::path path_;  // empty: nothing is kept
  CheckpointIdentity identity_;
  double seconds_;
  std::span<PassObserver* const> observers_;
  std::optional<CheckpointWriter> writer_;
  Clock::time_point saved_;
};

bool all_can_continue(std::span<PassObserver* const> observers, const Checkpoint& checkpoint) {
  for (const PassObserver* observer : observers)
    if (!observer->can_continue(checkpoint)) return false;
  return true;
}

}  // namespace

Result<std::uint32_t> run_pass(const engine::Engine& engine, const Text& text, const PassOptions& options,
                               std::span<PassObserver* const> observers, ProgressSink& progress,
                               const CancellationToken& cancel) {
  const CheckpointIdentity identity{options.model_fingerprint, text.fingerprint, text.tokens(),
                                    engine.graph().width, engine::kEngineVersion};
  const std::filesystem::path path = engine.can_resume() ? options.checkpoint : std::filesystem::path();
  std::optional<Checkpoint> checkpoint;
  if (!path.empty()) checkpoint = Checkpoint::open(path, identity);
  if (checkpoint &&
      (checkpoint->layer() > engine.graph().layers.size() || !all_can_continue(observers, *checkpoint)))
    checkpoint.reset();
  engine::Resume resume;
  if (checkpoint) {
    resume.layer = checkpoint->layer();
    resume.layer_input = [&](std::uint64_t first, kernels::MatrixView<float> rows) {
      return checkpoint->layer_input(first, rows);
    };
  }
  for (PassObserver* observer : observers) QF_TRY(observer->begin_pass(checkpoint ? &*checkpoint : nullptr));
  Keeper keeper(path, identity, options.checkpoint_seconds, observers);
  QF_TRY(engine.run(text.inputs(), options.run, &keeper, progress, cancel, checkpoint ? &resume : nullptr));
  return resume.layer;
}

}  // namespace quantfit::calibration
