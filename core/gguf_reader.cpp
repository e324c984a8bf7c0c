#include "core/gguf_reader.h"

#include <bit>
#include <cstring>
#include <string>
#include <unordered_set>
#include <utility>

#include "core/byte_size.h"
#include "core/checked.h"
#include "core/gguf_layout.h"
#include "core/text.h"

namespace quantfit {
namespace {

static_assert(std::endian::native == std::endian::little, "GGUF fields are read in place");

// The smallest tensor info: an empty name and no dims. The smallest pair: a one-byte key and value.
constexpr std::uint64_t kSmallestTensorInfo = 24;
constexpr std::uint64_t kSmallestPair = 14;

// Walks the bytes of the file; whatever would pass their end is an error that names what was being read.
class Cursor {
 public:
  Cursor(std::span<const std::byte> file, std::string_view name) : file_(file), name_(name) {}

  [[nodiscard]] std::uint64_t position() const { return position_; }
  [[nodiscard]] std::uint64_t remaining() const { return file_.size() - position_; }

  // An error at `position`, by default where the cursor stands.
  template <class... Args>
  [[nodiscard]] Error malformed_at(std::uint64_t position, fmt::format_string<Args...> format,
                                   Args&&... args) const {
    return fail(ErrorCode::Malformed, "{}: at byte {}: {}", name_, position,
                fmt::format(format, std::forward<Args>(args)...));
  }

  template <class T>
  [[nodiscard]] Result<T> read(std::string_view what) {
    QF_ASSIGN(const auto bytes, take(sizeof(T), what));
    T value;
    std::memcpy(&value, bytes.data(), sizeof(T));
    return value;
  }

  [[nodiscard]] Result<std::span<const std::byte>> take(std::uint64_t count, std::string_view what) {
    if (count > remaining())
      return malformed_at(position_, "the file ends inside {} ({} bytes needed, {} left)", what, count,
                          remaining());
    if (count > kGgufMaxHeaderBytes - position_)
      return fail(ErrorCode::Unsupported,
                  "{}: at byte {}: with {} its header is larger than {}, the most that this program reads",
                  name_, position_, what, format_bytes(kGgufMaxHeaderBytes));
    const auto bytes = file_.subspan(position_, count);
    position_ += count;
    return bytes;
  }

  [[nodiscard]] Result<std::string_view> string(std::string_view what) {
    const std::uint64_t start = position_;
    if (remaining() < sizeof(std::uint64_t))  // millions of strings: no message is made for nothing
      return malformed_at(start, "the file ends inside the length of {} ({} bytes needed, {} left)", what,
                          sizeof(std::uint64_t), remaining());
    QF_ASSIGN(const auto length, read<std::uint64_t>(what));
    if (length > kGgufMaxLength)
      return malformed_at(start, "{} claims a length of {} bytes, at most 2^30 are allowed", what, length);
    if (length > remaining())
      return malformed_at(start, "{} claims a length of {} bytes, but {} are left in the file", what, length,
                          remaining());
    QF_ASSIGN(const auto bytes, take(length, what));
    return std::string_view(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  }

  [[nodiscard]] std::span<const std::byte> since(std::uint64_t start) const {
    return file_.subspan(start, position_ - start);
  }

 private:
  std::span<const std::byte> file_;
  std::string_view name_;
  std::uint64_t position_ = 0;
};

Result<GgufType> read_type(Cursor& in, const std::string& what, bool inside_array) {
  const std::uint64_t start = in.position();
  QF_ASSIGN(const auto id, in.read<std::uint32_t>(what));
  if (id > static_cast<std::uint32_t>(GgufType::Float64))
    return in.malformed_at(start, "{} is {}, which no version defines", what, id);
  const auto type = static_cast<GgufType>(id);
  if (inside_array && type == GgufType::Array)
    return in.malformed_at(start, "{} is array; arrays of arrays are not allowed", what);
  return type;
}

Result<GgufKeyValue> read_pair(Cursor& in, std::uint64_t index) {
  const std::uint64_t start = in.position();
  QF_ASSIGN(const std::string_view key, in.string(fmt::format("metadata key {}", index)));
  if (key.empty()) return in.malformed_at(start, "metadata key {} is empty", index);
  const std::string what = printable(key);
  GgufKeyValue pair;
  pair.key = key;
  QF_ASSIGN(pair.type, read_type(in, fmt::format("the value type of {}", what), false));
  if (pair.type == GgufType::String) {
    QF_ASSIGN(const std::string_view text, in.string(fmt::format("the value of {}", what)));
    pair.bytes = std::as_bytes(std::span(text));
    return pair;
  }
  if (pair.type != GgufType::Array) {
    QF_ASSIGN(const auto bytes, in.take(fixed_size(pair.type), fmt::format("the value of {}", what)));
    pair.bytes = bytes;
    return pair;
  }
  QF_ASSIGN(pair.element_type, read_type(in, fmt::format("the element type of array {}", what), true));
  const std::uint64_t count_position = in.position();
  QF_ASSIGN(pair.count, in.read<std::uint64_t>(fmt::format("the length of array {}", what)));
  if (pair.count > kGgufMaxLength)
    return in.malformed_at(count_position, "array {} claims {} elements, at most 2^30 are allowed", what,
                           pair.count);
  // A string takes at least the 8 bytes of its length. No overflow: both factors are small.
  const std::uint64_t size = pair.element_type == GgufType::String ? 8 : fixed_size(pair.element_type);
  if (pair.count * size > in.remaining())
    return in.malformed_at(count_position,
                           "array {} claims {} elements of at least {} bytes, but {} bytes are left", what,
                           pair.count, size, in.remaining());
  const std::uint64_t first = in.position();
  if (pair.element_type == GgufType::String) {
    const std::string element = fmt::format("a string of array {}", what);
    for (std::uint64_t i = 0; i < pair.count; ++i) QF_TRY(in.string(element));
  } else {
    QF_TRY(in.take(pair.count * size, fmt::format("array {}", what)));
  }
  pair.bytes = in.since(first);
  return pair;
}

Result<std::uint32_t> alignment_of(const GgufMetadata& metadata, std::string_view name) {
  const GgufKeyValue* pair = metadata.find(kAlignmentKey);
  if (pair == nullptr) return kGgufDefaultAlignment;
  if (pair->type != GgufType::UInt32)
    return fail(ErrorCode::Malformed, "{}: {} has value type {}, expected uint32 (4)", name, kAlignmentKey,
                static_cast<std::uint32_t>(pair->type));
  const auto value = static_cast<std::uint32_t>(*pair->as_uint());
  if (!std::has_single_bit(value) || value > kGgufMaxAlignment)
    return fail(ErrorCode::Malformed, "{}: {} is {}, expected a power of two from 1 to 2^20", name,
                kAlignmentKey, value);
  return value;
}

Result<TensorInfo> read_tensor_info(Cursor& in, std::uint64_t index) {
  const std::uint64_t start = in.position();
  QF_ASSIGN(const std::string_view name, in.string(fmt::format("the name of tensor {}", index)));
  if (name.empty() || name.size() > kGgufMaxNameBytes)
    return in.malformed_at(start, "the name of tensor {} has {} bytes, expected 1 to {}", index, name.size(),
                           kGgufMaxNameBytes);
  if (name.find('\0') != std::string_view::npos)
    return in.malformed_at(start, "the name of tensor {}, {}, contains a zero byte", index, printable(name));
  TensorInfo tensor;
  tensor.name = name;
  const std::string what = fmt::format("tensor {}", printable(name));
  const std::uint64_t dims_position = in.position();
  QF_ASSIGN(tensor.n_dims, in.read<std::uint32_t>(fmt::format("the number of dimensions of {}", what)));
  if (tensor.n_dims > kGgufMaxDims)
    return in.malformed_at(dims_position, "{} has {} dimensions, at most {} are allowed", what, tensor.n_dims,
                           kGgufMaxDims);
  for (std::uint32_t i = 0; i < tensor.n_dims; ++i) {
    const std::uint64_t position = in.position();
    QF_ASSIGN(tensor.ne[i], in.read<std::uint64_t>(fmt::format("dimension {} of {}", i, what)));
    if (tensor.ne[i] >> 63 != 0)
      return in.malformed_at(position, "{}: dimension {} is {}, which is negative", what, i,
                             static_cast<std::int64_t>(tensor.ne[i]));
  }
  const std::uint64_t type_position = in.position();
  QF_ASSIGN(const auto type, in.read<std::uint32_t>(fmt::format("the type of {}", what)));
  const FormatTraits* format = find_format(type);
  if (format == nullptr)
    return in.malformed_at(type_position, "{} has type {}, which is unknown or withdrawn", what, type);
  if (format->kind == FormatKind::Runtime)
    return in.malformed_at(type_position, "{} has type {}, which exists only at run time", what,
                           format->name);
  tensor.format = format->format;
  QF_ASSIGN(tensor.offset, in.read<std::uint64_t>(fmt::format("the offset of {}", what)));
  auto bytes = checked_tensor_bytes(tensor.format, tensor.ne);
  if (!bytes) return in.malformed_at(dims_position, "{}: {}", what, bytes.error().message);
  tensor.bytes = bytes.value();
  return tensor;
}

// Offsets must be exactly those that a writer without gaps, reordering or sharing produces.
Result<void> check_offsets(const GgufContents& gguf, std::uint64_t file_bytes, std::string_view name,
                           OpenMode mode) {
  const std::uint64_t alignment = gguf.alignment;
  std::uint64_t expected = 0;
  const auto malformed = [&](const TensorInfo& tensor, std::string_view cause) {
    return fail(ErrorCode::Malformed, "{}: tensor {}: {}", name, printable(tensor.name), cause);
  };
  for (const TensorInfo& tensor : gguf.tensors) {
    if (tensor.offset % alignment != 0)
      return malformed(tensor,
                       fmt::format("offset {} is not a multiple of alignment {}", tensor.offset, alignment));
    if (&tensor == gguf.tensors.data() && tensor.offset != 0)
      return malformed(tensor, fmt::format("offset {} of the first tensor, expected 0", tensor.offset));
    if (tensor.offset > expected)
      return malformed(tensor, fmt::format("offset {} leaves a gap, expected {}", tensor.offset, expected));
    if (tensor.offset < expected)
      return malformed(
          tensor, fmt::format("offset {} overlaps the tensor before, expected {}", tensor.offset, expected));
    const auto end = checked_sum(expected, tensor.bytes);
    const auto end_in_file = end ? checked_sum(*end, gguf.data_offset) : end;
    if (!end_in_file)
      return malformed(
          tensor, fmt::format("{} bytes at offset {} exceed 64-bit positions", tensor.bytes, tensor.offset));
    if (mode == OpenMode::Data && *end_in_file > file_bytes)
      return malformed(tensor, fmt::format("its data ends at byte {}, but the file has {} bytes (truncated?)",
                                           *end_in_file, file_bytes));
    const auto padded = checked_round_up(*end, alignment);
    if (!padded) return malformed(tensor, "the padded data section exceeds 64-bit positions");
    expected = *padded;
  }
  return outcome::success();
}

}  // namespace

Result<GgufContents> parse_gguf(std::span<const std::byte> file, std::string_view name, OpenMode mode) {
  Cursor in(file, name);
  QF_ASSIGN(const auto magic, in.take(kGgufMagic.size(), "the magic"));
  if (std::memcmp(magic.data(), kGgufMagic.data(), kGgufMagic.size()) != 0)
    return in.malformed_at(0,
                           "not a GGUF file: it starts with {:02x} {:02x} {:02x} {:02x}, expected \"GGUF\"",
                           magic[0], magic[1], magic[2], magic[3]);
  GgufContents gguf;
  QF_ASSIGN(gguf.version, in.read<std::uint32_t>("the version"));
  if (gguf.version == 0) return in.malformed_at(4, "version 0 does not exist");
  if ((gguf.version & 0xffff) == 0)
    return fail(ErrorCode::Unsupported,
                "{}: at byte 4: version {:#010x} is byte-swapped: this is a big-endian file; convert it to "
                "little-endian first",
                name, gguf.version);
  if (gguf.version != 2 && gguf.version != 3)
    return fail(ErrorCode::Unsupported, "{}: at byte 4: GGUF version {}; versions 2 and 3 can be read{}",
                name, gguf.version,
                gguf.version == 1 ? ", version 1 had 32-bit counts: convert the model again" : "");
  QF_ASSIGN(const auto tensor_count, in.read<std::int64_t>("the number of tensors"));
  QF_ASSIGN(const auto pair_count, in.read<std::int64_t>("the number of metadata keys"));
  if (tensor_count < 0) return in.malformed_at(8, "the number of tensors, {}, is negative", tensor_count);
  if (pair_count < 0) return in.malformed_at(16, "the number of metadata keys, {}, is negative", pair_count);
  if (static_cast<std::uint64_t>(tensor_count) > in.remaining() / kSmallestTensorInfo)
    return in.malformed_at(8, "{} tensors do not fit into the {} bytes that follow", tensor_count,
                           in.remaining());
  if (static_cast<std::uint64_t>(pair_count) > in.remaining() / kSmallestPair)
    return in.malformed_at(16, "{} metadata keys do not fit into the {} bytes that follow", pair_count,
                           in.remaining());

  for (std::uint64_t i = 0; i < static_cast<std::uint64_t>(pair_count); ++i) {
    const std::uint64_t start = in.position();
    QF_ASSIGN(GgufKeyValue pair, read_pair(in, i));
    std::string key = pair.key;
    if (!gguf.metadata.add(std::move(pair)))
      return in.malformed_at(start, "metadata key {} occurs twice", printable(key));
  }
  QF_ASSIGN(gguf.alignment, alignment_of(gguf.metadata, name));

  std::unordered_set<std::string_view> names;  // of strings in the mapping, which outlives it
  for (std::uint64_t i = 0; i < static_cast<std::uint64_t>(tensor_count); ++i) {
    const std::uint64_t start = in.position();
    QF_ASSIGN(TensorInfo tensor, read_tensor_info(in, i));
    const auto* in_file = reinterpret_cast<const char*>(file.data() + start + sizeof(std::uint64_t));
    if (!names.emplace(in_file, tensor.name.size()).second)
      return in.malformed_at(start, "tensor name {} occurs twice", printable(tensor.name));
    gguf.tensors.push_back(std::move(tensor));
  }

  if (gguf.tensors.empty()) {
    gguf.data_offset = file.size();  // there need not be a data section
    return gguf;
  }
  const auto data_offset = checked_round_up(in.position(), gguf.alignment);
  if (!data_offset) return in.malformed_at(in.position(), "the data section exceeds 64-bit positions");
  gguf.data_offset = *data_offset;
  // An empty tensor at the very end needs no bytes, hence only a file without the padding is refused here.
  if (mode == OpenMode::Data && gguf.data_offset > file.size())
    return in.malformed_at(in.position(),
                           "the data section should start at byte {}, but the file has {} bytes",
                           gguf.data_offset, file.size());
  QF_TRY(check_offsets(gguf, file.size(), name, mode));
  return gguf;
}

}  // namespace quantfit
