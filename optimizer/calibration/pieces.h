// Columns of a matrix shared out to tasks.
#pragma once

#include <tbb/parallel_for.h>

#include <algorithm>
#include <cstddef>

namespace quantfit::calibration {

// function(first, end) for pieces that cover 0 .. columns, in parallel. A piece is 256 columns: whole cache
// lines of doubles.
template <class Function>
void for_pieces(std::size_t columns, const Function& function) {
  constexpr std::size_t kPieceColumns = 256;
  tbb::parallel_for(std::size_t{0}, (columns + kPieceColumns - 1) / kPieceColumns, [&](std::size_t i) {
    const std::size_t first = i * kPieceColumns;
    function(first, std::min(first + kPieceColumns, columns));
  });
}

}  // namespace quantfit::calibration
