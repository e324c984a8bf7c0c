#include "core/gguf_writer.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <string>
#include <unordered_set>
#include <utility>

#include "core/atomic_file.h"
#include "core/checked.h"
#include "core/gguf_layout.h"
#include "core/text.h"

namespace quantfit {
namespace {

constexpr std::size_t kBufferBytes = std::size_t{4} << 20;  // large sequential writes

// Sums of sizes; the first overflow is remembered.
class Size {
 public:
  Size& operator+=(std::uint64_t bytes) {
    const auto sum = checked_sum(value_, bytes);
    overflow_ |= !sum.has_value();
    value_ = sum.value_or(0);
    return *this;
  }
  void round_up_to(std::uint64_t alignment) {
    const auto rounded = checked_round_up(value_, alignment);
    overflow_ |= !rounded.has_value();
    value_ = rounded.value_or(0);
  }
  [[nodiscard]] std::uint64_t value() const { return value_; }
  [[nodiscard]] Result<std::uint64_t> checked() const {
    if (overflow_) return fail(ErrorCode::InvalidArgument, "the file would exceed 64-bit sizes");
    return value_;
  }

 private:
  std::uint64_t value_ = 0;
  bool overflow_ = false;
};

Result<void> check_metadata(const GgufMetadata& metadata, std::uint32_t alignment) {
  if (!std::has_single_bit(alignment) || alignment > kGgufMaxAlignment)
    return fail(ErrorCode::InvalidArgument, "alignment {} is not a power of two up to 2^20", alignment);
  // A file whose declared and real alignment differ cannot be read back.
  const GgufKeyValue* declared = metadata.find(kAlignmentKey);
  const bool declares = declared != nullptr && declared->type == GgufType::UInt32;
  if (declared != nullptr ? !declares || declared->as_uint() != alignment
                          : alignment != kGgufDefaultAlignment)
    return fail(ErrorCode::InvalidArgument, "data are to be aligned to {}, but the key {} does not say so",
                alignment, kAlignmentKey);
  for (const GgufKeyValue& pair : metadata.all()) {
    if (pair.key.empty()) return fail(ErrorCode::InvalidArgument, "a metadata key is empty");
    if (pair.type == GgufType::Array && pair.element_type == GgufType::Array)
      return fail(ErrorCode::InvalidArgument, "metadata key {}: arrays of arrays do not exist",
                  printable(pair.key));
    if (!pair.consistent() || pair.count > kGgufMaxLength || pair.bytes.size() > kGgufMaxLength * 8)
      return fail(ErrorCode::InvalidArgument, "metadata key {}: its bytes are not a value of its type",
                  printable(pair.key));
  }
  return outcome::success();
}

// Sets offset and bytes of every tensor; returns the length of the data section, padding included.
Result<std::uint64_t> lay_out(std::vector<TensorInfo>& tensors, std::uint32_t alignment) {
  std::unordered_set<std::string_view> names;
  Size offset;
  for (TensorInfo& tensor : tensors) {
    const std::string name = printable(tensor.name);
    if (tensor.name.empty() || tensor.name.size() > kGgufMaxNameBytes)
      return fail(ErrorCode::InvalidArgument, "tensor name {} has {} bytes, expected 1 to {}", name,
                  tensor.name.size(), kGgufMaxNameBytes);
    if (tensor.name.find('\0') != std::string::npos)
      return fail(ErrorCode::InvalidArgument, "tensor name {} contains a zero byte", name);
    if (!names.insert(tensor.name).second)
      return fail(ErrorCode::InvalidArgument, "tensor {} appears twice", name);
    if (tensor.n_dims > kGgufMaxDims || std::any_of(tensor.ne.begin() + tensor.n_dims, tensor.ne.end(),
                                                    [](std::uint64_t n) { return n != 1; }))
      return fail(ErrorCode::InvalidArgument, "tensor {}: {} dimensions do not describe {} x {} x {} x {}",
                  name, tensor.n_dims, tensor.ne[0], tensor.ne[1], tensor.ne[2], tensor.ne[3]);
    auto bytes = checked_tensor_bytes(tensor.format, tensor.ne);
    if (!bytes) return fail(bytes.error().code, "tensor {}: {}", name, bytes.error().message);
    tensor.bytes = bytes.value();
    tensor.offset = offset.value();
    tensor.shard = 0;
    offset += tensor.bytes;
    offset.round_up_to(alignment);
  }
  return offset.checked();
}

// Scalars are written as vectors of one element: files should have 1 to 4 dimensions.
std::uint32_t written_dims(const TensorInfo& tensor) {
  return std::max(tensor.n_dims, 1U);
}

std::uint64_t header_size(const GgufMetadata& metadata, std::span<const TensorInfo> tensors,
                          std::uint32_t alignment) {
  // All of it is in memory: no overflow.
  return saturating_round_up(gguf_unpadded_header_bytes(metadata, tensors), alignment);
}

// What stands between a key and its bytes: the type, and a length or element type and count.
std::uint64_t bytes_before_value(const GgufKeyValue& pair) {
  switch (pair.type) {
    case GgufType::String:
      return 4 + 8;
    case GgufType::Array:
      return 4 + 4 + 8;
    default:
      return 4;
  }
}

// The bytes before the data section.
std::string make_header(const GgufMetadata& metadata, std::span<const TensorInfo> tensors,
                        std::uint32_t alignment) {
  std::string header;
  header.reserve(header_size(metadata, tensors, alignment));
  const auto put = [&header](auto value) {
    std::array<char, sizeof(value)> bytes{};
    std::memcpy(bytes.data(), &value, sizeof(value));
    header.append(bytes.data(), bytes.size());
  };
  const auto put_text = [&](std::string_view text) {
    put(std::uint64_t{text.size()});
    header.append(text);
  };
  header.append(kGgufMagic.data(), kGgufMagic.size());
  put(kGgufVersion);
  put(std::uint64_t{tensors.size()});
  put(std::uint64_t{metadata.all().size()});
  for (const GgufKeyValue& pair : metadata.all()) {
    put_text(pair.key);
    put(static_cast<std::uint32_t>(pair.type));
    if (pair.type == GgufType::Array) {
      put(static_cast<std::uint32_t>(pair.element_type));
      put(pair.count);
    } else if (pair.type == GgufType::String) {
      put(std::uint64_t{pair.bytes.size()});
    }
    header.append(reinterpret_cast<const char*>(pair.bytes.data()), pair.bytes.size());
  }
  for (const TensorInfo& tensor : tensors) {
    put_text(tensor.name);
    put(written_dims(tensor));
    for (std::uint32_t d = 0; d < written_dims(tensor); ++d) put(tensor.ne[d]);
    put(static_cast<std::uint32_t>(tensor.format));
    put(tensor.offset);
  }
  header.resize(header_size(metadata, tensors, alignment), '\0');
  return header;
}

// All checks, and everything that the sizes depend on.
struct Layout {
  std::vector<TensorInfo> tensors;
  std::uint64_t header_bytes = 0;
  std::uint64_t file_bytes = 0;
};

Result<Layout> make_layout(const GgufMetadata& metadata, std::span<const TensorInfo> tensors,
                           std::uint32_t alignment) {
  QF_TRY(check_metadata(metadata, alignment));
  Layout layout;
  layout.tensors.assign(tensors.begin(), tensors.end());
  QF_ASSIGN(const std::uint64_t data_bytes, lay_out(layout.tensors, alignment));
  layout.header_bytes = header_size(metadata, layout.tensors, alignment);
  Size total;
  total += layout.header_bytes;
  total += data_bytes;
  QF_ASSIGN(layout.file_bytes, total.checked());
  return layout;
}

}  // namespace

std::uint64_t gguf_unpadded_header_bytes(const GgufMetadata& metadata, std::span<const TensorInfo> tensors) {
  std::uint64_t size = kGgufHeaderBytes;
  for (const GgufKeyValue& pair : metadata.all()) {
    size += 8 + pair.key.size() + bytes_before_value(pair) + pair.bytes.size();
  }
  for (const TensorInfo& tensor : tensors)
    size += 8 + tensor.name.size() + 4 + std::uint64_t{8} * written_dims(tensor) + 4 + 8;
  return size;
}

Result<std::uint64_t> gguf_header_bytes(const GgufMetadata& metadata, std::span<const TensorInfo> tensors,
                                        std::uint32_t alignment) {
  QF_ASSIGN(const Layout layout, make_layout(metadata, tensors, alignment));
  return layout.header_bytes;
}

Result<std::uint64_t> gguf_file_bytes(const GgufMetadata& metadata, std::span<const TensorInfo> tensors,
                                      std::uint32_t alignment) {
  QF_ASSIGN(const Layout layout, make_layout(metadata, tensors, alignment));
  return layout.file_bytes;
}

struct GgufWriter::Impl {
  AtomicFile file;
  GgufMetadata metadata;
  std::vector<TensorInfo> tensors;
  std::uint32_t alignment;
  std::size_t tensor = 0;       // whose data come next
  std::uint64_t in_tensor = 0;  // bytes of it that were appended
  std::vector<std::byte> buffer = {};

  Result<void> put(std::span<const std::byte> bytes) {
    if (buffer.size() + bytes.size() > kBufferBytes) QF_TRY(flush());
    if (bytes.size() >= kBufferBytes) return file.write(bytes);
    buffer.insert(buffer.end(), bytes.begin(), bytes.end());
    return outcome::success();
  }

  Result<void> flush() {
    if (buffer.empty()) return outcome::success();
    QF_TRY(file.write(buffer));
    buffer.clear();
    return outcome::success();
  }

  // Steps over tensors that are complete, writing their padding.
  Result<void> finish_tensors() {
    while (tensor < tensors.size() && in_tensor == tensors[tensor].bytes) {
      const std::uint64_t padding = (alignment - tensors[tensor].bytes % alignment) % alignment;
      const std::vector<std::byte> zeros(padding, std::byte{0});
      QF_TRY(put(zeros));
      ++tensor;
      in_tensor = 0;
    }
    return outcome::success();
  }
};

GgufWriter::GgufWriter(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
GgufWriter::GgufWriter(GgufWriter&&) noexcept = default;
GgufWriter& GgufWriter::operator=(GgufWriter&&) noexcept = default;
GgufWriter::~GgufWriter() = default;

Result<GgufWriter> GgufWriter::create(const std::filesystem::path& path, const GgufMetadata& metadata,
                                      std::span<const TensorInfo> tensors, std::uint32_t alignment,
                                      Existing existing, std::uint64_t space_bytes) {
  QF_ASSIGN(Layout layout, make_layout(metadata, tensors, alignment));
  const std::string header = make_header(metadata, layout.tensors, alignment);
  QF_ASSIGN(AtomicFile file, AtomicFile::create(path, std::max(layout.file_bytes, space_bytes), existing));
  auto impl = std::make_unique<Impl>(Impl{std::move(file), metadata, std::move(layout.tensors), alignment});
  impl->buffer.reserve(kBufferBytes);
  QF_TRY(impl->put(std::as_bytes(std::span(header))));
  QF_TRY(impl->finish_tensors());  // empty ones at the start
  return GgufWriter(std::move(impl));
}

std::span<const TensorInfo> GgufWriter::tensors() const {
  return impl_->tensors;
}

Result<void> GgufWriter::append(std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    if (impl_->tensor == impl_->tensors.size())
      return fail(ErrorCode::Internal, "{} bytes more than the tensors have", bytes.size());
    const std::uint64_t wanted = impl_->tensors[impl_->tensor].bytes - impl_->in_tensor;
    const auto part = bytes.first(static_cast<std::size_t>(std::min<std::uint64_t>(wanted, bytes.size())));
    QF_TRY(impl_->put(part));
    impl_->in_tensor += part.size();
    bytes = bytes.subspan(part.size());
    QF_TRY(impl_->finish_tensors());
  }
  return outcome::success();
}

Result<void> GgufWriter::set_value(const GgufKeyValue& value) {
  std::uint64_t offset = kGgufHeaderBytes;
  for (const GgufKeyValue& pair : impl_->metadata.all()) {
    offset += 8 + pair.key.size() + bytes_before_value(pair);
    if (pair.key == value.key) {
      if (pair.type != value.type || pair.element_type != value.element_type || pair.count != value.count ||
          pair.bytes.size() != value.bytes.size())
        break;
      QF_TRY(impl_->flush());
      return impl_->file.rewrite(offset, {value.bytes.data(), value.bytes.size()});
    }
    offset += pair.bytes.size();
  }
  return fail(ErrorCode::Internal, "the header has no key {} of that type and size", printable(value.key));
}

Result<void> GgufWriter::seal() {
  if (impl_->tensor != impl_->tensors.size())
    return fail(ErrorCode::Internal, "tensor '{}' lacks {} bytes", impl_->tensors[impl_->tensor].name,
                impl_->tensors[impl_->tensor].bytes - impl_->in_tensor);
  QF_TRY(impl_->flush());
  return impl_->file.seal();
}

Result<void> GgufWriter::commit() {
  QF_TRY(seal());
  return impl_->file.commit();
}

Result<void> GgufWriter::commit_together(std::span<GgufWriter> writers) {
  std::vector<AtomicFile*> files;
  for (GgufWriter& writer : writers) {
    QF_TRY(writer.seal());
    files.push_back(&writer.impl_->file);
  }
  return AtomicFile::commit_together(files);
}

}  // namespace quantfit
