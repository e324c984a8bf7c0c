// Texts of HTTP requests that the service reads itself: targets, ranges, hosts, cookies, tags, tokens, names
// of files.

#include <cstdint>

#include "cli/service/access.h"
#include "cli/service/request_text.h"
#include "cli/service/roots.h"
#include "core/text.h"
#include "tests/fuzz/input.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

namespace quantfit {
namespace {

bool has_control(std::string_view text) {
  for (const char letter : text)
    if (static_cast<unsigned char>(letter) < 0x20 || letter == 0x7F) return true;
  return false;
}

void read_target(std::string_view text) {
  const auto target = service::parse_target(text);
  if (!target) return;
  for (const std::string& segment : target.value().segments) {
    fuzz::expect(!segment.empty() && segment != "." && segment != "..", "a segment is a name");
    fuzz::expect(segment.find_first_of("/\\") == std::string::npos, "a segment holds no separator");
    fuzz::expect(is_utf8(segment) && !has_control(segment), "a segment is plain text");
  }
  for (const auto& [name, value] : target.value().query)
    fuzz::expect(is_utf8(name) && is_utf8(value) && !has_control(name) && !has_control(value),
                 "a query is plain text");
}

void read_range(std::string_view text, std::uint64_t size) {
  const auto range = service::parse_range(text, size);
  if (!range || !range.value()) return;
  fuzz::expect(range.value()->first <= range.value()->last && range.value()->last < size,
               "a range is in the file");
}

void read_fields(std::string_view text) {
  if (const auto host = service::parse_host(text)) fuzz::expect(!host->host.empty(), "a host has a name");
  (void)service::parse_origin(text);
  const std::string_view token = service::bearer_token(text);
  fuzz::expect(token.empty() || text.find(token) != std::string_view::npos, "a token is part of its field");
  (void)service::cookie_value(text, "quantfit");
  (void)service::matches_tag(text, "\"1-2\"");
  (void)service::is_json(text);
  (void)service::parse_whole_number(text);
  if (const auto tokens = service::parse_tokens(text))
    fuzz::expect(!tokens.value().empty(), "a token file has tokens");
}

void read_name(std::string_view text) {
  static const auto roots = service::Roots::open({"here=/:ro"});
  if (!roots) return;
  const auto name = roots.value().parse(text);
  if (!name) return;
  fuzz::expect(!name.value().path.empty() && name.value().path.front() != '/', "a name is beneath its root");
  fuzz::expect(("/" + name.value().path + "/").find("/.") == std::string::npos, "no part begins with a dot");
}

}  // namespace
}  // namespace quantfit

// The first byte chooses the reader.
int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  const std::string_view text = quantfit::fuzz::text_of(data + 1, size - 1);
  switch (data[0]) {
    case 't':
      quantfit::read_target(text);
      break;
    case 'r':
      quantfit::read_range(text, 1000);
      quantfit::read_range(text, 0);
      break;
    case 'f':
      quantfit::read_fields(text);
      break;
    case 'n':
      quantfit::read_name(text);
      break;
    default:
      break;
  }
  return 0;
}
