// Tensors that were encoded before, in files of this program and in a folder kept for them: taken as they are
// where it is proven that encoding again would give the same bytes.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/error.h"
#include "core/gguf_value.h"
#include "core/model.h"
#include "optimizer/output/tensor_cache.h"

namespace quantfit::optimizer {

// Keys of a written file, one UInt64 for every tensor in the order of the file: the digest of everything that
// decides its bytes (tensor_inputs), and that of the bytes.
inline constexpr std::string_view kTensorInputs = "quantfit.tensor_inputs";
inline constexpr std::string_view kTensorData = "quantfit.tensor_data";
// Canonical text of what errors are weighed by (metric_identity).
inline constexpr std::string_view kMetricKey = "quantfit.metric";

[[nodiscard]] GgufKeyValue uint64_array(std::string_view key, std::span<const std::uint64_t> values);
// Both keys, with room for so many tensors: write_model fills them in.
[[nodiscard]] std::vector<GgufKeyValue> tensor_digest_keys(std::size_t tensors);

struct ReuseSources {
  std::vector<std::filesystem::path> files;  // written before; the first file of each that is cut
  std::filesystem::path cache;               // empty: none
  std::uint64_t cache_bytes = 50'000'000'000;

  [[nodiscard]] bool any() const { return !files.empty() || !cache.empty(); }
};

// The bytes of one tensor, valid as long as this lives.
struct EncodedTensor {
  std::shared_ptr<const Model> file;
  std::span<const std::byte> bytes;
  std::uint64_t digest = 0;  // of the bytes, as they were when they were found
};

// Used by one thread.
class EncodedTensors {
 public:
  // `keys`: of the file to be written, for a sentence where a file cannot be of use. Errors of Model::open
  // and of TensorCache::open.
  [[nodiscard]] static Result<EncodedTensors> open(const ReuseSources& sources,
                                                   std::span<const GgufKeyValue> keys);

  // Whether it is worth knowing the inputs of a tensor of that name, shape and format.
  [[nodiscard]] bool may_have(const TensorInfo& wanted) const;
  // That tensor as encoded from those inputs; what is damaged is not found.
  [[nodiscard]] std::optional<EncodedTensor> find(const TensorInfo& wanted, std::uint64_t inputs);
  // Where encoded tensors are kept; null: nowhere.
  [[nodiscard]] TensorCache* cache() { return cache_ ? &*cache_ : nullptr; }
  // For people: what could not be taken, and why.
  [[nodiscard]] std::vector<std::string>& notes() { return notes_; }

 private:
  struct Source {
    explicit Source(Model opened) : model(std::move(opened)), watch(model) {}
    Model model;
    ModelWatch watch;                         // what cannot be read is zeros, which no digest fits
    std::vector<std::uint64_t> inputs, data;  // by tensor; empty where the file does not say
  };
  [[nodiscard]] std::optional<EncodedTensor> find_in(const std::shared_ptr<const Source>& source,
                                                     const TensorInfo& wanted, std::uint64_t inputs);

  std::vector<std::shared_ptr<const Source>> sources_;
  std::optional<TensorCache> cache_;
  std::vector<std::string> notes_;
};

}  // namespace quantfit::optimizer
