// What the service answers: one function per path and method.
#pragma once

#include <boost/asio/io_context.hpp>
#include <boost/asio/thread_pool.hpp>
#include <functional>
#include <string>

#include "cli/service/access.h"
#include "cli/service/catalog.h"
#include "cli/service/http_message.h"
#include "cli/service/job_runner.h"
#include "cli/service/limits.h"
#include "cli/service/metrics.h"
#include "cli/service/planner.h"
#include "cli/service/roots.h"

namespace quantfit::service {

// Thread of the sockets alone; what takes long is done by the workers.
class Api final : public Handler {
 public:
  struct Parts {
    boost::asio::io_context& io;
    boost::asio::thread_pool& workers;
    const Roots& roots;
    Access& access;
    Catalog& catalog;
    Planner& planner;
    JobRunner& jobs;
    EventLog& events;
    Metrics& metrics;
    const Limits& limits;
    JobShares shares;
    bool needs_token = false;
  };
  explicit Api(const Parts& parts);

  void handle(Request request, std::function<void(Response)> reply) override;

 private:
  using Reply = std::function<void(Response)>;
  struct Call;
  struct Route;

  // Runs `work` on a worker and replies with what it returns.
  void later(Reply reply, std::function<Response()> work);
  void ask_planner(Call& call, std::string_view command);
  void route(Call& call);
  [[nodiscard]] Answer<Response> events(Call& call);
  [[nodiscard]] Response page(const std::string& name, const Request& request) const;

  Parts parts_;
  std::string openapi_;
};

}  // namespace quantfit::service
