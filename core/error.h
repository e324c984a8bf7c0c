// Errors as values. A call that could not be made returns an Error; an answer of "no" (a budget below the
// smallest recipe, say) is a result, not an error.
#pragma once

#include <fmt/format.h>

#include <boost/outcome/basic_result.hpp>
#include <boost/outcome/policy/terminate.hpp>
#include <string>
#include <string_view>
#include <utility>

namespace quantfit {

// The same defect always yields the same code, whatever the wording of the message.
enum class ErrorCode {
  InvalidArgument,   // the caller asked for something that has no meaning
  Io,                // the operating system refused: open, read, write, fsync, rename
  NoSpace,           // the disk is full
  Malformed,         // a file breaks its format's rules
  Unsupported,       // well-formed, but not something this program handles
  ShapeMismatch,     // sizes that must agree do not
  IdentityMismatch,  // a state file or importance matrix that belongs to another model
  Infeasible,        // constraints that no choice of formats can meet
  Interrupted,       // cancelled on request; what was finished is kept
  Internal,          // a broken promise of this program itself
};

[[nodiscard]] std::string_view to_string(ErrorCode code);

// What went wrong, as one sentence that names where, what, and what was expected.
struct Error {
  ErrorCode code = ErrorCode::Internal;
  std::string message;
};

namespace outcome = BOOST_OUTCOME_V2_NAMESPACE;

// Either a T or an Error. Reading value() of a failed Result terminates: test it first.
template <class T>
using Result = outcome::basic_result<T, Error, outcome::policy::terminate>;

// Builds an Error from a format string: `return fail(ErrorCode::Malformed, "{}: bad magic", path);`
template <class... Args>
[[nodiscard]] Error fail(ErrorCode code, fmt::format_string<Args...> format, Args&&... args) {
  return Error{code, fmt::format(format, std::forward<Args>(args)...)};
}

}  // namespace quantfit

// Evaluates `expression`; on failure returns its error from the enclosing function.
#define QF_TRY(expression)                                                              \
  do {                                                                                  \
    if (auto qf_result = (expression); !qf_result) return std::move(qf_result).error(); \
  } while (false)

// `QF_ASSIGN(auto model, open_model(path));` declares or assigns on success, returns the error otherwise.
#define QF_CONCAT_INNER(a, b) a##b
#define QF_CONCAT(a, b) QF_CONCAT_INNER(a, b)
#define QF_ASSIGN_INNER(temporary, target, expression) \
  auto temporary = (expression);                       \
  if (!temporary) return std::move(temporary).error(); \
  target = std::move(temporary).value()
#define QF_ASSIGN(target, expression) QF_ASSIGN_INNER(QF_CONCAT(qf_result_, __LINE__), target, expression)
