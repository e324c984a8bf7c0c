// Internal: sizes of the scratch that attention works in.
#pragma once

#include <cstddef>

namespace quantfit::kernels::attention_layout {

inline constexpr std::size_t kPanelLanes = 32;  // queries at a time
inline constexpr std::size_t kKeyTile = 64;     // keys at a time
inline constexpr std::size_t kBlockDim = 256;   // dimensions of a key or value at a time
// Tiles of products compute up to eleven rows too many.
inline constexpr std::size_t kRowPadding = 12;
inline constexpr std::size_t kTileStride = kBlockDim + 16;  // from row to row of a tile
inline constexpr std::size_t kTileFloats = (kKeyTile + kRowPadding) * kTileStride;
inline constexpr std::size_t kScoreFloats = (kKeyTile + kRowPadding) * kPanelLanes;

constexpr std::size_t padded_dim(std::size_t dim) {
  return (dim + 15) / 16 * 16 + kRowPadding;
}

}  // namespace quantfit::kernels::attention_layout
