// Who a model or an importance matrix is: short texts that stay the same when a file is renamed or
// re-sharded.
#pragma once

#include <map>
#include <string>
#include <string_view>

#include "core/error.h"
#include "core/importance_matrix.h"
#include "core/model.h"
#include "core/progress.h"

namespace quantfit {

// 32 lower-case hexadecimal digits (XXH3, 128 bits) over every tensor's name, dimensions, format and a
// sample of its bytes, tensors taken in the order of their names. Metadata, file names, sharding and the
// order of tensors do not count; trailing dimensions of 1 do not either. Up to 24 pieces of 4 KiB are read
// per tensor, spread evenly from its first byte to its last: about 100 MB of a model with a thousand
// tensors, whatever its size. In MetadataOnly mode tensors without data count as such, so the result
// differs from the whole model's.
[[nodiscard]] std::string fingerprint(const Model& model);

// Every weight of a model, where fingerprint() looks at a sample: 32 hexadecimal digits (XXH3, 128 bits) over
// name, dimensions, format and the digest of all bytes of every tensor that has any, in the order of their
// names.
class WeightsDigest {
 public:
  // `bytes`: data_digest() of the tensor.
  void add(const TensorInfo& tensor, std::string_view bytes);
  [[nodiscard]] std::string hex() const;

 private:
  std::map<std::string, std::string> tensors_;  // by name
};

// 32 hexadecimal digits over all bytes of one tensor, read ahead in file order.
[[nodiscard]] std::string data_digest(const Model& model, const TensorInfo& tensor);

// Reads all of a model. Interrupted when cancelled; Io when a file changes meanwhile. Progress counts
// weights.
[[nodiscard]] Result<std::string> weights_digest(const Model& model, ProgressSink& progress,
                                                 const CancellationToken& cancel);

// The same as fingerprint() of a model for all names, counts and sums of an importance matrix; not its path
// or data set names. The two file formats of one matrix differ, because they hold different numbers.
[[nodiscard]] std::string fingerprint(const ImportanceMatrix& importance);

}  // namespace quantfit
