#include "cli/service/request_text.h"

#include <arpa/inet.h>
#include <fmt/format.h>

#include <algorithm>
#include <charconv>

#include "core/text.h"

namespace quantfit::service {
namespace {

constexpr std::string_view kBlanks = " \t";

std::string_view trimmed(std::string_view text) {
  const std::size_t first = text.find_first_not_of(kBlanks);
  if (first == std::string_view::npos) return {};
  return text.substr(first, text.find_last_not_of(kBlanks) - first + 1);
}

int hexadecimal(char digit) {
  if (digit >= '0' && digit <= '9') return digit - '0';
  if (digit >= 'a' && digit <= 'f') return digit - 'a' + 10;
  if (digit >= 'A' && digit <= 'F') return digit - 'A' + 10;
  return -1;
}

// Nothing when an escape is broken or the result is no plain text.
std::optional<std::string> decoded(std::string_view text, bool plus_is_blank) {
  std::string out;
  out.reserve(text.size());
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '+' && plus_is_blank) {
      out += ' ';
    } else if (text[i] == '%') {
      if (text.size() - i < 3) return std::nullopt;
      const int high = hexadecimal(text[i + 1]);
      const int low = hexadecimal(text[i + 2]);
      if (high < 0 || low < 0) return std::nullopt;
      out += static_cast<char>(high * 16 + low);
      i += 2;
    } else {
      out += text[i];
    }
  }
  const auto is_control = [](char letter) {
    return static_cast<unsigned char>(letter) < 0x20 || letter == 0x7F;
  };
  if (!is_utf8(out) || std::ranges::any_of(out, is_control)) return std::nullopt;
  return out;
}

Problem bad_target() {
  return problem(ProblemKind::InvalidArgument, "the address of the request is not well-formed");
}

bool is_name_letter(char letter) {
  return (letter >= 'a' && letter <= 'z') || (letter >= '0' && letter <= '9') || letter == '-' ||
         letter == '.' || letter == '_';
}

bool is_ipv4(const std::string& text) {
  in_addr address{};
  return inet_pton(AF_INET, text.c_str(), &address) == 1;
}

bool is_ipv6(const std::string& text) {
  in6_addr address{};
  return inet_pton(AF_INET6, text.c_str(), &address) == 1;
}

}  // namespace

Answer<RequestTarget> parse_target(std::string_view target) {
  RequestTarget result;
  if (!target.starts_with('/')) return bad_target();
  const std::size_t question = target.find('?');
  std::string_view path = target.substr(1, question == std::string_view::npos ? question : question - 1);
  while (!path.empty()) {
    const std::size_t slash = std::min(path.find('/'), path.size());
    auto segment = decoded(path.substr(0, slash), false);
    if (!segment || segment->empty() || *segment == "." || *segment == ".." ||
        segment->find_first_of("/\\") != std::string::npos)
      return bad_target();
    result.segments.push_back(std::move(*segment));
    if (slash + 1 == path.size()) return bad_target();  // an empty last segment
    path.remove_prefix(std::min(slash + 1, path.size()));
  }
  if (question == std::string_view::npos) return result;
  for (std::string_view rest = target.substr(question + 1); !rest.empty();) {
    const std::size_t end = std::min(rest.find('&'), rest.size());
    const std::string_view pair = rest.substr(0, end);
    rest.remove_prefix(std::min(end + 1, rest.size()));
    if (pair.empty()) continue;
    const std::size_t equals = std::min(pair.find('='), pair.size());
    auto name = decoded(pair.substr(0, equals), true);
    auto value = decoded(pair.substr(std::min(equals + 1, pair.size())), true);
    if (!name || !value) return bad_target();
    result.query.emplace_back(std::move(*name), std::move(*value));
  }
  return result;
}

std::optional<std::uint64_t> parse_whole_number(std::string_view text) {
  std::uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (text.empty() || error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

Answer<std::optional<ByteRange>> parse_range(std::string_view field, std::uint64_t size) {
  const std::optional<ByteRange> ignored;
  const std::size_t equals = field.find('=');
  if (equals == std::string_view::npos || !equal_ignoring_case(trimmed(field.substr(0, equals)), "bytes"))
    return ignored;
  const std::string_view range = trimmed(field.substr(equals + 1));
  const std::size_t dash = range.find('-');
  if (dash == std::string_view::npos || range.find(',') != std::string_view::npos) return ignored;
  const std::string_view from = range.substr(0, dash);
  const std::string_view to = range.substr(dash + 1);
  const auto first = parse_whole_number(from);
  const auto last = parse_whole_number(to);
  if ((!from.empty() && !first) || (!to.empty() && !last) || (from.empty() && to.empty())) return ignored;
  const auto outside = [&] {
    return problem(ProblemKind::RangeNotSatisfiable,
                   fmt::format("the file has {} bytes, and none of the range {}", size, range));
  };
  if (from.empty()) {  // the last so many
    if (*last == 0 || size == 0) return outside();
    return std::optional(ByteRange{size - std::min(*last, size), size - 1});
  }
  if (last && *last < *first) return ignored;
  if (*first >= size) return outside();
  return std::optional(ByteRange{*first, std::min(last.value_or(size - 1), size - 1)});
}

bool HostAndPort::is_address() const {
  return host.starts_with('[') || is_ipv4(host);
}

std::optional<HostAndPort> parse_host(std::string_view field) {
  HostAndPort result;
  std::size_t end = 0;
  if (field.starts_with('[')) {
    end = field.find(']');
    if (end == std::string_view::npos) return std::nullopt;
    if (!is_ipv6(std::string(field.substr(1, end - 1)))) return std::nullopt;
    ++end;
    result.host = to_lower(field.substr(0, end));
  } else {
    end = std::min(field.find(':'), field.size());
    result.host = to_lower(field.substr(0, end));
    if (result.host.empty() || !std::ranges::all_of(result.host, is_name_letter)) return std::nullopt;
  }
  if (end == field.size()) return result;
  if (field[end] != ':') return std::nullopt;
  const auto port = parse_whole_number(field.substr(end + 1));
  if (!port || *port > 65535) return std::nullopt;
  result.port = static_cast<std::uint16_t>(*port);
  return result;
}

std::optional<HostAndPort> parse_origin(std::string_view field) {
  constexpr std::pair<std::string_view, std::uint16_t> kSchemes[] = {{"http://", 80}, {"https://", 443}};
  for (const auto& [scheme, usual_port] : kSchemes) {
    if (!field.starts_with(scheme)) continue;
    auto result = parse_host(field.substr(scheme.size()));
    if (result && !result->port) result->port = usual_port;
    return result;
  }
  return std::nullopt;
}

std::string_view bearer_token(std::string_view authorization) {
  constexpr std::string_view kScheme = "bearer ";
  if (authorization.size() <= kScheme.size() ||
      !equal_ignoring_case(authorization.substr(0, kScheme.size()), kScheme))
    return {};
  return trimmed(authorization.substr(kScheme.size()));
}

std::string_view cookie_value(std::string_view field, std::string_view name) {
  while (!field.empty()) {
    const std::size_t end = std::min(field.find(';'), field.size());
    const std::string_view pair = trimmed(field.substr(0, end));
    field.remove_prefix(std::min(end + 1, field.size()));
    const std::size_t equals = pair.find('=');
    if (equals != std::string_view::npos && pair.substr(0, equals) == name) return pair.substr(equals + 1);
  }
  return {};
}

bool matches_tag(std::string_view list, std::string_view tag) {
  if (trimmed(list) == "*") return true;
  while (!list.empty()) {
    const std::size_t end = std::min(list.find(','), list.size());
    std::string_view one = trimmed(list.substr(0, end));
    list.remove_prefix(std::min(end + 1, list.size()));
    if (one.starts_with("W/")) one.remove_prefix(2);
    if (one == tag) return true;
  }
  return false;
}

bool is_json(std::string_view content_type) {
  return equal_ignoring_case(trimmed(content_type.substr(0, content_type.find(';'))), "application/json");
}

bool equal_in_constant_time(std::string_view a, std::string_view b) {
  if (a.size() != b.size()) return false;
  volatile unsigned char different = 0;
  for (std::size_t i = 0; i < a.size(); ++i)
    different = static_cast<unsigned char>(different | (a[i] ^ b[i]));
  return different == 0;
}

}  // namespace quantfit::service
