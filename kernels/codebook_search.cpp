#include "kernels/codebook_search.h"

#include <algorithm>
#include <cstddef>

#include "kernels/codebooks.h"

namespace quantfit::kernels {
namespace {

// `levels`: the values of the grid upwards; `grid` entries hold one value per byte.
template <class Entry, std::size_t kEntries, std::size_t kLevels>
SplitCodebook split(const std::array<Entry, kEntries>& grid, const std::array<std::int8_t, kLevels>& levels) {
  constexpr int kHalf = sizeof(Entry) / 2;
  SplitCodebook book;
  book.entry.fill(0xFFFF);
  const auto pattern = [&](Entry entry, int begin) {
    int id = 0;
    for (int k = begin; k < begin + kHalf; ++k) {
      const auto value = static_cast<std::int8_t>(entry >> (8 * k));
      id = id * static_cast<int>(kLevels) +
           static_cast<int>(std::find(levels.begin(), levels.end(), value) - levels.begin());
    }
    return id;
  };
  for (std::size_t index = 0; index < kEntries; ++index)
    book.entry[static_cast<std::size_t>((pattern(grid[index], 0) << SplitCodebook::kIdBits) |
                                        pattern(grid[index], kHalf))] = static_cast<std::uint16_t>(index);
  int patterns = 1;
  for (int k = 0; k < kHalf; ++k) patterns *= static_cast<int>(kLevels);
  std::uint16_t count = 0;
  for (int first = 0; first < patterns; ++first) {
    int rest = first;
    std::uint32_t digits = 0;
    for (int k = kHalf; k-- > 0; rest /= static_cast<int>(kLevels))
      digits |= static_cast<std::uint32_t>(rest % static_cast<int>(kLevels)) << (8 * k);
    book.digits[static_cast<std::size_t>(first)] = static_cast<std::int32_t>(digits);
    const std::uint16_t begin = count;
    for (int second = 0; second < patterns; ++second)
      if (book.entry[static_cast<std::size_t>((first << SplitCodebook::kIdBits) | second)] != 0xFFFF)
        book.second[count++] = static_cast<std::uint8_t>(second);
    if (count == begin) continue;
    book.first[static_cast<std::size_t>(book.first_count)] = static_cast<std::uint8_t>(first);
    book.start[static_cast<std::size_t>(book.first_count)] = begin;
    book.start[static_cast<std::size_t>(++book.first_count)] = count;
  }
  return book;
}

constexpr std::array<std::int8_t, 3> kIq2Levels = {8, 25, 43};
constexpr std::array<std::int8_t, 3> kIq1Levels = {-1, 0, 1};
constexpr std::array<std::int8_t, 8> kIq3xxsLevels = {4, 12, 20, 28, 36, 44, 52, 62};
constexpr std::array<std::int8_t, 8> kIq3sLevels = {1, 3, 5, 7, 9, 11, 13, 15};

}  // namespace

const SplitCodebook& iq2xxs_split() {
  static const SplitCodebook book = split(kIq2xxsGrid, kIq2Levels);
  return book;
}
const SplitCodebook& iq2xs_split() {
  static const SplitCodebook book = split(kIq2xsGrid, kIq2Levels);
  return book;
}
const SplitCodebook& iq2s_split() {
  static const SplitCodebook book = split(kIq2sGrid, kIq2Levels);
  return book;
}
const SplitCodebook& iq3xxs_split() {
  static const SplitCodebook book = split(kIq3xxsGrid, kIq3xxsLevels);
  return book;
}
const SplitCodebook& iq3s_split() {
  static const SplitCodebook book = split(kIq3sGrid, kIq3sLevels);
  return book;
}
const SplitCodebook& iq1s_split() {
  static const SplitCodebook book = split(kIq1sGrid, kIq1Levels);
  return book;
}

}  // namespace quantfit::kernels
