#include "core/model.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "core/checked.h"
#include "core/gguf_layout.h"
#include "core/gguf_reader.h"
#include "core/mapped_file.h"
#include "core/out_of_memory.h"
#include "core/text.h"

namespace quantfit {
namespace {

constexpr std::string_view kSplitNo = "split.no";
constexpr std::string_view kSplitCount = "split.count";
constexpr std::string_view kSplitTensors = "split.tensors.count";

// What a shard says about the whole; count 0 or 1 means a single file.
struct Split {
  std::uint64_t no = 0;
  std::uint64_t count = 0;
  std::uint64_t tensors = 0;
};

Result<std::uint64_t> split_value(const GgufMetadata& metadata, std::string_view key, GgufType type,
                                  const std::string& file) {
  const GgufKeyValue* pair = metadata.find(key);
  if (pair == nullptr) return fail(ErrorCode::Malformed, "{}: a shard without the key {}", file, key);
  if (pair->type != type)
    return fail(ErrorCode::Malformed, "{}: {} has value type {}, expected {}", file, key,
                static_cast<std::uint32_t>(pair->type), static_cast<std::uint32_t>(type));
  const auto value = pair->as_uint();
  if (!value) return fail(ErrorCode::Malformed, "{}: {} is negative", file, key);
  return *value;
}

Result<Split> split_of(const GgufMetadata& metadata, const std::string& file) {
  Split split;
  if (metadata.find(kSplitCount) == nullptr) return split;
  QF_ASSIGN(split.count, split_value(metadata, kSplitCount, GgufType::UInt16, file));
  if (split.count <= 1) return split;  // merged files keep the keys with count 0
  QF_ASSIGN(split.no, split_value(metadata, kSplitNo, GgufType::UInt16, file));
  QF_ASSIGN(split.tensors, split_value(metadata, kSplitTensors, GgufType::Int32, file));
  return split;
}

std::string shard_suffix(std::uint64_t index, std::uint64_t count) {
  return fmt::format("-{:05}-of-{:05}.gguf", index + 1, count);
}

Result<GgufContents> parse(const MappedFile& file, const std::string& name, OpenMode mode) {
  const FileWatch watch(file);
  auto contents = parse_gguf(file.bytes(), name, mode);
  // What was read of a file that lost its end makes no sense, and the message should not be about that.
  QF_TRY(file.check_unchanged());
  return contents;
}

}  // namespace

Model::Model() = default;
Model::Model(Model&&) noexcept = default;
Model& Model::operator=(Model&&) noexcept = default;
Model::~Model() = default;

Result<Model> Model::open(const std::filesystem::path& path, OpenMode mode) {
  return or_out_of_memory(path.string(), [&]() -> Result<Model> {
    Model model;
    // Adds one file: its mapping, its shard record and its tensors.
    const auto add = [&model](std::unique_ptr<MappedFile> file, const std::filesystem::path& from,
                              GgufContents& contents) {
      const auto shard = static_cast<std::uint32_t>(model.shards_.size());
      model.shards_.push_back({from, file->bytes().size(), contents.data_offset, contents.version,
                               contents.alignment, file->modified(), file->inode()});
      for (TensorInfo& tensor : contents.tensors) {
        tensor.shard = shard;
        model.tensors_.push_back(std::move(tensor));
      }
      model.files_.push_back(std::move(file));
    };

    const std::string first_name = path.string();
    QF_ASSIGN(auto first, MappedFile::open(path));
    QF_ASSIGN(GgufContents contents, parse(*first, first_name, mode));
    model.metadata_ = std::move(contents.metadata);
    QF_ASSIGN(const Split split, split_of(model.metadata_, first_name));
    add(std::move(first), path, contents);

    if (split.count > 1) {
      if (split.no >= split.count)
        return fail(ErrorCode::Malformed, "{}: {} is {}, but {} is {}", first_name, kSplitNo, split.no,
                    kSplitCount, split.count);
      const std::string file_name = path.filename().string();
      const std::string suffix = shard_suffix(split.no, split.count);
      if (!file_name.ends_with(suffix) || file_name.size() == suffix.size())
        return fail(ErrorCode::Malformed,
                    "{}: this is shard {} of {}, so its name must end with {} after a prefix", first_name,
                    split.no + 1, split.count, suffix);
      const std::string prefix = file_name.substr(0, file_name.size() - suffix.size());
      if (split.no != 0)
        return fail(ErrorCode::Unsupported, "{}: this is shard {} of {}; open the first one, {}{}",
                    first_name, split.no + 1, split.count, prefix, shard_suffix(0, split.count));
      for (std::uint64_t i = 1; i < split.count; ++i) {
        const std::filesystem::path shard_path = path.parent_path() / (prefix + shard_suffix(i, split.count));
        const std::string shard_name = shard_path.string();
        QF_ASSIGN(auto file, MappedFile::open(shard_path));
        QF_ASSIGN(GgufContents shard, parse(*file, shard_name, mode));
        QF_ASSIGN(const Split own, split_of(shard.metadata, shard_name));
        if (own.count != split.count)
          return fail(ErrorCode::Malformed, "{}: {} is {}, but the first shard says {}", shard_name,
                      kSplitCount, own.count, split.count);
        if (own.no != i)
          return fail(ErrorCode::Malformed, "{}: {} is {}, expected {} from the file's name", shard_name,
                      kSplitNo, own.no, i);
        add(std::move(file), shard_path, shard);
      }
      if (model.tensors_.size() != split.tensors)
        return fail(ErrorCode::Malformed, "{}: the {} shards hold {} tensors, but {} is {}", first_name,
                    split.count, model.tensors_.size(), kSplitTensors, split.tensors);
    }

    model.index_names();
    const auto name_of_index = [&](std::uint32_t i) -> const std::string& { return model.tensors_[i].name; };
    const auto twice = std::ranges::adjacent_find(model.by_name_, {}, name_of_index);
    if (twice != model.by_name_.end()) {
      const TensorInfo& a = model.tensors_[twice[0]];
      const TensorInfo& b = model.tensors_[twice[1]];
      return fail(ErrorCode::Malformed, "{}: tensor {} is in shard {} and again in shard {}", first_name,
                  printable(a.name), a.shard + 1, b.shard + 1);
    }
    // Sums over tensors must not wrap either; a real model is far from it.
    std::uint64_t elements = 0;
    std::uint64_t bytes = 0;
    for (const TensorInfo& tensor : model.tensors_) {
      elements = saturating_sum(elements, tensor.elements());
      bytes = saturating_sum(bytes, tensor.bytes);
      if (elements == kSaturated || bytes == kSaturated)
        return fail(ErrorCode::Malformed, "{}: all tensors together exceed 64-bit sizes", first_name);
    }
    return model;
  });
}

void Model::index_names() {
  by_name_.resize(tensors_.size());
  std::iota(by_name_.begin(), by_name_.end(), 0U);
  std::ranges::sort(by_name_, {}, [&](std::uint32_t i) -> const std::string& { return tensors_[i].name; });
}

Result<Model> Model::renamed(Model model, GgufMetadata metadata, std::span<const std::string> names) {
  std::vector<TensorInfo> kept;
  for (std::size_t i = 0; i < model.tensors_.size(); ++i) {
    if (names[i].empty()) continue;
    kept.push_back(std::move(model.tensors_[i]));
    kept.back().name = names[i];
  }
  model.tensors_ = std::move(kept);
  model.metadata_ = std::move(metadata);
  model.index_names();
  for (std::size_t i = 1; i < model.by_name_.size(); ++i)
    if (const std::string& name = model.tensors_[model.by_name_[i]].name;
        name == model.tensors_[model.by_name_[i - 1]].name)
      return fail(ErrorCode::InvalidArgument, "two tensors would be called {}", printable(name));
  return model;
}

const TensorInfo* Model::find(std::string_view name) const {
  const auto at = std::ranges::lower_bound(
      by_name_, name, {}, [&](std::uint32_t i) -> std::string_view { return tensors_[i].name; });
  if (at == by_name_.end() || tensors_[*at].name != name) return nullptr;
  return &tensors_[*at];
}

std::string_view Model::architecture() const {
  return metadata_.string("general.architecture").value_or(std::string_view());
}

const GgufKeyValue* Model::arch_key(std::string_view suffix) const {
  return metadata_.find(fmt::format("{}.{}", architecture(), suffix));
}

std::span<const std::byte> Model::data(const TensorInfo& tensor) const {
  if (tensor.shard >= files_.size()) return {};
  const auto file = files_[tensor.shard]->bytes();
  const std::uint64_t begin = saturating_sum(shards_[tensor.shard].data_offset, tensor.offset);
  if (begin > file.size() || tensor.bytes > file.size() - begin) return {};
  return file.subspan(begin, tensor.bytes);
}

std::span<const std::byte> Model::row(const TensorInfo& tensor, std::uint64_t row) const {
  const auto all = data(tensor);
  const std::uint64_t rows = tensor.rows();
  if (row >= rows || all.empty()) return {};
  const std::uint64_t row_size = tensor.bytes / rows;
  return all.subspan(row * row_size, row_size);
}

void Model::will_need(std::span<const std::byte> bytes) const noexcept {
  for (const auto& file : files_)
    if (file->contains(bytes)) return file->will_need(bytes);
}

void Model::done_with(std::span<const std::byte> bytes) const noexcept {
  for (const auto& file : files_)
    if (file->contains(bytes)) return file->done_with(bytes);
}

void Model::expect_random_access(bool random) const noexcept {
  for (const auto& file : files_) file->expect_random_access(random);
}

Result<void> Model::check_unchanged() const {
  for (const auto& file : files_) QF_TRY(file->check_unchanged());
  return outcome::success();
}

ModelWatch::ModelWatch(const Model& model) : model_(model) {
  files_.reserve(model.files_.size());
  for (const auto& file : model.files_) files_.emplace_back(*file);
}
ModelWatch::~ModelWatch() = default;

std::uint64_t Model::total_elements() const {
  std::uint64_t sum = 0;
  for (const TensorInfo& tensor : tensors_) sum += tensor.elements();
  return sum;
}

std::uint64_t Model::total_tensor_bytes() const {
  std::uint64_t sum = 0;
  for (const TensorInfo& tensor : tensors_) sum += tensor.bytes;
  return sum;
}

}  // namespace quantfit
