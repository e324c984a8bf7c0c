#include "optimizer/calibration/moments.h"

#include <tbb/blocked_range.h>
#include <tbb/enumerable_thread_specific.h>
#include <tbb/parallel_for.h>

#include <algorithm>
#include <array>
#include <utility>

#include "optimizer/calibration/pieces.h"

namespace quantfit::calibration {
namespace {

// Rows and columns of a piece that one task sums.
constexpr std::size_t kPiece = 256;
constexpr std::size_t kRows = kernels::kProductBlock;  // that are summed at a time

}  // namespace

// Sums of x x^T over rows, the lower triangle of every block in pieces, and of x^2.
class MomentsCollector::Sums {
 public:
  Sums(std::size_t columns, std::size_t block) : columns_(columns), block_(std::min(block, columns)) {
    std::size_t size = 0;
    for (std::size_t first = 0; first < columns_; first += block_) {
      const std::size_t n = std::min(block_, columns_ - first);
      for (std::size_t i = 0; i < n; i += kPiece)
        for (std::size_t j = 0; j <= i; j += kPiece) pieces_.push_back({first + i, first + j, size, n, i, j});
      size += n * n;
    }
    moments_.assign(size, 0.0F);
  }

  void add(const kernels::MathKernels& kernels, kernels::MatrixView<const float> x) {
    rows_ += x.rows;
    for (std::size_t t = 0; t < x.rows;) {
      // Whole blocks of rows are summed where they lie.
      if (const std::size_t whole = (x.rows - t) / kRows * kRows; filled_ == 0 && whole > 0) {
        add_products(kernels, {x.row(t), whole, x.columns, x.stride});
        t += whole;
        continue;
      }
      if (waiting_.empty()) waiting_.resize(kRows * columns_);
      std::copy_n(x.row(t++), columns_, waiting_.begin() + static_cast<std::ptrdiff_t>(filled_ * columns_));
      if (++filled_ == kRows) flush(kernels);
    }
  }

  // The means, packed (SecondMomentsInput), appended to `out`; zeros where nothing was added.
  void take(const kernels::MathKernels& kernels, std::vector<float>& out) {
    if (filled_ > 0) flush(kernels);
    const double scale = rows_ > 0 ? 1.0 / static_cast<double>(rows_) : 0.0;
    std::size_t base = 0;
    for (std::size_t first = 0; first < columns_; first += block_) {
      const std::size_t n = std::min(block_, columns_ - first);
      const std::size_t begin = out.size();
      out.resize(begin + n * (n + 1) / 2);
      tbb::parallel_for(tbb::blocked_range<std::size_t>(0, n), [&](const auto& rows) {
        for (std::size_t i = rows.begin(); i < rows.end(); ++i)
          for (std::size_t j = 0; j <= i; ++j)
            out[begin + i * (i + 1) / 2 + j] = static_cast<float>(double{moments_[base + i * n + j]} * scale);
      });
      base += n * n;
    }
  }
  [[nodiscard]] std::uint64_t rows() const { return rows_; }

 private:
  struct Piece {
    std::size_t row, column;  // of the input
    std::size_t base, n;      // of its block: place in moments_, columns
    std::size_t i, j;         // inside the block
  };

  void flush(const kernels::MathKernels& kernels) {
    add_products(kernels, {waiting_.data(), filled_, columns_, columns_});
    filled_ = 0;
  }

  // Of rows that follow a whole number of blocks.
  void add_products(const kernels::MathKernels& kernels, kernels::MatrixView<const float> x) {
    const auto view = [&](std::size_t first, std::size_t count) {
      return kernels::MatrixView<const float>{x.row(0) + first, x.rows, count, x.stride};
    };
    tbb::parallel_for(std::size_t{0}, pieces_.size(), [&](std::size_t p) {
      const Piece& piece = pieces_[p];
      const std::size_t rows = std::min(kPiece, piece.n - piece.i);
      const std::size_t columns = std::min(kPiece, piece.n - piece.j);
      std::vector<float>& scratch = scratch_.local();
      scratch.resize(kernels::product_scratch(0, kernels::kProductColumns));
      kernels.add_outer_products(
          view(piece.row, rows), view(piece.column, columns),
          {moments_.data() + piece.base + piece.i * piece.n + piece.j, rows, columns, piece.n},
          scratch.data());
    });
  }

  std::size_t columns_;
  std::size_t block_;
  std::vector<float> waiting_;  // rows that do not fill a block yet; empty while there were none
  std::size_t filled_ = 0;
  std::uint64_t rows_ = 0;
  std::vector<Piece> pieces_;
  std::vector<float> moments_;
  tbb::enumerable_thread_specific<std::vector<float>> scratch_;
};

struct MomentsCollector::Group {
  SecondMomentsInput input;
  std::uint32_t count = 1;  // matrices of its tensors
  const engine::Matrix* summed_for = nullptr;
  std::vector<std::unique_ptr<Sums>> sums;   // one, or one per matrix
  std::vector<std::vector<double>> squares;  // per expert that shares a matrix
  std::vector<double> rows;                  // likewise
};

MomentsCollector::MomentsCollector(const kernels::MathKernels& kernels, const MomentsForm& form, Sink sink)
    : kernels_(&kernels), form_(form), sink_(std::move(sink)) {}

MomentsCollector::~MomentsCollector() = default;

Result<void> MomentsCollector::begin_layer(std::uint32_t) {
  groups_.clear();
  return outcome::success();
}

Result<void> MomentsCollector::product(const engine::MatrixProduct& product) {
  const std::string& name = product.matrix->tensor->name;
  std::unique_ptr<Group>& group = groups_[product.input_group];
  if (!group) {
    group = std::make_unique<Group>();
    group->summed_for = product.matrix;
    group->count = product.matrix->count;
    SecondMomentsInput& input = group->input;
    input.name = name;
    input.columns = static_cast<std::uint32_t>(product.input.columns);
    input.block = input.columns <= form_.full_columns ? input.columns : form_.block;
    const std::uint64_t bytes = input.packed() * 2 * sizeof(float) * group->count;
    if (group->count > 1 && bytes > form_.expert_bytes) {
      input.experts = group->count;
      group->squares.assign(group->count, std::vector<double>(input.columns, 0.0));
    } else {
      input.matrices = group->count;
    }
    group->rows.assign(group->count, 0.0);
    group->sums.resize(input.matrices);
  }
  // A matrix beside experts may read the same rows under the same number; it then takes what all of them
  // share only if it is of the same kind.
  if (product.matrix->count != group->count) return outcome::success();
  std::vector<std::string>& tensors = group->input.tensors;
  if (std::ranges::find(tensors, name) == tensors.end()) tensors.push_back(name);
  if (group->summed_for != product.matrix) return outcome::success();
  const bool shared = group->input.experts > 0;
  std::unique_ptr<Sums>& sums = group->sums[shared ? 0 : product.index];
  if (!sums) sums = std::make_unique<Sums>(group->input.columns, group->input.block);
  sums->add(*kernels_, product.input);
  group->rows[product.index] += static_cast<double>(product.input.rows);
  if (shared) {
    std::vector<double>& squares = group->squares[product.index];
    for_pieces(squares.size(), [&](std::size_t first, std::size_t end) {
      for (std::size_t t = 0; t < product.input.rows; ++t) {
        const float* row = product.input.row(t);
        for (std::size_t j = first; j < end; ++j) squares[j] += double{row[j]} * double{row[j]};
      }
    });
  }
  return outcome::success();
}

Result<void> MomentsCollector::end_layer(std::uint32_t) {
  for (const auto& [number, group] : groups_) {
    std::vector<float> moments;
    moments.reserve(group->input.packed() * group->input.matrices);
    for (std::unique_ptr<Sums>& sums : group->sums) {
      if (sums) {
        sums->take(*kernels_, moments);
        sums.reset();
      } else {
        moments.resize(moments.size() + group->input.packed(), 0.0F);
      }
    }
    std::vector<float> diagonals;
    for (std::size_t e = 0; e < group->squares.size(); ++e)
      for (const double square : group->squares[e])
        diagonals.push_back(group->rows[e] > 0 ? static_cast<float>(square / group->rows[e]) : 0.0F);
    QF_TRY(sink_(group->input, moments, diagonals, group->rows));
  }
  groups_.clear();
  return outcome::success();
}

namespace {

namespace fs = std::filesystem;

fs::path part_path(const fs::path& checkpoint, std::uint32_t layer) {
  return checkpoint.string() + fmt::format(".{}", layer);
}

// The files of moments of layers 0 .. layers - 1, of the same model and text; nothing where one is missing.
std::optional<std::vector<SecondMomentsFile>> open_parts(const fs::path& checkpoint, std::uint32_t layers,
                                                         const SecondMomentsIdentity& identity) {
  std::vector<SecondMomentsFile> parts;
  for (std::uint32_t layer = 0; layer < layers; ++layer) {
    auto part = SecondMomentsFile::open(part_path(checkpoint, layer));
    if (!part || part.value().identity() != identity) return std::nullopt;
    parts.push_back(std::move(part).value());
  }
  return parts;
}

}  // namespace

MomentsRecorder::MomentsRecorder(const kernels::MathKernels& kernels, const MomentsForm& form,
                                 SecondMomentsIdentity identity, std::uint32_t layers, fs::path path,
                                 fs::path parts)
    : identity_(std::move(identity)),
      layers_(layers),
      path_(std::move(path)),
      parts_(std::move(parts)),
      collector_(kernels, form,
                 [this](const SecondMomentsInput& input, std::span<const float> moments,
                        std::span<const float> diagonals, std::span<const double> rows) -> Result<void> {
                   if (!writer_) {
                     QF_ASSIGN(SecondMomentsWriter made,
                               SecondMomentsWriter::create(parts_.empty() ? path_ : part_path(parts_, layer_),
                                                           identity_));
                     writer_.emplace(std::move(made));
                   }
                   return writer_->append(input, moments, diagonals, rows);
                 }) {}

bool MomentsRecorder::can_continue(const Checkpoint& checkpoint) const {
  return !parts_.empty() && open_parts(parts_, checkpoint.layer(), identity_).has_value();
}

Result<void> MomentsRecorder::begin_pass(const Checkpoint* checkpoint) {
  writer_.reset();
  remove_parts(checkpoint == nullptr ? 0 : checkpoint->layer());
  return outcome::success();
}

Result<void> MomentsRecorder::begin_layer(std::uint32_t layer) {
  layer_ = layer;
  return collector_.begin_layer(layer);
}

Result<void> MomentsRecorder::product(const engine::MatrixProduct& product) {
  return collector_.product(product);
}

Result<void> MomentsRecorder::end_layer(std::uint32_t layer) {
  QF_TRY(collector_.end_layer(layer));
  if (parts_.empty() || !writer_) return outcome::success();
  QF_TRY(writer_->commit());
  writer_.reset();
  return outcome::success();
}

Result<void> MomentsRecorder::commit() {
  if (parts_.empty() && writer_) return writer_->commit();
  QF_ASSIGN(SecondMomentsWriter writer, SecondMomentsWriter::create(path_, identity_));
  std::error_code ignored;
  for (std::uint32_t layer = 0; layer <= layers_; ++layer) {
    if (!fs::exists(part_path(parts_, layer), ignored)) continue;
    QF_ASSIGN(SecondMomentsFile part, SecondMomentsFile::open(part_path(parts_, layer)));
    QF_TRY(writer.append(std::move(part)));
  }
  return writer.commit();
}

void MomentsRecorder::remove_parts(std::uint32_t from) const {
  if (parts_.empty()) return;
  std::error_code ignored;
  for (std::uint32_t layer = from; layer <= layers_; ++layer) fs::remove(part_path(parts_, layer), ignored);
}

Result<std::uint32_t> collect_moments(const engine::Engine& engine, const Text& text, const fs::path& path,
                                      const MomentsOptions& options, ProgressSink& progress,
                                      const CancellationToken& cancel) {
  QF_ASSIGN(const kernels::MathKernels* kernels, kernels::default_math_kernels());
  MomentsRecorder recorder(*kernels, options.form,
                           {options.model_fingerprint, text.fingerprint, engine::kEngineVersion},
                           static_cast<std::uint32_t>(engine.graph().layers.size()), path,
                           engine.can_resume() ? options.checkpoint : fs::path());
  const std::array<PassObserver*, 1> observers = {&recorder};
  QF_ASSIGN(const std::uint32_t first, run_pass(engine, text, options, observers, progress, cancel));
  QF_TRY(recorder.commit());
  std::error_code ignored;
  if (!options.checkpoint.empty()) fs::remove(options.checkpoint, ignored);
  recorder.remove_parts();
  return first;
}

}  // namespace quantfit::calibration
