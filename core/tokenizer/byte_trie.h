// Texts by their first bytes: all that a text begins with are found on one walk.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

namespace quantfit {

// Edges lie in one hash table; a node is the number of its edge.
class ByteTrie {
 public:
  using Node = std::uint32_t;
  static constexpr Node kRoot = 0;

  ByteTrie() : values_(1, kNoValue), edges_(16) {}

  // `value` is below 2^32 - 1. A text that is there already keeps its value.
  void insert(std::string_view text, std::uint32_t value);

  [[nodiscard]] std::optional<Node> child(Node node, char byte) const {
    const std::uint64_t key = key_of(node, byte);
    const std::size_t mask = edges_.size() - 1;
    for (std::size_t at = hash(key) & mask; edges_[at].key != 0; at = (at + 1) & mask)
      if (edges_[at].key == key) return edges_[at].target;
    return std::nullopt;
  }
  // Of the text that ends at the node.
  [[nodiscard]] std::optional<std::uint32_t> value(Node node) const {
    if (values_[node] == kNoValue) return std::nullopt;
    return values_[node];
  }

 private:
  struct Edge {
    std::uint64_t key = 0;  // 0: none
    Node target = 0;
  };
  static constexpr std::uint32_t kNoValue = 0xFFFFFFFF;

  static std::uint64_t key_of(Node node, char byte) {
    return (std::uint64_t{node} << 9) | 0x100 | static_cast<unsigned char>(byte);
  }
  static std::size_t hash(std::uint64_t key) {
    key *= 0x9E3779B97F4A7C15;  // 2^64 over the golden ratio
    return key ^ (key >> 32);
  }
  void place(Edge edge);

  std::vector<std::uint32_t> values_;  // by node
  std::vector<Edge> edges_;            // open addressing, a power of two
};

}  // namespace quantfit
