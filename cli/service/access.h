// Who may ask: names of this host, pages of other sites, tokens, sessions of browsers.
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "cli/service/http_message.h"

namespace quantfit::service {

struct AccessRules {
  bool loopback = true;             // the service listens on a loopback address
  std::uint16_t port = 0;           // where it listens
  std::vector<std::string> hosts;   // further names by which it is reached, in lower case
  std::vector<std::string> tokens;  // empty: nobody needs one
};

// Lines of a token file: one token a line, of 16 to 512 letters, digits and -._~+/=; empty lines and those
// that begin with '#' are skipped. InvalidArgument, without the token, for others and when there is none.
[[nodiscard]] Result<std::vector<std::string>> parse_tokens(std::string_view text);

// Thread of the sockets alone.
class Access {
 public:
  explicit Access(AccessRules rules) : rules_(std::move(rules)) {}

  // A name that is not ours in Host is what a page of another site sends after its name was bound to this
  // address; an Origin that is not Host is such a page itself. Forbidden; InvalidArgument without one Host.
  [[nodiscard]] Answer<void> check_source(const Request& request) const;
  // Unauthorized unless the request has a token or the cookie of a session, or none is needed.
  [[nodiscard]] Answer<void> check_client(const Request& request);

  // For a request with a token: the value of Set-Cookie.
  [[nodiscard]] Answer<std::string> open_session(const Request& request);
  // The value of Set-Cookie that takes the cookie away.
  [[nodiscard]] std::string close_session(const Request& request);

 private:
  using Clock = std::chrono::steady_clock;
  [[nodiscard]] bool has_token(const Request& request) const;
  [[nodiscard]] bool is_ours(const HostAndPort& host) const;

  AccessRules rules_;
  std::map<std::string, Clock::time_point> sessions_;  // by the digest of the cookie: when they end
};

}  // namespace quantfit::service
