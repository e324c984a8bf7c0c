#include "optimizer/output/output_files.h"

#include "core/file_util.h"
#include "core/gguf_layout.h"
#include "core/shard_plan.h"

namespace quantfit::optimizer {

OutputFiles::OutputFiles(const OutputLayout& layout, const std::filesystem::path& path, Existing existing)
    : layout_(layout), existing_(existing) {
  for (std::size_t i = 0; i < layout.files.size(); ++i)
    paths_.push_back(shard_path(path, i, layout.files.size()));
}

Result<void> OutputFiles::check_targets(const Model& model) const {
  for (const std::filesystem::path& path : paths_) {
    for (const GgufShard& shard : model.shards())
      if (same_file(shard.path, path))
        return fail(ErrorCode::InvalidArgument, "{}: the output would replace the model it is made from",
                    path.string());
    QF_TRY(check_target(path, existing_));
  }
  return outcome::success();
}

Result<void> OutputFiles::begin() {
  const std::size_t index = writers_.size();
  const PlannedShard& file = layout_.files[index];
  // The first is created when nothing is written yet: the space for all of them is asked for there.
  QF_ASSIGN(GgufWriter writer,
            GgufWriter::create(
                paths_[index],
                shard_metadata(layout_.metadata, index, layout_.files.size(), layout_.tensors.size()),
                std::span(layout_.tensors).subspan(file.first_tensor, file.tensors), kGgufDefaultAlignment,
                existing_, index == 0 ? layout_.file_bytes : 0));
  writers_.push_back(std::move(writer));
  return outcome::success();
}

Result<void> OutputFiles::append(std::size_t tensor, std::span<const std::byte> bytes) {
  while (tensor >= end_of_current()) QF_TRY(next());
  return writers_.back().append(bytes);
}

Result<void> OutputFiles::commit(std::span<const GgufKeyValue> values) {
  while (writers_.size() < layout_.files.size()) QF_TRY(next());
  for (const GgufKeyValue& value : values)
    if (layout_.metadata.find(value.key) != nullptr) QF_TRY(writers_.front().set_value(value));
  if (writers_.size() == 1) return writers_.front().commit();
  return GgufWriter::commit_together(writers_);
}

std::size_t OutputFiles::end_of_current() const {
  const PlannedShard& file = layout_.files[writers_.size() - 1];
  return file.first_tensor + file.tensors;
}

Result<void> OutputFiles::next() {
  QF_TRY(writers_.back().seal());
  return begin();
}

}  // namespace quantfit::optimizer
