#include "core/model.h"

#include <algorithm>
#include <bit>
#include <charconv>
#include <cstring>
#include <limits>
#include <numeric>
#include <unordered_set>

#include "core/mapped_file.h"

namespace quantfit {
namespace {

constexpr std::uint64_t kMaxStringBytes = std::uint64_t{1} << 30;
constexpr std::uint64_t kMaxArrayElements = std::uint64_t{1} << 30;
constexpr std::uint64_t kMaxNameBytes = 63;
constexpr std::uint32_t kMaxAlignment = 1U << 20;
constexpr std::uint32_t kDefaultAlignment = 32;
constexpr std::uint64_t kSmallestInfoBytes = 24;  // empty name, no dimensions
constexpr std::uint64_t kSmallestKvBytes = 14;    // one-byte key, one-byte value
constexpr std::uint32_t kMaxShards = 65535;       // split.count is 16 bits wide

// Reads fields one after another; every read is checked against what remains, and a failure says what was being
// read and where.
class Cursor {
 public:
  Cursor(std::span<const std::byte> bytes, std::string file) : bytes_(bytes), file_(std::move(file)) {}

  [[nodiscard]] std::uint64_t position() const { return position_; }
  [[nodiscard]] std::uint64_t remaining() const { return bytes_.size() - position_; }

  template <class... Args>
  [[nodiscard]] Error malformed(fmt::format_string<Args...> format, Args&&... args) const {
    return fail(ErrorCode::Malformed, "{}: offset {}: {}", file_, position_,
                fmt::format(format, std::forward<Args>(args)...));
  }

  template <class T>
  [[nodiscard]] Result<T> read(std::string_view what) {
    if (remaining() < sizeof(T))
      return malformed("the file ends inside {} ({} bytes needed, {} left)", what, sizeof(T), remaining());
    T value;
    std::memcpy(&value, bytes_.data() + position_, sizeof(T));
    position_ += sizeof(T);
    return value;
  }

  [[nodiscard]] Result<std::span<const std::byte>> take(std::uint64_t count, std::string_view what) {
    if (remaining() < count)
      return malformed("the file ends inside {} ({} bytes needed, {} left)", what, count, remaining());
    const auto part = bytes_.subspan(position_, count);
    position_ += count;
    return part;
  }

  [[nodiscard]] Result<std::string> read_string(std::string_view what) {
    QF_ASSIGN(const auto length, read<std::uint64_t>(what));
    if (length > kMaxStringBytes || length > remaining())
      return malformed("{} claims {} bytes, {} are left", what, length, remaining());
    QF_ASSIGN(const auto bytes, take(length, what));
    return std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  }

 private:
  std::span<const std::byte> bytes_;
  std::string file_;
  std::uint64_t position_ = 0;
};

std::size_t size_of(GgufType type) {
  switch (type) {
    case GgufType::UInt8:
    case GgufType::Int8:
    case GgufType::Bool: return 1;
    case GgufType::UInt16:
    case GgufType::Int16: return 2;
    case GgufType::UInt32:
    case GgufType::Int32:
    case GgufType::Float32: return 4;
    default: return 8;  // 64-bit numbers; strings take at least their length field
  }
}

std::vector<std::byte> copy_of(std::span<const std::byte> bytes) { return {bytes.begin(), bytes.end()}; }

Result<GgufKeyValue> read_key_value(Cursor& cursor, std::uint64_t index) {
  GgufKeyValue value;
  QF_ASSIGN(value.key, cursor.read_string(fmt::format("the key of metadata pair {}", index)));
  if (value.key.empty()) return cursor.malformed("metadata pair {} has an empty key", index);
  const auto type_of = [&](std::string_view what) -> Result<std::uint32_t> {
    return cursor.read<std::uint32_t>(fmt::format("the {} of key '{}'", what, value.key));
  };
  QF_ASSIGN(const std::uint32_t type, type_of("value type"));
  if (type > static_cast<std::uint32_t>(GgufType::Float64))
    return cursor.malformed("key '{}' has value type {}, which does not exist", value.key, type);
  value.type = static_cast<GgufType>(type);
  const std::string what = fmt::format("the value of key '{}'", value.key);
  if (value.type == GgufType::String) {
    QF_ASSIGN(const std::string text, cursor.read_string(what));
    const auto* data = reinterpret_cast<const std::byte*>(text.data());
    value.bytes.assign(data, data + text.size());
    return value;
  }
  if (value.type != GgufType::Array) {
    QF_ASSIGN(const auto bytes, cursor.take(size_of(value.type), what));
    value.bytes = copy_of(bytes);
    return value;
  }
  QF_ASSIGN(const std::uint32_t element_type, type_of("element type"));
  if (element_type > static_cast<std::uint32_t>(GgufType::Float64) ||
      element_type == static_cast<std::uint32_t>(GgufType::Array))
    return cursor.malformed("key '{}' is an array of type {}, which is not allowed", value.key, element_type);
  value.element_type = static_cast<GgufType>(element_type);
  QF_ASSIGN(value.count, cursor.read<std::uint64_t>(fmt::format("the element count of key '{}'", value.key)));
  const std::uint64_t element_bytes = size_of(value.element_type);
  if (value.count > kMaxArrayElements || value.count > cursor.remaining() / element_bytes)
    return cursor.malformed("key '{}' claims {} array elements, {} bytes are left", value.key, value.count,
                            cursor.remaining());
  if (value.element_type != GgufType::String) {
    QF_ASSIGN(const auto bytes, cursor.take(value.count * element_bytes, what));
    value.bytes = copy_of(bytes);
    return value;
  }
  // Strings: walk them once to prove every length, then keep them as they stand in the file.
  Cursor walk = cursor;
  const std::uint64_t begin = walk.position();
  for (std::uint64_t i = 0; i < value.count; ++i) {
    QF_ASSIGN(const auto length, walk.read<std::uint64_t>(what));
    if (length > kMaxStringBytes) return walk.malformed("{}: element {} claims {} bytes", what, i, length);
    QF_TRY(walk.take(length, what));
  }
  QF_ASSIGN(const auto bytes, cursor.take(walk.position() - begin, what));
  value.bytes = copy_of(bytes);
  return value;
}

Result<TensorInfo> read_tensor_info(Cursor& cursor, std::uint64_t index, std::uint32_t shard) {
  TensorInfo tensor;
  tensor.shard = shard;
  QF_ASSIGN(const auto name_bytes, cursor.read<std::uint64_t>(fmt::format("the name of tensor {}", index)));
  if (name_bytes == 0 || name_bytes > kMaxNameBytes)
    return cursor.malformed("tensor {} has a name of {} bytes; 1 to {} are allowed", index, name_bytes,
                            kMaxNameBytes);
  QF_ASSIGN(const auto name, cursor.take(name_bytes, fmt::format("the name of tensor {}", index)));
  tensor.name.assign(reinterpret_cast<const char*>(name.data()), name.size());
  if (tensor.name.find('\0') != std::string::npos)
    return cursor.malformed("the name of tensor {} contains a zero byte", index);
  const std::string what = fmt::format("the description of tensor '{}'", tensor.name);
  QF_ASSIGN(tensor.n_dims, cursor.read<std::uint32_t>(what));
  if (tensor.n_dims > 4)
    return cursor.malformed("tensor '{}' has {} dimensions; at most 4 are allowed", tensor.name, tensor.n_dims);
  std::uint64_t elements = 1;
  bool empty = false;
  for (std::uint32_t d = 0; d < tensor.n_dims; ++d) {
    QF_ASSIGN(tensor.ne[d], cursor.read<std::uint64_t>(what));
    if (tensor.ne[d] > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max()))
      return cursor.malformed("tensor '{}' has a negative dimension {}", tensor.name, d);
    // Zero-element tensors exist; the other dimensions must still multiply to something representable.
    empty |= tensor.ne[d] == 0;
    const std::uint64_t factor = std::max<std::uint64_t>(tensor.ne[d], 1);
    if (elements > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max()) / factor)
      return cursor.malformed("the dimensions of tensor '{}' multiply to more than 2^63 elements", tensor.name);
    elements *= factor;
  }
  QF_ASSIGN(const auto type, cursor.read<std::uint32_t>(what));
  const FormatTraits* format = find_format(type);
  if (format == nullptr)
    return cursor.malformed("tensor '{}' has type {}, which was withdrawn or does not exist yet", tensor.name, type);
  if (format->kind == FormatKind::Runtime)
    return cursor.malformed("tensor '{}' has type {}, which exists only inside the runtime", tensor.name,
                            format->name);
  tensor.format = format->format;
  auto bytes = tensor_bytes(tensor.format, tensor.ne[0], empty ? 0 : tensor.rows());
  if (!bytes) return cursor.malformed("tensor '{}': {}", tensor.name, bytes.error().message);
  tensor.bytes = bytes.value();
  QF_ASSIGN(tensor.offset, cursor.read<std::uint64_t>(what));
  return tensor;
}

struct ParsedShard {
  GgufShard shard;
  GgufMetadata metadata;
  std::vector<TensorInfo> tensors;
};

Result<std::uint32_t> alignment_of(const GgufMetadata& metadata, const Cursor& cursor) {
  const GgufKeyValue* key = metadata.find("general.alignment");
  if (key == nullptr) return kDefaultAlignment;
  if (key->type != GgufType::UInt32) return cursor.malformed("'general.alignment' is not a 32-bit unsigned number");
  const auto alignment = static_cast<std::uint32_t>(*key->as_uint());
  if (alignment == 0 || !std::has_single_bit(alignment) || alignment > kMaxAlignment)
    return cursor.malformed("'general.alignment' is {}; a power of two up to {} is needed", alignment, kMaxAlignment);
  return alignment;
}

Result<ParsedShard> parse(const std::filesystem::path& path, std::span<const std::byte> file, std::uint32_t index,
                          OpenMode mode) {
  ParsedShard parsed;
  parsed.shard.path = path;
  parsed.shard.file_bytes = file.size();
  Cursor cursor(file, path.string());

  QF_ASSIGN(const auto magic, cursor.take(4, "the magic"));
  if (std::memcmp(magic.data(), "GGUF", 4) != 0) return cursor.malformed("not a GGUF file: bad magic");
  QF_ASSIGN(parsed.shard.version, cursor.read<std::uint32_t>("the version"));
  if (parsed.shard.version != 0 && (parsed.shard.version & 0xFFFFU) == 0)
    return fail(ErrorCode::Unsupported, "{}: offset 4: a big-endian GGUF file; convert it to little-endian first",
                path.string());
  if (parsed.shard.version != 2 && parsed.shard.version != 3)
    return fail(ErrorCode::Unsupported, "{}: offset 4: GGUF version {}; 2 and 3 are supported", path.string(),
                parsed.shard.version);
  QF_ASSIGN(const auto tensor_count, cursor.read<std::uint64_t>("the number of tensors"));
  QF_ASSIGN(const auto kv_count, cursor.read<std::uint64_t>("the number of metadata pairs"));
  if (tensor_count > cursor.remaining() / kSmallestInfoBytes)
    return cursor.malformed("the header claims {} tensors; {} bytes are left", tensor_count, cursor.remaining());
  if (kv_count > cursor.remaining() / kSmallestKvBytes)
    return cursor.malformed("the header claims {} metadata pairs; {} bytes are left", kv_count, cursor.remaining());

  for (std::uint64_t i = 0; i < kv_count; ++i) {
    QF_ASSIGN(GgufKeyValue value, read_key_value(cursor, i));
    std::string key = value.key;
    if (!parsed.metadata.add(std::move(value))) return cursor.malformed("key '{}' appears twice", key);
  }
  QF_ASSIGN(parsed.shard.alignment, alignment_of(parsed.metadata, cursor));
  const std::uint64_t alignment = parsed.shard.alignment;

  std::uint64_t expected_offset = 0;
  for (std::uint64_t i = 0; i < tensor_count; ++i) {
    QF_ASSIGN(TensorInfo tensor, read_tensor_info(cursor, i, index));
    if (tensor.offset % alignment != 0)
      return cursor.malformed("tensor '{}': offset {} is not a multiple of alignment {}", tensor.name, tensor.offset,
                              alignment);
    if (tensor.offset != expected_offset)
      return cursor.malformed("tensor '{}': offset {}, where {} was expected (tensors must follow one another)",
                              tensor.name, tensor.offset, expected_offset);
    std::uint64_t end = 0;
    if (__builtin_add_overflow(tensor.offset, tensor.bytes, &end) ||
        __builtin_add_overflow(end, alignment - 1, &expected_offset))
      return cursor.malformed("tensor '{}': offset plus size exceeds 64 bits", tensor.name);
    expected_offset = expected_offset / alignment * alignment;
    parsed.tensors.push_back(std::move(tensor));
  }
  parsed.shard.data_offset = (cursor.position() + alignment - 1) / alignment * alignment;
  if (mode == OpenMode::Data)
    for (const TensorInfo& tensor : parsed.tensors) {
      std::uint64_t end = 0;
      if (tensor.bytes == 0) continue;
      if (__builtin_add_overflow(parsed.shard.data_offset, tensor.offset + tensor.bytes, &end) || end > file.size())
        return fail(ErrorCode::Malformed,
                    "{}: tensor '{}' needs bytes {} to {}, but the file ends at {}: it is truncated", path.string(),
                    tensor.name, parsed.shard.data_offset + tensor.offset, end, file.size());
    }
  return parsed;
}

std::optional<std::uint64_t> split_key(const GgufMetadata& metadata, std::string_view key) {
  return metadata.uint(key);
}

// "model-00001-of-00003.gguf" -> "model", when the numbers are (index + 1, count).
std::optional<std::string> shard_prefix(const std::string& file_name, std::uint64_t index, std::uint64_t count) {
  const std::string suffix = fmt::format("-{:05}-of-{:05}.gguf", index + 1, count);
  if (file_name.size() <= suffix.size() || !file_name.ends_with(suffix)) return std::nullopt;
  return file_name.substr(0, file_name.size() - suffix.size());
}

}  // namespace

Model::Model() = default;
Model::Model(Model&&) noexcept = default;
Model& Model::operator=(Model&&) noexcept = default;
Model::~Model() = default;

Result<Model> Model::open(const std::filesystem::path& path, OpenMode mode) {
  Model model;
  const auto add = [&](const std::filesystem::path& file, std::uint32_t index) -> Result<GgufMetadata> {
    QF_ASSIGN(auto mapped, MappedFile::open(file));
    QF_ASSIGN(ParsedShard parsed, parse(file, mapped->bytes(), index, mode));
    model.files_.push_back(std::move(mapped));
    model.shards_.push_back(std::move(parsed.shard));
    std::ranges::move(parsed.tensors, std::back_inserter(model.tensors_));
    return std::move(parsed.metadata);
  };
  QF_ASSIGN(model.metadata_, add(path, 0));

  const std::uint64_t count = split_key(model.metadata_, "split.count").value_or(0);
  if (count > 1) {
    if (count > kMaxShards)
      return fail(ErrorCode::Malformed, "{}: 'split.count' is {}", path.string(), count);
    const std::uint64_t number = split_key(model.metadata_, "split.no").value_or(count);
    if (number != 0)
      return fail(ErrorCode::Unsupported, "{}: this is shard {} of {}; open the first one (-00001-of-{:05}.gguf)",
                  path.string(), number + 1, count, count);
    const auto prefix = shard_prefix(path.filename().string(), 0, count);
    if (!prefix)
      return fail(ErrorCode::Malformed, "{}: shard 1 of {} must be named PREFIX-00001-of-{:05}.gguf", path.string(),
                  count, count);
    for (std::uint32_t i = 1; i < count; ++i) {
      const auto sibling = path.parent_path() / fmt::format("{}-{:05}-of-{:05}.gguf", *prefix, i + 1, count);
      auto metadata = add(sibling, i);
      if (!metadata)
        return fail(metadata.error().code, "shard {} of {}: {}", i + 1, count, metadata.error().message);
      if (split_key(metadata.value(), "split.no") != i || split_key(metadata.value(), "split.count") != count)
        return fail(ErrorCode::Malformed, "{}: does not say that it is shard {} of {}", sibling.string(), i + 1, count);
    }
    const auto total = split_key(model.metadata_, "split.tensors.count");
    if (total != model.tensors_.size())
      return fail(ErrorCode::Malformed, "{}: 'split.tensors.count' is {}, but the {} shards hold {} tensors",
                  path.string(), total ? std::to_string(*total) : "missing", count, model.tensors_.size());
  }

  model.by_name_.resize(model.tensors_.size());
  std::iota(model.by_name_.begin(), model.by_name_.end(), 0U);
  std::ranges::sort(model.by_name_, {}, [&](std::uint32_t i) -> std::string_view { return model.tensors_[i].name; });
  for (std::size_t i = 1; i < model.by_name_.size(); ++i)
    if (model.tensors_[model.by_name_[i]].name == model.tensors_[model.by_name_[i - 1]].name)
      return fail(ErrorCode::Malformed, "{}: tensor '{}' appears twice", path.string(),
                  model.tensors_[model.by_name_[i]].name);
  std::uint64_t elements = 0;
  std::uint64_t bytes = 0;
  for (const TensorInfo& tensor : model.tensors_)
    if (__builtin_add_overflow(elements, tensor.elements(), &elements) ||
        __builtin_add_overflow(bytes, tensor.bytes, &bytes))
      return fail(ErrorCode::Malformed, "{}: all tensors together exceed 64-bit sizes", path.string());
  return model;
}

const TensorInfo* Model::find(std::string_view name) const {
  const auto at = std::ranges::lower_bound(by_name_, name, {},
                                           [&](std::uint32_t i) -> std::string_view { return tensors_[i].name; });
  if (at == by_name_.end() || tensors_[*at].name != name) return nullptr;
  return &tensors_[*at];
}

std::string_view Model::architecture() const { return metadata_.string("general.architecture").value_or(""); }

const GgufKeyValue* Model::arch_key(std::string_view suffix) const {
  return metadata_.find(fmt::format("{}.{}", architecture(), suffix));
}

std::span<const std::byte> Model::data(const TensorInfo& tensor) const {
  const auto file = files_[tensor.shard]->bytes();
  const std::uint64_t begin = shards_[tensor.shard].data_offset + tensor.offset;
  if (begin > file.size() || tensor.bytes > file.size() - begin) return {};
  return file.subspan(begin, tensor.bytes);
}

std::span<const std::byte> Model::row(const TensorInfo& tensor, std::uint64_t row) const {
  const std::uint64_t bytes = tensor.bytes / tensor.rows();
  return data(tensor).subspan(row * bytes, bytes);
}

void Model::will_need(std::span<const std::byte> bytes) const noexcept {
  for (const auto& file : files_) file->will_need(bytes);
}
void Model::done_with(std::span<const std::byte> bytes) const noexcept {
  for (const auto& file : files_) file->done_with(bytes);
}

std::uint64_t Model::total_elements() const {
  std::uint64_t total = 0;
  for (const TensorInfo& tensor : tensors_) total += tensor.elements();
  return total;
}

std::uint64_t Model::total_tensor_bytes() const {
  std::uint64_t total = 0;
  for (const TensorInfo& tensor : tensors_) total += tensor.bytes;
  return total;
}

}  // namespace quantfit
