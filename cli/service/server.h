// Accepts connections and keeps them within their number.
#pragma once

#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/steady_timer.hpp>
#include <string>
#include <unordered_set>

#include "cli/service/connection.h"
#include "core/error.h"

namespace quantfit::service {

// An address to listen on, "127.0.0.1:8080" or "[::1]:8080". InvalidArgument.
[[nodiscard]] Result<boost::asio::ip::tcp::endpoint> parse_endpoint(const std::string& text);

// Thread of the io_context alone.
class Server {
 public:
  Server(boost::asio::io_context& io, Shared& shared) : io_(io), acceptor_(io), pause_(io), shared_(shared) {}

  // Io where the address is taken or not ours.
  [[nodiscard]] Result<void> listen(const boost::asio::ip::tcp::endpoint& endpoint);
  // A socket that listens already (systemd's socket activation). Io.
  [[nodiscard]] Result<void> adopt(int listening);
  [[nodiscard]] boost::asio::ip::tcp::endpoint endpoint() const;
  void start() { accept(); }
  // No new connections; those that are idle end now, the others after their reply.
  void wind_up();
  // Ends all that are left; they are gone once the io_context has run.
  void cut_off();

 private:
  void accept();

  boost::asio::io_context& io_;
  boost::asio::ip::tcp::acceptor acceptor_;
  boost::asio::steady_timer pause_;
  Shared& shared_;
  std::unordered_set<Connection*> connections_;
};

}  // namespace quantfit::service
