// Why there is no answer, as HTTP says it: a problem document (RFC 9457).
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>

#include "core/error.h"

namespace quantfit::service {

enum class ProblemKind {
  InvalidArgument,
  Unauthorized,
  Forbidden,
  NotFound,
  MethodNotAllowed,
  Conflict,
  NotMeasured,
  TooSlow,
  TooLarge,
  UnsupportedMediaType,
  RangeNotSatisfiable,
  KeyReused,
  Busy,
  Unavailable,
  InputOutput,
  NoSpace,
  MalformedFile,
  Unsupported,
  ShapeMismatch,
  IdentityMismatch,
  Infeasible,
  Interrupted,
  Internal,
};

struct Problem {
  ProblemKind kind = ProblemKind::Internal;
  std::string detail;  // the sentence, as the command line prints it
  std::string hint;    // what to do about it; may be empty
};

template <class T>
using Answer = outcome::basic_result<T, Problem, outcome::policy::terminate>;

[[nodiscard]] Problem problem(ProblemKind kind, std::string detail, std::string hint = {});
// An error of the program below.
[[nodiscard]] Problem problem_of(const Error& error);

[[nodiscard]] unsigned status_of(ProblemKind kind);
// "urn:quantfit:not-measured"
[[nodiscard]] std::string type_of(ProblemKind kind);
[[nodiscard]] nlohmann::ordered_json to_json(const Problem& problem);

}  // namespace quantfit::service

// As QF_ASSIGN and QF_TRY, for a Result inside a function that returns an Answer.
#define QF_ANSWER_INNER(temporary, target, expression)                                  \
  auto temporary = (expression);                                                        \
  if (!temporary) return ::quantfit::service::problem_of(std::move(temporary).error()); \
  target = std::move(temporary).value()
#define QF_ANSWER(target, expression) QF_ANSWER_INNER(QF_CONCAT(qf_answer_, __LINE__), target, expression)
#define QF_ANSWER_TRY(expression)                                           \
  do {                                                                      \
    if (auto qf_answer = (expression); !qf_answer)                          \
      return ::quantfit::service::problem_of(std::move(qf_answer).error()); \
  } while (false)
