#include "cli/service/access.h"

#include <fmt/format.h>
#include <sys/random.h>

#include <algorithm>
#include <array>
#include <span>

#include "cli/sha256.h"
#include "core/text.h"

namespace quantfit::service {
namespace {

constexpr std::string_view kCookie = "quantfit";
constexpr std::chrono::hours kSessionTime{24};
constexpr std::size_t kMostSessions = 1000;
constexpr std::size_t kShortestToken = 16;
constexpr std::size_t kLongestToken = 512;
constexpr std::string_view kTokenLetters =
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~+/=";

// What is kept of a secret: finding it in a map tells nothing about it.
std::string digest_of(std::string_view secret) {
  cli::Sha256 sha;
  sha.add(std::as_bytes(std::span(secret.data(), secret.size())));
  return sha.hex();
}

}  // namespace

Result<std::vector<std::string>> parse_tokens(std::string_view text) {
  std::vector<std::string> tokens;
  for (std::size_t line = 1; !text.empty(); ++line) {
    const std::size_t end = std::min(text.find('\n'), text.size());
    std::string_view token = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    while (!token.empty() && (token.back() == '\r' || token.back() == ' ')) token.remove_suffix(1);
    if (token.empty() || token.front() == '#') continue;
    if (token.size() < kShortestToken || token.size() > kLongestToken ||
        token.find_first_not_of(kTokenLetters) != std::string_view::npos)
      return fail(ErrorCode::InvalidArgument,
                  "--token-file: line {} is no token: {} to {} letters, digits and -._~+/= are expected",
                  line, kShortestToken, kLongestToken);
    tokens.emplace_back(token);
  }
  if (tokens.empty()) return fail(ErrorCode::InvalidArgument, "--token-file: there is no token in it");
  return tokens;
}

bool Access::is_ours(const HostAndPort& host) const {
  const std::string& name = host.host;
  if (std::ranges::find(rules_.hosts, name) != rules_.hosts.end()) return true;  // behind a proxy: any port
  if (host.port.value_or(80) != rules_.port) return false;
  if (rules_.loopback)
    return name == "localhost" || name == "[::1]" || (name.starts_with("127.") && host.is_address());
  // A name can be bound to any address by whoever owns it; an address is what it is.
  return name == "localhost" || host.is_address();
}

Answer<void> Access::check_source(const Request& request) const {
  const auto host = parse_host(request.host);
  if (!request.one_host || !host)
    return problem(ProblemKind::InvalidArgument,
                   "the request does not say by one field Host whom it is meant for");
  if (!is_ours(*host))
    return problem(ProblemKind::Forbidden,
                   fmt::format("{} is no name of this service", printable(host->host)),
                   "--host NAME adds a name by which the service is reached");
  const auto foreign = [] {
    return problem(ProblemKind::Forbidden, "the request comes from a page of another site");
  };
  if (!request.fetch_site.empty() && request.fetch_site != "same-origin" && request.fetch_site != "none") {
    // Following a link to the page is no harm.
    if (!request.reads_only() || request.target.starts_with("/api/")) return foreign();
  }
  if (request.origin.empty()) return outcome::success();
  const auto origin = parse_origin(request.origin);
  if (!origin || origin->host != host->host) return foreign();
  const bool proxied = std::ranges::find(rules_.hosts, host->host) != rules_.hosts.end();
  if (!proxied && origin->port != host->port.value_or(80)) return foreign();
  return outcome::success();
}

bool Access::has_token(const Request& request) const {
  const std::string_view given = bearer_token(request.authorization);
  if (given.empty()) return false;
  // Digests have one length, and every token is looked at.
  const std::string digest = digest_of(given);
  bool found = false;
  for (const std::string& token : rules_.tokens)
    found = equal_in_constant_time(digest_of(token), digest) || found;
  return found;
}

Answer<void> Access::check_client(const Request& request) {
  if (rules_.tokens.empty() || has_token(request)) return outcome::success();
  const std::string_view cookie = cookie_value(request.cookie, kCookie);
  if (!cookie.empty()) {
    const auto session = sessions_.find(digest_of(cookie));
    if (session != sessions_.end() && session->second > Clock::now()) return outcome::success();
  }
  return problem(ProblemKind::Unauthorized, "this service answers only those who have a token",
                 "send it as Authorization: Bearer TOKEN");
}

Answer<std::string> Access::open_session(const Request& request) {
  if (!rules_.tokens.empty() && !has_token(request))
    return problem(ProblemKind::Unauthorized, "the token is not one of this service");
  const auto now = Clock::now();
  std::erase_if(sessions_, [&](const auto& session) { return session.second <= now; });
  while (sessions_.size() >= kMostSessions)
    sessions_.erase(
        std::ranges::min_element(sessions_, {}, [](const auto& session) { return session.second; }));
  std::array<unsigned char, 32> bytes{};
  if (getrandom(bytes.data(), bytes.size(), 0) != static_cast<ssize_t>(bytes.size()))
    return problem(ProblemKind::Internal, "the system gave no random numbers");
  const std::string secret = fmt::format("{:02x}", fmt::join(bytes, ""));
  sessions_[digest_of(secret)] = now + kSessionTime;
  return fmt::format("{}={}; HttpOnly; SameSite=Strict; Path=/; Max-Age={}", kCookie, secret,
                     std::chrono::seconds(kSessionTime).count());
}

std::string Access::close_session(const Request& request) {
  sessions_.erase(digest_of(cookie_value(request.cookie, kCookie)));
  return fmt::format("{}=; HttpOnly; SameSite=Strict; Path=/; Max-Age=0", kCookie);
}

}  // namespace quantfit::service
