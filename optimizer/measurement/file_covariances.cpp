#include "optimizer/measurement/file_covariances.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "core/text.h"

namespace quantfit::optimizer {

FileCovariances::FileCovariances(SecondMomentsFile file, float damping, std::uint64_t cache_bytes)
    : file_(std::move(file)), damping_(damping), cache_bytes_(cache_bytes) {}

std::string FileCovariances::identity() const {
  const SecondMomentsIdentity& identity = file_.identity();
  std::uint64_t numbers = 0;
  std::uint64_t blocks = 0;
  for (const SecondMomentsInput& input : file_.inputs()) {
    numbers += input.packed() * input.matrices + std::uint64_t{input.experts} * input.columns;
    blocks += std::min(input.block, input.columns);
  }
  return fmt::format("model={},text={},engine={},numbers={},blocks={},damping={},shrinkage=1", identity.model,
                     identity.text, identity.engine_version, numbers, blocks, damping_);
}

Result<std::shared_ptr<const kernels::CovarianceFactor>> FileCovariances::covariance(
    const TensorInfo& tensor, std::uint64_t matrix) const {
  const SecondMomentsInput* input = file_.find(tensor.name);
  if (input == nullptr) return Factor();
  const std::uint64_t known = input->experts > 0 ? input->experts : input->matrices;
  if (input->columns != tensor.row_length() || matrix >= known || tensor.matrices() != known)
    return fail(
        ErrorCode::ShapeMismatch,
        "tensor {}: second moments of {} columns and {} matrices, not {} and {}: they are of another model",
        printable(tensor.name), input->columns, known, tensor.row_length(), tensor.matrices());
  if (!(file_.rows(*input, static_cast<std::uint32_t>(matrix)) > 0)) return Factor();
  auto factor = get({input, matrix});
  if (!factor)
    return fail(factor.error().code, "tensor {}: {}", printable(tensor.name), factor.error().message);
  return factor;
}

namespace {

// What a factor holds, about: covariance.h.
std::uint64_t bytes_of(const SecondMomentsInput& input) {
  const std::uint64_t block = (std::min(input.block, input.columns) + 255) / 256 * 256;
  return std::uint64_t{input.columns} * (block + 270) * sizeof(float);
}

}  // namespace

float FileCovariances::shrinkage_for(std::uint64_t columns, double rows) {
  if (!(rows > 0)) return static_cast<float>(kMostShrinkage);
  const double columns_per_row = static_cast<double>(columns) / rows;
  return static_cast<float>(std::clamp(1.5 * columns_per_row - 0.015, 0.0, kMostShrinkage));
}

double FileCovariances::rows_of(const SecondMomentsInput& input, std::uint64_t matrix) const {
  if (matrix != kShared) return file_.rows(input, static_cast<std::uint32_t>(matrix));
  double rows = 0;
  for (std::uint32_t e = 0; e < input.experts; ++e) rows += file_.rows(input, e);
  return rows;
}

Result<FileCovariances::Factor> FileCovariances::get(const Key& key) const {
  std::shared_ptr<Slot> slot;
  {
    const std::scoped_lock lock(mutex_);
    std::shared_ptr<Slot>& entry = slots_[key];
    if (!entry) {
      entry = std::make_shared<Slot>();
      used_.push_front(key);
      entry->used = used_.begin();
    } else {
      used_.splice(used_.begin(), used_, entry->used);
    }
    slot = entry;
  }
  // Threads that need it too help to make it. What cannot be made fails for all of them.
  const bool made_here =
      slot->once.call([&](const MadeTogether::ForEach& each) { slot->factor = make(key, each); });
  if (!made_here || !slot->factor) return slot->factor;
  const std::scoped_lock lock(mutex_);
  // It may have been dropped while it was made.
  if (const auto entry = slots_.find(key); entry == slots_.end() || entry->second != slot)
    return slot->factor;
  slot->bytes = bytes_of(*key.first);
  bytes_ += slot->bytes;
  while (bytes_ > cache_bytes_ && used_.size() > 1) {
    const auto oldest = slots_.find(used_.back());
    if (oldest->second == slot) break;
    bytes_ -= oldest->second->bytes;
    slots_.erase(oldest);
    used_.pop_back();
  }
  return slot->factor;
}

Result<FileCovariances::Factor> FileCovariances::make(const Key& key, const kernels::ForEach& each) const {
  const auto& [input, matrix] = key;
  if (input->experts > 0 && matrix != kShared) {
    QF_ASSIGN(const Factor shared, get({input, kShared}));
    QF_ASSIGN(const auto diagonal, file_.diagonal(*input, static_cast<std::uint32_t>(matrix)));
    QF_ASSIGN(auto factor, shared->with_diagonal(diagonal, each));
    return std::make_shared<const kernels::CovarianceFactor>(std::move(factor));
  }
  QF_ASSIGN(const auto triangles,
            file_.packed_moments(*input, matrix == kShared ? 0 : static_cast<std::uint32_t>(matrix)));
  const std::size_t block =
      input->block >= input->columns ? (input->columns + 255) / 256 * 256 : input->block;
  QF_ASSIGN(
      auto factor,
      kernels::CovarianceFactor::make_packed(
          input->columns, block, triangles, damping_,
          shrinkage_for(std::min<std::uint64_t>(block, input->columns), rows_of(*input, matrix)), each));
  return std::make_shared<const kernels::CovarianceFactor>(std::move(factor));
}

}  // namespace quantfit::optimizer
