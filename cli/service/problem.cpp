#include "cli/service/problem.h"

#include <nlohmann/json.hpp>
#include <utility>

namespace quantfit::service {
namespace {

struct KindTraits {
  ProblemKind kind;
  unsigned status;
  std::string_view name;
  std::string_view title;
};

constexpr KindTraits kKinds[] = {
    {ProblemKind::InvalidArgument, 400, "invalid-argument", "The request has no meaning"},
    {ProblemKind::Unauthorized, 401, "unauthorized", "A token is needed"},
    {ProblemKind::Forbidden, 403, "forbidden", "Not allowed"},
    {ProblemKind::NotFound, 404, "not-found", "Not found"},
    {ProblemKind::MethodNotAllowed, 405, "method-not-allowed", "No such method here"},
    {ProblemKind::Conflict, 409, "conflict", "Not in this state"},
    {ProblemKind::NotMeasured, 409, "not-measured", "Not measured yet"},
    {ProblemKind::TooSlow, 408, "too-slow", "Too slow"},
    {ProblemKind::TooLarge, 413, "too-large", "Too large"},
    {ProblemKind::UnsupportedMediaType, 415, "unsupported-media-type", "Not JSON"},
    {ProblemKind::RangeNotSatisfiable, 416, "range-not-satisfiable", "No such range"},
    {ProblemKind::KeyReused, 422, "key-reused", "The idempotency key belongs to another request"},
    {ProblemKind::Busy, 503, "busy", "Too much at once"},
    {ProblemKind::Unavailable, 503, "unavailable", "Not available"},
    {ProblemKind::InputOutput, 500, "input-output", "The system refused"},
    {ProblemKind::NoSpace, 507, "no-space", "The disk is full"},
    {ProblemKind::MalformedFile, 422, "malformed-file", "A file is damaged"},
    {ProblemKind::Unsupported, 422, "unsupported", "Not supported"},
    {ProblemKind::ShapeMismatch, 422, "shape-mismatch", "Sizes disagree"},
    {ProblemKind::IdentityMismatch, 409, "identity-mismatch", "Files that do not belong together"},
    {ProblemKind::Infeasible, 422, "infeasible", "No recipe meets the request"},
    {ProblemKind::Interrupted, 503, "interrupted", "Stopped"},
    {ProblemKind::Internal, 500, "internal", "A defect of the program"},
};

const KindTraits& traits_of(ProblemKind kind) {
  for (const KindTraits& one : kKinds)
    if (one.kind == kind) return one;
  return kKinds[std::size(kKinds) - 1];
}

ProblemKind kind_of(ErrorCode code) {
  switch (code) {
    case ErrorCode::InvalidArgument:
      return ProblemKind::InvalidArgument;
    case ErrorCode::Io:
      return ProblemKind::InputOutput;
    case ErrorCode::NoSpace:
      return ProblemKind::NoSpace;
    case ErrorCode::Malformed:
      return ProblemKind::MalformedFile;
    case ErrorCode::Unsupported:
      return ProblemKind::Unsupported;
    case ErrorCode::ShapeMismatch:
      return ProblemKind::ShapeMismatch;
    case ErrorCode::IdentityMismatch:
      return ProblemKind::IdentityMismatch;
    case ErrorCode::Infeasible:
      return ProblemKind::Infeasible;
    case ErrorCode::Interrupted:
      return ProblemKind::Interrupted;
    case ErrorCode::Internal:
      break;
  }
  return ProblemKind::Internal;
}

}  // namespace

Problem problem(ProblemKind kind, std::string detail, std::string hint) {
  return {kind, std::move(detail), std::move(hint)};
}

Problem problem_of(const Error& error) {
  return {kind_of(error.code), error.message, {}};
}

unsigned status_of(ProblemKind kind) {
  return traits_of(kind).status;
}

std::string type_of(ProblemKind kind) {
  return std::string("urn:quantfit:").append(traits_of(kind).name);
}

nlohmann::ordered_json to_json(const Problem& problem) {
  const KindTraits& traits = traits_of(problem.kind);
  nlohmann::ordered_json json = {{"type", type_of(problem.kind)},
                                 {"title", traits.title},
                                 {"status", traits.status},
                                 {"detail", problem.detail}};
  if (!problem.hint.empty()) json["hint"] = problem.hint;
  return json;
}

}  // namespace quantfit::service
