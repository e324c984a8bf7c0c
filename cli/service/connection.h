// One client's connection: requests one after the other, each within its limits; replies from memory, from a
// file, or as a stream of events.
#pragma once

#include <boost/asio/thread_pool.hpp>
#include <boost/beast/core/tcp_stream.hpp>
#include <functional>
#include <memory>

#include "cli/service/event_source.h"
#include "cli/service/http_message.h"
#include "cli/service/limits.h"
#include "cli/service/metrics.h"
#include "core/log.h"

namespace quantfit::service {

// What all connections share; outlives them.
struct Shared {
  Handler& handler;
  EventSource& events;
  boost::asio::thread_pool& workers;  // read files
  Logger& logger;
  const Limits& limits;
  Metrics& metrics;
};

// Lives as long as something is under way on it. Thread of the sockets alone.
class Connection {
 public:
  virtual ~Connection() = default;
  virtual void start() = 0;
  // Ends it now where no request is under way, otherwise after its reply; streams of events end now.
  virtual void wind_up() = 0;
  // Ends it now, whatever is under way.
  virtual void cut_off() = 0;
};

// `gone` is called when the connection is no more.
[[nodiscard]] std::shared_ptr<Connection> make_connection(boost::asio::ip::tcp::socket socket, Shared& shared,
                                                          std::function<void(Connection*)> gone);

}  // namespace quantfit::service
