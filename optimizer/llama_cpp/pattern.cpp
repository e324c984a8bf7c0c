#include "optimizer/llama_cpp/pattern.h"

#include <boost/regex.hpp>
#include <stdexcept>

namespace quantfit::optimizer {

struct Pattern::Compiled {
  boost::regex regex;
};

Result<Pattern> Pattern::compile(std::string_view text) {
  if (text.size() > kMaxPatternBytes)
    return fail(ErrorCode::InvalidArgument, "a pattern of {} bytes; {} are allowed", text.size(),
                kMaxPatternBytes);
  Pattern pattern;
  pattern.text_ = text;
  try {
    pattern.compiled_ = std::make_shared<Compiled>(
        Compiled{boost::regex(pattern.text_, boost::regex::perl | boost::regex::nosubs)});
  } catch (const boost::regex_error& error) {
    return fail(ErrorCode::InvalidArgument, "pattern '{}', position {}: {}", text, error.position(),
                error.what());
  } catch (const std::runtime_error& error) {  // too complex to compile
    return fail(ErrorCode::InvalidArgument, "pattern '{}': {}", text, error.what());
  }
  return pattern;
}

bool Pattern::found_in(std::string_view text) const {
  try {
    return boost::regex_search(text.begin(), text.end(), compiled_->regex);
  } catch (const std::runtime_error&) {  // the bound on steps or memory
    return false;
  }
}

std::string escape_pattern(std::string_view text) {
  constexpr std::string_view kSpecial = R"(\^$.|?*+()[]{})";
  std::string escaped;
  for (const char c : text) {
    if (kSpecial.find(c) != std::string_view::npos) escaped += '\\';
    escaped += c;
  }
  return escaped;
}

}  // namespace quantfit::optimizer
