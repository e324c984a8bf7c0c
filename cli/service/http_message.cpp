#include "cli/service/http_message.h"

#include <nlohmann/json.hpp>

#include "cli/report/json.h"

namespace quantfit::service {

Response text_response(unsigned status, std::string content_type, std::string text) {
  Response response;
  response.status = status;
  response.body = std::make_shared<const std::string>(std::move(text));
  response.with("Content-Type", std::move(content_type));
  return response;
}

Response json_response(unsigned status, const nlohmann::ordered_json& document) {
  return text_response(status, "application/json", cli::line_text(document));
}

Response problem_response(const Problem& problem) {
  Response response =
      text_response(status_of(problem.kind), "application/problem+json", cli::line_text(to_json(problem)));
  if (problem.kind == ProblemKind::Unauthorized)
    response.with("WWW-Authenticate", "Bearer realm=\"quantfit\"");
  if (problem.kind == ProblemKind::Busy) response.with("Retry-After", "1");
  return response;
}

Response empty_response(unsigned status) {
  Response response;
  response.status = status;
  response.body = Text();
  return response;
}

}  // namespace quantfit::service
