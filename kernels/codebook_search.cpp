#include "kernels/codebook_search.h"

#include <algorithm>
#include <cstddef>
#include <vector>

#include "kernels/codebooks.h"

namespace quantfit::kernels {
namespace {

using Lists = std::vector<std::vector<std::uint8_t>>;  // sorted node ids

// Joins the pair of nodes that occurs in most lists, again and again, while it pays: a join costs two loads
// and a store and saves a load per list.
void join_pairs(Lists& lists, std::size_t patterns, SplitCodebook& book) {
  constexpr int kWorthwhile = 4;
  for (std::size_t node = patterns; node < SplitCodebook::kMaxNodes; ++node) {
    std::vector<std::uint16_t> count(SplitCodebook::kMaxNodes * SplitCodebook::kMaxNodes, 0);
    for (const auto& list : lists)
      for (std::size_t i = 0; i < list.size(); ++i)
        for (std::size_t k = i + 1; k < list.size(); ++k)
          ++count[list[i] * SplitCodebook::kMaxNodes + list[k]];
    const auto most = std::max_element(count.begin(), count.end());
    if (*most < kWorthwhile) break;
    const auto pair = static_cast<std::size_t>(most - count.begin());
    const auto a = static_cast<std::uint8_t>(pair / SplitCodebook::kMaxNodes);
    const auto b = static_cast<std::uint8_t>(pair % SplitCodebook::kMaxNodes);
    for (auto& list : lists) {
      if (!std::binary_search(list.begin(), list.end(), a) ||
          !std::binary_search(list.begin(), list.end(), b))
        continue;
      std::erase(list, a);
      std::erase(list, b);
      list.push_back(static_cast<std::uint8_t>(node));  // larger than all
    }
    constexpr std::size_t kStride = SplitCodebook::kStride;
    book.joins[book.join_count++] = {static_cast<std::uint16_t>(node * kStride),
                                     static_cast<std::uint16_t>(a * kStride),
                                     static_cast<std::uint16_t>(b * kStride)};
  }
}

// `levels`: the values of the grid upwards; `grid` entries hold one value per byte.
template <class Entry, std::size_t kEntries, std::size_t kLevels>
SplitCodebook split(const std::array<Entry, kEntries>& grid, const std::array<std::int8_t, kLevels>& levels) {
  constexpr std::size_t kHalf = sizeof(Entry) / 2;
  SplitCodebook book;
  book.entry.fill(0xFFFF);
  const auto pattern = [&](Entry entry, std::size_t begin) {
    std::size_t id = 0;
    for (std::size_t k = begin; k < begin + kHalf; ++k) {
      const auto value = static_cast<std::int8_t>(entry >> (8 * k));
      id = id * kLevels +
           static_cast<std::size_t>(std::find(levels.begin(), levels.end(), value) - levels.begin());
    }
    return id;
  };
  std::size_t patterns = 1;
  for (std::size_t k = 0; k < kHalf; ++k) patterns *= kLevels;
  Lists lists(patterns);
  for (std::size_t index = 0; index < kEntries; ++index) {
    const std::size_t first = pattern(grid[index], 0);
    const std::size_t second = pattern(grid[index], kHalf);
    book.entry[(first << SplitCodebook::kIdBits) | second] = static_cast<std::uint16_t>(index);
    lists[first].push_back(static_cast<std::uint8_t>(second));
  }
  for (auto& list : lists) std::sort(list.begin(), list.end());
  join_pairs(lists, patterns, book);

  std::vector<std::size_t> order;
  for (std::size_t id = 0; id < patterns; ++id) {
    std::size_t rest = id;
    std::uint32_t digits = 0;
    for (std::size_t k = kHalf; k-- > 0; rest /= kLevels)
      digits |= static_cast<std::uint32_t>(rest % kLevels) << (8 * k);
    book.digits[id] = static_cast<std::int32_t>(digits);
    if (!lists[id].empty()) order.push_back(id);
  }
  std::stable_sort(order.begin(), order.end(),
                   [&](std::size_t a, std::size_t b) { return lists[a].size() > lists[b].size(); });
  std::size_t count = 0;
  for (const std::size_t id : order) {
    auto& list = lists[id];
    if (list.size() % 2 != 0) list.push_back(list.back());
    book.first[book.list_count] = static_cast<std::int32_t>(id);
    book.first_offset[book.list_count] = static_cast<std::uint16_t>(id * SplitCodebook::kStride);
    book.length[book.list_count++] = static_cast<std::uint16_t>(list.size());
    for (const std::uint8_t node : list)
      book.nodes[count++] = static_cast<std::uint16_t>(node * SplitCodebook::kStride);
  }
  return book;
}

template <class Entry, std::size_t kEntries, std::size_t kLevels>
FlatCodebook flatten(const std::array<Entry, kEntries>& grid,
                     const std::array<std::int8_t, kLevels>& levels) {
  static_assert(kEntries % 16 == 0 && kEntries <= FlatCodebook::kMaxEntries);
  constexpr std::size_t kElements = sizeof(Entry);
  FlatCodebook book;
  book.count = kEntries;
  for (std::size_t index = 0; index < kEntries; ++index) {
    for (std::size_t d = 0; d < 4; ++d) {
      std::size_t digit = 0;
      for (std::size_t k = d * kElements / 4; k < (d + 1) * kElements / 4; ++k) {
        const auto value = static_cast<std::int8_t>(grid[index] >> (8 * k));
        digit = digit * kLevels +
                static_cast<std::size_t>(std::find(levels.begin(), levels.end(), value) - levels.begin());
      }
      book.digit[d][index] = static_cast<std::uint8_t>(digit);
      book.digits[index] |= static_cast<std::int32_t>(digit << (4 * d));
    }
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
const FlatCodebook& iq2xxs_flat() {
  static const FlatCodebook book = flatten(kIq2xxsGrid, kIq2Levels);
  return book;
}
const FlatCodebook& iq2xs_flat() {
  static const FlatCodebook book = flatten(kIq2xsGrid, kIq2Levels);
  return book;
}
const FlatCodebook& iq2s_flat() {
  static const FlatCodebook book = flatten(kIq2sGrid, kIq2Levels);
  return book;
}
const FlatCodebook& iq3xxs_flat() {
  static const FlatCodebook book = flatten(kIq3xxsGrid, kIq3xxsLevels);
  return book;
}
const FlatCodebook& iq3s_flat() {
  static const FlatCodebook book = flatten(kIq3sGrid, kIq3sLevels);
  return book;
}
const FlatCodebook& iq1s_flat() {
  static const FlatCodebook book = flatten(kIq1sGrid, kIq1Levels);
  return book;
}

}  // namespace quantfit::kernels
