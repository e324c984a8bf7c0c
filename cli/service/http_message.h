// A request and its response as plain values: what answers requests knows no socket.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "cli/service/problem.h"
#include "cli/service/request_text.h"
#include "cli/service/roots.h"

namespace quantfit::service {

struct Request {
  std::string method;  // "GET"
  std::string target;  // as it came
  // Fields that something here reads; empty where they were not sent.
  std::string host, origin, fetch_site, authorization, cookie, content_type, idempotency_key, last_event_id,
      range, if_range, if_none_match;
  bool one_host = false;  // exactly one field Host
  std::string body;
  std::string remote;  // address of the client

  [[nodiscard]] bool reads_only() const { return method == "GET" || method == "HEAD"; }
};

// A part of an open file.
struct FileBody {
  Descriptor file;
  std::uint64_t offset = 0;
  std::uint64_t length = 0;
};

// The events of a job behind one of them, until the job and they are over.
struct EventBody {
  std::string job;
  std::uint64_t after = 0;
  std::string first;  // sent at the beginning
};

using Text = std::shared_ptr<const std::string>;

struct Response {
  unsigned status = 200;
  std::vector<std::pair<std::string, std::string>> fields;
  std::variant<Text, FileBody, EventBody> body;
  bool close = false;  // the connection ends with it

  Response& with(std::string name, std::string value) & {
    fields.emplace_back(std::move(name), std::move(value));
    return *this;
  }
  Response with(std::string name, std::string value) && {
    fields.emplace_back(std::move(name), std::move(value));
    return std::move(*this);
  }
};

[[nodiscard]] Response text_response(unsigned status, std::string content_type, std::string text);
[[nodiscard]] Response json_response(unsigned status, const nlohmann::ordered_json& document);
[[nodiscard]] Response problem_response(const Problem& problem);
[[nodiscard]] Response empty_response(unsigned status);

// What answers requests. Called by the thread of the sockets.
class Handler {
 public:
  virtual ~Handler() = default;
  // Calls `reply` once, from the same thread, now or later.
  virtual void handle(Request request, std::function<void(Response)> reply) = 0;
};

}  // namespace quantfit::service
