// Texts of a request that HTTP libraries leave to their users: targets, queries, ranges, names of hosts,
// tokens. Pure functions on views; every input is hostile.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "cli/service/problem.h"

namespace quantfit::service {

// A request's target in origin form, decoded once: "/api/v1/jobs/1f/results/a%20b?x=1".
struct RequestTarget {
  std::vector<std::string> segments;                       // of the path; "/" has none
  std::vector<std::pair<std::string, std::string>> query;  // in order
};

// InvalidArgument unless the target starts with '/', escapes are whole, and what they stand for is UTF-8
// without control characters. A segment that is empty, "." or ".." is refused, and so is one that holds a '/'
// or a
// '\' after decoding. A '+' in the query is a blank.
[[nodiscard]] Answer<RequestTarget> parse_target(std::string_view target);

// A part of a file: bytes `first` to `last`, both inside it.
struct ByteRange {
  std::uint64_t first = 0;
  std::uint64_t last = 0;
};
// One range of RFC 9110 (14.1.2) for a file of `size` bytes. Nothing where the field is to be ignored: other
// units, several ranges, a form that is broken. RangeNotSatisfiable where no byte of it is in the file.
[[nodiscard]] Answer<std::optional<ByteRange>> parse_range(std::string_view field, std::uint64_t size);

// "host" or "host:port", an IPv6 address between brackets; in lower case, brackets kept. Nothing when it is
// neither.
struct HostAndPort {
  std::string host;
  std::optional<std::uint16_t> port;
  [[nodiscard]] bool is_address() const;  // an IPv4 or IPv6 address, no name
};
[[nodiscard]] std::optional<HostAndPort> parse_host(std::string_view field);
// Of "http://host:port" or "https://..."; nothing for "null" and everything else.
[[nodiscard]] std::optional<HostAndPort> parse_origin(std::string_view field);

// The token of "Bearer TOKEN"; empty when there is none.
[[nodiscard]] std::string_view bearer_token(std::string_view authorization);
// The value of one cookie; empty when it is not there.
[[nodiscard]] std::string_view cookie_value(std::string_view field, std::string_view name);
// Whether the entity tag is in the list of If-None-Match, or the list is "*".
[[nodiscard]] bool matches_tag(std::string_view list, std::string_view tag);
// "application/json", parameters and letter case aside.
[[nodiscard]] bool is_json(std::string_view content_type);
// A whole number without sign; nothing for other texts.
[[nodiscard]] std::optional<std::uint64_t> parse_whole_number(std::string_view text);

// Equal, found out in a time that depends on the lengths alone.
[[nodiscard]] bool equal_in_constant_time(std::string_view a, std::string_view b);

}  // namespace quantfit::service
