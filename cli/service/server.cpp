#include "cli/service/server.h"

#include <fmt/format.h>
#include <sys/socket.h>

#include <boost/asio/ip/address.hpp>
#include <boost/asio/write.hpp>
#include <chrono>
#include <memory>
#include <vector>

#include "cli/service/request_text.h"

namespace quantfit::service {
namespace {

namespace asio = boost::asio;
using asio::ip::tcp;

// When the system has no descriptor left.
constexpr std::chrono::milliseconds kPause{100};

// What a client beyond the last connection gets, if it fits into its socket at once.
const std::string& full_reply() {
  static const std::string kReply = [] {
    const Response busy = problem_response(problem(ProblemKind::Busy, "all connections are in use just now"));
    const std::string& text = *std::get<Text>(busy.body);
    return fmt::format(
        "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/problem+json\r\nRetry-After: 1\r\n"
        "Connection: close\r\nContent-Length: {}\r\n\r\n{}",
        text.size(), text);
  }();
  return kReply;
}

}  // namespace

Result<tcp::endpoint> parse_endpoint(const std::string& text) {
  const auto host = parse_host(text);
  std::string address = host ? host->host : "";
  if (address.starts_with('[')) address = address.substr(1, address.size() - 2);
  boost::system::error_code error;
  const auto parsed = asio::ip::make_address(address, error);
  if (!host || !host->port || error)
    return fail(ErrorCode::InvalidArgument,
                "--listen: '{}' is no address with a port, such as 127.0.0.1:7340 or [::1]:7340", text);
  return tcp::endpoint(parsed, *host->port);
}

Result<void> Server::listen(const tcp::endpoint& endpoint) {
  boost::system::error_code error;
  acceptor_.open(endpoint.protocol(), error);
  if (!error) acceptor_.set_option(tcp::acceptor::reuse_address(true), error);
  if (!error) acceptor_.bind(endpoint, error);
  if (!error) acceptor_.listen(asio::socket_base::max_listen_connections, error);
  if (error)
    return fail(ErrorCode::Io, "--listen {}:{}: {}", endpoint.address().to_string(), endpoint.port(),
                error.message());
  return outcome::success();
}

Result<void> Server::adopt(int listening) {
  sockaddr_storage address{};
  socklen_t size = sizeof(address);
  if (getsockname(listening, reinterpret_cast<sockaddr*>(&address), &size) != 0 ||
      (address.ss_family != AF_INET && address.ss_family != AF_INET6))
    return fail(ErrorCode::Io, "the socket that was handed over is none of TCP");
  boost::system::error_code error;
  acceptor_.assign(address.ss_family == AF_INET ? tcp::v4() : tcp::v6(), listening, error);
  if (error)
    return fail(ErrorCode::Io, "the socket that was handed over cannot be used: {}", error.message());
  return outcome::success();
}

tcp::endpoint Server::endpoint() const {
  boost::system::error_code ignored;
  return acceptor_.local_endpoint(ignored);
}

void Server::accept() {
  acceptor_.async_accept(io_, [this](boost::system::error_code error, tcp::socket socket) {
    if (!acceptor_.is_open()) return;
    if (error) {
      pause_.expires_after(kPause);
      pause_.async_wait([this](boost::system::error_code stopped) {
        if (!stopped) accept();
      });
      return;
    }
    if (connections_.size() >= shared_.limits.connections) {
      ++shared_.metrics.connections_refused;
      socket.non_blocking(true, error);
      socket.write_some(asio::buffer(full_reply()), error);
    } else {
      socket.set_option(tcp::no_delay(true), error);
      const auto connection =
          make_connection(std::move(socket), shared_, [this](Connection* gone) { connections_.erase(gone); });
      connections_.insert(connection.get());
      connection->start();
    }
    accept();
  });
}

void Server::wind_up() {
  boost::system::error_code ignored;
  acceptor_.close(ignored);
  pause_.cancel();
  const std::vector<Connection*> all(connections_.begin(), connections_.end());
  for (Connection* connection : all)
    if (connections_.contains(connection)) connection->wind_up();
}

void Server::cut_off() {
  const std::vector<Connection*> all(connections_.begin(), connections_.end());
  for (Connection* connection : all)
    if (connections_.contains(connection)) connection->cut_off();
}

}  // namespace quantfit::service
