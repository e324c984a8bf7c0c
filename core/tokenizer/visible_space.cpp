#include "core/tokenizer/visible_space.h"

namespace quantfit {
namespace {

std::string replaced(std::string_view text, std::string_view what, std::string_view by) {
  std::string result;
  result.reserve(text.size() + text.size() / 4);
  for (;;) {
    const std::size_t at = text.find(what);
    result += text.substr(0, at);
    if (at == std::string_view::npos) return result;
    result += by;
    text.remove_prefix(at + what.size());
  }
}

}  // namespace

std::string with_visible_spaces(std::string_view text) {
  return replaced(text, " ", kVisibleSpace);
}
std::string without_visible_spaces(std::string_view text) {
  return replaced(text, kVisibleSpace, " ");
}

}  // namespace quantfit
