#include "core/tokenizer/byte_trie.h"

#include <utility>

namespace quantfit {

void ByteTrie::place(Edge edge) {
  const std::size_t mask = edges_.size() - 1;
  std::size_t at = hash(edge.key) & mask;
  while (edges_[at].key != 0) at = (at + 1) & mask;
  edges_[at] = edge;
}

void ByteTrie::insert(std::string_view text, std::uint32_t value) {
  Node node = kRoot;
  for (const char byte : text) {
    if (const auto next = child(node, byte)) {
      node = *next;
      continue;
    }
    if (2 * values_.size() >= edges_.size()) {
      std::vector<Edge> old(2 * edges_.size());
      std::swap(old, edges_);
      for (const Edge& edge : old)
        if (edge.key != 0) place(edge);
    }
    const auto next = static_cast<Node>(values_.size());
    values_.push_back(kNoValue);
    place({key_of(node, byte), next});
    node = next;
  }
  if (values_[node] == kNoValue) values_[node] = value;
}

}  // namespace quantfit
