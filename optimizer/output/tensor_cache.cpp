#include "optimizer/output/tensor_cache.h"

#include <algorithm>
#include <array>
#include <utility>
#include <vector>

#include "core/gguf_layout.h"
#include "core/text.h"
#include "optimizer/output/encoded_tensors.h"

namespace quantfit::optimizer {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kEnding = ".tensor.gguf";
constexpr std::size_t kDigits = 16;

bool is_entry(const fs::path& path) {
  const std::string name = path.filename().string();
  return name.size() == kDigits + kEnding.size() && name.ends_with(kEnding) &&
         name.find_first_not_of("0123456789abcdef") == kDigits;
}

}  // namespace

Result<TensorCache> TensorCache::open(const fs::path& folder, std::uint64_t max_bytes) {
  std::error_code trouble;
  fs::create_directories(folder, trouble);
  if (trouble) return fail(ErrorCode::Io, "{}: {}", folder.string(), trouble.message());
  return TensorCache(folder, max_bytes);
}

fs::path TensorCache::path_of(std::uint64_t inputs) const {
  return folder_ / fmt::format("{:016x}{}", inputs, kEnding);
}

std::optional<Model> TensorCache::find(std::uint64_t inputs) const {
  const fs::path path = path_of(inputs);
  // The time of modification says when it was last of use.
  std::error_code ignored;
  if (!fs::exists(path, ignored)) return std::nullopt;
  fs::last_write_time(path, fs::file_time_type::clock::now(), ignored);
  auto model = Model::open(path);
  if (!model) return std::nullopt;
  return std::move(model).value();
}

void TensorCache::forget(std::uint64_t inputs) const {
  std::error_code ignored;
  fs::remove(path_of(inputs), ignored);
}

// Others may add and remove entries meanwhile: what cannot be looked at is not there any more.
void TensorCache::make_room(std::uint64_t bytes) const {
  struct Entry {
    fs::file_time_type used;
    std::uint64_t bytes = 0;
    fs::path path;
  };
  std::vector<Entry> entries;
  std::uint64_t total = bytes;
  std::error_code trouble;
  for (fs::directory_iterator at(folder_, trouble), end; !trouble && at != end; at.increment(trouble)) {
    if (!is_entry(at->path())) continue;
    std::error_code gone;
    Entry entry{at->last_write_time(gone), 0, at->path()};
    if (!gone) entry.bytes = at->file_size(gone);
    if (gone) continue;
    total += entry.bytes;
    entries.push_back(std::move(entry));
  }
  std::ranges::sort(entries, {}, &Entry::used);
  for (const Entry& entry : entries) {
    if (total <= max_bytes_) break;
    fs::remove(entry.path, trouble);
    total -= entry.bytes;
  }
}

Result<void> TensorCache::stop_at_error(Result<void> done) {
  if (done) return done;
  entry_.reset();
  stopped_ = true;
  return fail(done.error().code, "the cache keeps no more tensors: {}", done.error().message);
}

Result<void> TensorCache::begin(const TensorInfo& tensor, std::uint64_t inputs) {
  entry_.reset();
  if (stopped_) return outcome::success();
  GgufMetadata metadata;
  metadata.set(GgufKeyValue::of_string("general.architecture", "quantfit.tensor"));
  metadata.set(uint64_array(kTensorInputs, std::array{inputs}));
  metadata.set(uint64_array(kTensorData, std::array{std::uint64_t{0}}));
  const auto tensors = std::span(&tensor, 1);
  QF_ASSIGN(const std::uint64_t bytes, gguf_file_bytes(metadata, tensors));
  if (bytes > max_bytes_) return outcome::success();
  make_room(bytes);
  auto entry =
      GgufWriter::create(path_of(inputs), metadata, tensors, kGgufDefaultAlignment, Existing::Replace);
  if (!entry) return stop_at_error(entry.error());
  entry_.emplace(std::move(entry).value());
  return outcome::success();
}

Result<void> TensorCache::keep(std::span<const std::byte> bytes) {
  if (!entry_) return outcome::success();
  return stop_at_error(entry_->append(bytes));
}

Result<void> TensorCache::finish(std::uint64_t digest) {
  if (!entry_) return outcome::success();
  auto done = entry_->set_value(uint64_array(kTensorData, std::array{digest}));
  if (done) done = entry_->commit();
  entry_.reset();
  return stop_at_error(std::move(done));
}

}  // namespace quantfit::optimizer
