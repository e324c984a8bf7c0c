// The second moments E[x x^T] of what enters a model's matrices, measured over a text, and the file they are
// kept in: what rounding with error feedback encodes with.
#pragma once

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/error.h"
#include "core/model.h"

namespace quantfit {

// One input, read by one or several tensors (queries, keys and values share one). Its matrix is full, or
// consists of diagonal blocks of `block` columns (the last one may be shorter); block >= columns means full.
// A tensor of experts either has a matrix of each (`matrices` of them) or one for all of them, with the
// diagonal of each beside it (`experts` of them).
struct SecondMomentsInput {
  std::string name;  // of its first tensor
  std::vector<std::string> tensors;
  std::uint32_t columns = 0;
  std::uint32_t block = 0;
  std::uint32_t matrices = 1;
  std::uint32_t experts = 0;  // with diagonals of their own; 0: none

  // Numbers of one matrix: the lower triangles of its blocks, each row by row.
  [[nodiscard]] std::uint64_t packed() const;
  friend bool operator==(const SecondMomentsInput&, const SecondMomentsInput&) = default;
};

// What the numbers were measured with. Equal identities, equal numbers.
struct SecondMomentsIdentity {
  std::string model, text;  // fingerprints
  std::uint32_t engine_version = 0;
  friend bool operator==(const SecondMomentsIdentity&, const SecondMomentsIdentity&) = default;
};

class SecondMomentsFile;

// Writes input after input; they wait in a nameless file beside `path` until the last one is known. Destroyed
// without commit(), nothing is left. The same inputs give the same bytes.
//
// A GGUF file, general.type "quantfit.second_moments", keys second_moments.version (1), .model, .text,
// .engine_version, and by input .inputs (names), .columns, .blocks, .matrices, .experts, by tensor .tensors
// and .input_of (index of its input). For every input NAME: NAME.moments (F32, packed x matrices),
// NAME.diagonals (F32, columns x experts, where there are experts), NAME.rows (F64, matrices or experts):
// rows they are means over.
class SecondMomentsWriter {
 public:
  // Io when the waiting file cannot be made.
  [[nodiscard]] static Result<SecondMomentsWriter> create(const std::filesystem::path& path,
                                                          SecondMomentsIdentity identity);
  SecondMomentsWriter(SecondMomentsWriter&& other) noexcept;
  SecondMomentsWriter& operator=(SecondMomentsWriter&&) = delete;
  ~SecondMomentsWriter();

  // `moments`: packed() x matrices; `diagonals`: columns x experts; `rows`: experts or matrices.
  // InvalidArgument for other sizes, an input or tensor named twice, and no tensors; Io.
  [[nodiscard]] Result<void> append(const SecondMomentsInput& input, std::span<const float> moments,
                                    std::span<const float> diagonals, std::span<const double> rows);
  // All inputs of another file, whose numbers commit() copies as they are. InvalidArgument as above.
  [[nodiscard]] Result<void> append(SecondMomentsFile file);
  // The file appears complete, or not at all. InvalidArgument without inputs; Io, NoSpace.
  [[nodiscard]] Result<void> commit();

 private:
  SecondMomentsWriter() = default;
  Result<void> add(const SecondMomentsInput& input, std::shared_ptr<const SecondMomentsFile> from);
  std::filesystem::path path_, waiting_;
  SecondMomentsIdentity identity_;
  std::fstream file_;
  std::vector<SecondMomentsInput> inputs_;
  std::vector<std::shared_ptr<const SecondMomentsFile>> from_;  // where each input's numbers are; null: file_
  std::map<std::string, std::uint32_t, std::less<>> input_of_;  // by tensor
};

// A file opened for reading: the index in memory, numbers read when asked for. Immutable; threads may share
// it.
class SecondMomentsFile {
 public:
  // Io; Unsupported for a GGUF file of another kind or version; Malformed for an index that contradicts
  // itself or the data.
  [[nodiscard]] static Result<SecondMomentsFile> open(const std::filesystem::path& path);

  [[nodiscard]] const SecondMomentsIdentity& identity() const { return identity_; }
  [[nodiscard]] std::span<const SecondMomentsInput> inputs() const { return inputs_; }
  // The input of a tensor; null where there is none.
  [[nodiscard]] const SecondMomentsInput* find(std::string_view tensor) const;

  // Matrix `matrix` of an input of this file: for every block a full symmetric matrix, row by row, one block
  // after another. Malformed, naming file and input, when a number is not finite.
  [[nodiscard]] Result<std::vector<float>> moments(const SecondMomentsInput& input,
                                                   std::uint32_t matrix) const;
  // The same, of every block the lower triangle alone, row by row: input.packed() numbers.
  [[nodiscard]] Result<std::vector<float>> packed_moments(const SecondMomentsInput& input,
                                                          std::uint32_t matrix) const;
  // The diagonal of expert `expert` where experts share a matrix. Malformed as above and for a negative
  // number.
  [[nodiscard]] Result<std::vector<float>> diagonal(const SecondMomentsInput& input,
                                                    std::uint32_t expert) const;
  // Rows that matrix or expert `index` is a mean over.
  [[nodiscard]] double rows(const SecondMomentsInput& input, std::uint32_t index) const;

 private:
  friend class SecondMomentsWriter;
  explicit SecondMomentsFile(Model file, std::filesystem::path path)
      : file_(std::move(file)), path_(std::move(path)) {}
  Model file_;
  std::filesystem::path path_;
  SecondMomentsIdentity identity_;
  std::vector<SecondMomentsInput> inputs_;
  std::map<std::string, std::uint32_t, std::less<>> input_of_;
};

}  // namespace quantfit
