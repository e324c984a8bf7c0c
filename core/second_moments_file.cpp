#include "core/second_moments_file.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <system_error>
#include <utility>

#include "core/file_util.h"
#include "core/gguf_writer.h"
#include "core/port.h"
#include "core/text.h"

namespace quantfit {
namespace {

constexpr std::string_view kMomentsType = "quantfit.second_moments";
constexpr std::uint32_t kMomentsVersion = 1;
constexpr std::uint32_t kMaxColumns = 1U << 24;
constexpr std::uint32_t kMaxMatrices = 1U << 20;

std::string key(std::string_view name) {
  return "second_moments." + std::string(name);
}

TensorInfo tensor_of(const SecondMomentsInput& input, std::string_view part, Format format,
                     std::uint64_t columns, std::uint64_t rows) {
  TensorInfo info;
  info.name = input.name + std::string(part);
  info.format = format;
  info.n_dims = 2;
  info.ne = {columns, rows, 1, 1};
  return info;
}

std::uint64_t counted(const SecondMomentsInput& input) {
  return input.experts > 0 ? input.experts : input.matrices;
}

// The parts of an input, in the order of the file.
std::vector<TensorInfo> parts_of(const SecondMomentsInput& input) {
  std::vector<TensorInfo> parts;
  parts.push_back(tensor_of(input, ".moments", Format::F32, input.packed(), input.matrices));
  if (input.experts > 0)
    parts.push_back(tensor_of(input, ".diagonals", Format::F32, input.columns, input.experts));
  parts.push_back(tensor_of(input, ".rows", Format::F64, counted(input), 1));
  return parts;
}

std::string problem_of(const SecondMomentsInput& input) {
  if (input.name.empty() || input.tensors.empty()) return "an input without name or tensors";
  if (input.columns == 0 || input.columns > kMaxColumns || input.block == 0)
    return fmt::format("input '{}' has {} columns in blocks of {}", printable(input.name), input.columns,
                       input.block);
  if (input.matrices == 0 || input.matrices > kMaxMatrices || input.experts > kMaxMatrices ||
      (input.experts > 0 && input.matrices != 1))
    return fmt::format("input '{}' has {} matrices and {} experts", printable(input.name), input.matrices,
                       input.experts);
  return {};
}

template <class T>
std::vector<T> values_at(std::span<const std::byte> bytes, std::uint64_t first, std::uint64_t count) {
  std::vector<T> values(count);
  std::memcpy(values.data(), bytes.data() + first * sizeof(T), count * sizeof(T));
  return values;
}

}  // namespace

std::uint64_t SecondMomentsInput::packed() const {
  const std::uint64_t size = std::min<std::uint64_t>(block, columns);
  if (size == 0) return 0;
  const std::uint64_t rest = columns % size;
  return columns / size * (size * (size + 1) / 2) + rest * (rest + 1) / 2;
}

Result<SecondMomentsWriter> SecondMomentsWriter::create(const std::filesystem::path& path,
                                                        SecondMomentsIdentity identity) {
  SecondMomentsWriter writer;
  writer.path_ = path;
  writer.identity_ = std::move(identity);
  // Of a name that no other program takes, and that goes at once: a killed program leaves nothing.
  std::uint64_t number = 0;
  if (const int reason = port::random_bytes(std::as_writable_bytes(std::span(&number, 1))); reason != 0)
    return io_error(path, "cannot get random numbers", reason);
  writer.waiting_ = path;
  writer.waiting_ += fmt::format(".{:016x}.waiting", number);
  writer.file_.open(writer.waiting_, std::ios::binary | std::ios::in | std::ios::out | std::ios::trunc);
  if (!writer.file_) return fail(ErrorCode::Io, "{}: cannot be written", writer.waiting_.string());
  std::error_code ignored;
  std::filesystem::remove(writer.waiting_, ignored);
  return writer;
}

SecondMomentsWriter::SecondMomentsWriter(SecondMomentsWriter&& other) noexcept
    : path_(std::move(other.path_)),
      waiting_(std::move(other.waiting_)),
      identity_(std::move(other.identity_)),
      file_(std::move(other.file_)),
      inputs_(std::move(other.inputs_)),
      from_(std::move(other.from_)),
      input_of_(std::move(other.input_of_)) {}

SecondMomentsWriter::~SecondMomentsWriter() = default;

Result<void> SecondMomentsWriter::append(const SecondMomentsInput& input, std::span<const float> moments,
                                         std::span<const float> diagonals, std::span<const double> rows) {
  if (const std::string problem = problem_of(input); !problem.empty())
    return fail(ErrorCode::InvalidArgument, "{}: {}", path_.string(), problem);
  if (moments.size() != input.packed() * input.matrices ||
      diagonals.size() != std::uint64_t{input.columns} * input.experts || rows.size() != counted(input))
    return fail(ErrorCode::InvalidArgument, "{}: {} moments, {} diagonals and {} rows for input '{}'",
                path_.string(), moments.size(), diagonals.size(), rows.size(), input.name);
  QF_TRY(add(input, nullptr));
  const auto write = [&](std::span<const std::byte> bytes) {
    file_.write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
  };
  write(std::as_bytes(moments));
  write(std::as_bytes(diagonals));
  write(std::as_bytes(rows));
  if (!file_) return fail(ErrorCode::Io, "{}: cannot be written", waiting_.string());
  return outcome::success();
}

Result<void> SecondMomentsWriter::append(SecondMomentsFile file) {
  const auto from = std::make_shared<const SecondMomentsFile>(std::move(file));
  for (const SecondMomentsInput& input : from->inputs()) QF_TRY(add(input, from));
  return outcome::success();
}

Result<void> SecondMomentsWriter::add(const SecondMomentsInput& input,
                                      std::shared_ptr<const SecondMomentsFile> from) {
  for (const SecondMomentsInput& other : inputs_)
    if (other.name == input.name)
      return fail(ErrorCode::InvalidArgument, "{}: two inputs '{}'", path_.string(), input.name);
  for (const std::string& tensor : input.tensors)
    if (!input_of_.emplace(tensor, static_cast<std::uint32_t>(inputs_.size())).second)
      return fail(ErrorCode::InvalidArgument, "{}: tensor '{}' has two inputs", path_.string(), tensor);
  inputs_.push_back(input);
  from_.push_back(std::move(from));
  return outcome::success();
}

Result<void> SecondMomentsWriter::commit() {
  if (inputs_.empty())
    return fail(ErrorCode::InvalidArgument, "{}: second moments of no input", path_.string());
  GgufMetadata metadata;
  metadata.add(GgufKeyValue::of_string("general.type", kMomentsType));
  metadata.add(GgufKeyValue::of_uint32(key("version"), kMomentsVersion));
  metadata.add(GgufKeyValue::of_string(key("model"), identity_.model));
  metadata.add(GgufKeyValue::of_string(key("text"), identity_.text));
  metadata.add(GgufKeyValue::of_uint32(key("engine_version"), identity_.engine_version));
  std::vector<std::string> names, tensors;
  std::vector<std::uint32_t> columns, blocks, matrices, experts, input_of;
  std::vector<TensorInfo> parts;
  for (const SecondMomentsInput& input : inputs_) {
    names.push_back(input.name);
    columns.push_back(input.columns);
    blocks.push_back(input.block);
    matrices.push_back(input.matrices);
    experts.push_back(input.experts);
    for (const std::string& tensor : input.tensors) {
      tensors.push_back(tensor);
      input_of.push_back(static_cast<std::uint32_t>(names.size() - 1));
    }
    std::ranges::move(parts_of(input), std::back_inserter(parts));
  }
  metadata.add(GgufKeyValue::of_string_array(key("inputs"), names));
  metadata.add(GgufKeyValue::of_uint32_array(key("columns"), columns));
  metadata.add(GgufKeyValue::of_uint32_array(key("blocks"), blocks));
  metadata.add(GgufKeyValue::of_uint32_array(key("matrices"), matrices));
  metadata.add(GgufKeyValue::of_uint32_array(key("experts"), experts));
  metadata.add(GgufKeyValue::of_string_array(key("tensors"), tensors));
  metadata.add(GgufKeyValue::of_uint32_array(key("input_of"), input_of));
  QF_ASSIGN(GgufWriter writer, GgufWriter::create(path_, metadata, parts));
  file_.flush();
  file_.seekg(0);
  std::vector<std::byte> piece(1U << 20);
  auto part = writer.tensors().begin();
  for (std::size_t i = 0; i < inputs_.size(); ++i) {
    for (const auto end = part + static_cast<std::ptrdiff_t>(parts_of(inputs_[i]).size()); part != end;
         ++part) {
      if (from_[i] != nullptr) {
        QF_TRY(writer.append(from_[i]->file_.data(*from_[i]->file_.find(part->name))));
        continue;
      }
      for (std::uint64_t left = part->bytes; left > 0;) {
        const std::uint64_t count = std::min<std::uint64_t>(left, piece.size());
        if (!file_.read(reinterpret_cast<char*>(piece.data()), static_cast<std::streamsize>(count)))
          return fail(ErrorCode::Io, "{}: cannot be read", waiting_.string());
        QF_TRY(writer.append(std::span(piece).first(count)));
        left -= count;
      }
    }
  }
  return writer.commit();
}

Result<SecondMomentsFile> SecondMomentsFile::open(const std::filesystem::path& path) {
  QF_ASSIGN(Model model, Model::open(path));
  const GgufMetadata& metadata = model.metadata();
  if (metadata.string("general.type") != kMomentsType)
    return fail(ErrorCode::Unsupported, "{}: no file of second moments", path.string());
  if (metadata.uint(key("version")) != kMomentsVersion)
    return fail(ErrorCode::Unsupported,
                "{}: second moments of another version of this program; make them anew", path.string());
  const auto malformed = [&](const std::string& what) {
    return fail(ErrorCode::Malformed, "{}: {}", path.string(), what);
  };
  const auto strings = [&](std::string_view name) -> std::optional<std::vector<std::string>> {
    const GgufKeyValue* value = metadata.find(key(name));
    return value != nullptr ? value->as_string_array() : std::nullopt;
  };
  const auto numbers = [&](std::string_view name) -> std::optional<std::vector<std::int64_t>> {
    const GgufKeyValue* value = metadata.find(key(name));
    return value != nullptr ? value->as_int_array() : std::nullopt;
  };
  const auto names = strings("inputs");
  const auto tensors = strings("tensors");
  const auto input_of = numbers("input_of");
  std::array<std::optional<std::vector<std::int64_t>>, 4> sizes = {numbers("columns"), numbers("blocks"),
                                                                   numbers("matrices"), numbers("experts")};
  if (!names || !tensors || !input_of || input_of->size() != tensors->size())
    return malformed("the index of inputs is not complete");
  for (const auto& list : sizes) {
    if (!list || list->size() != names->size()) return malformed("the index of inputs is not complete");
    for (const std::int64_t value : *list)
      if (value < 0 || value > std::int64_t{0xFFFFFFFF})
        return malformed("the index of inputs has wrong sizes");
  }
  SecondMomentsFile file(std::move(model), path);
  const GgufMetadata& kept = file.file_.metadata();
  file.identity_.model = std::string(kept.string(key("model")).value_or(""));
  file.identity_.text = std::string(kept.string(key("text")).value_or(""));
  file.identity_.engine_version = static_cast<std::uint32_t>(kept.uint(key("engine_version")).value_or(0));
  for (std::size_t i = 0; i < names->size(); ++i) {
    SecondMomentsInput input;
    input.name = (*names)[i];
    input.columns = static_cast<std::uint32_t>((*sizes[0])[i]);
    input.block = static_cast<std::uint32_t>((*sizes[1])[i]);
    input.matrices = static_cast<std::uint32_t>((*sizes[2])[i]);
    input.experts = static_cast<std::uint32_t>((*sizes[3])[i]);
    file.inputs_.push_back(std::move(input));
  }
  for (std::size_t t = 0; t < tensors->size(); ++t) {
    const std::int64_t input = (*input_of)[t];
    if (input < 0 || static_cast<std::uint64_t>(input) >= file.inputs_.size())
      return malformed(fmt::format("tensor '{}' has an input that is not there", printable((*tensors)[t])));
    if (!file.input_of_.emplace((*tensors)[t], static_cast<std::uint32_t>(input)).second)
      return malformed(fmt::format("tensor '{}' has two inputs", printable((*tensors)[t])));
    file.inputs_[static_cast<std::size_t>(input)].tensors.push_back((*tensors)[t]);
  }
  for (const SecondMomentsInput& input : file.inputs_) {
    if (const std::string problem = problem_of(input); !problem.empty()) return malformed(problem);
    for (const TensorInfo& part : parts_of(input)) {
      const TensorInfo* found = file.file_.find(part.name);
      if (found == nullptr || found->format != part.format || found->ne != part.ne)
        return malformed(fmt::format("tensor '{}' is missing or has another shape", printable(part.name)));
    }
  }
  return file;
}

const SecondMomentsInput* SecondMomentsFile::find(std::string_view tensor) const {
  const auto found = input_of_.find(tensor);
  return found == input_of_.end() ? nullptr : &inputs_[found->second];
}

Result<std::vector<float>> SecondMomentsFile::packed_moments(const SecondMomentsInput& input,
                                                             std::uint32_t matrix) const {
  const std::uint64_t packed = input.packed();
  std::vector<float> triangles =
      values_at<float>(file_.data(*file_.find(input.name + ".moments")), packed * matrix, packed);
  for (const float value : triangles)
    if (!std::isfinite(value))
      return fail(ErrorCode::Malformed, "{}: a second moment of input '{}' is not a finite number",
                  path_.string(), printable(input.name));
  return triangles;
}

Result<std::vector<float>> SecondMomentsFile::moments(const SecondMomentsInput& input,
                                                      std::uint32_t matrix) const {
  QF_ASSIGN(const std::vector<float> triangles, packed_moments(input, matrix));
  const std::size_t block = std::min(input.block, input.columns);
  std::vector<float> full;
  std::size_t at = 0;
  for (std::size_t first = 0; first < input.columns; first += block) {
    const std::size_t n = std::min<std::size_t>(block, input.columns - first);
    const std::size_t base = full.size();
    full.resize(base + n * n);
    for (std::size_t i = 0; i < n; ++i)
      for (std::size_t j = 0; j <= i; ++j, ++at)
        full[base + i * n + j] = full[base + j * n + i] = triangles[at];
  }
  return full;
}

Result<std::vector<float>> SecondMomentsFile::diagonal(const SecondMomentsInput& input,
                                                       std::uint32_t expert) const {
  std::vector<float> values = values_at<float>(file_.data(*file_.find(input.name + ".diagonals")),
                                               std::uint64_t{input.columns} * expert, input.columns);
  for (const float value : values)
    if (!std::isfinite(value) || value < 0.0F)
      return fail(ErrorCode::Malformed, "{}: a mean square of input '{}', expert {}, is {}", path_.string(),
                  printable(input.name), expert, value);
  return values;
}

double SecondMomentsFile::rows(const SecondMomentsInput& input, std::uint32_t index) const {
  return values_at<double>(file_.data(*file_.find(input.name + ".rows")), index, 1).front();
}

}  // namespace quantfit
