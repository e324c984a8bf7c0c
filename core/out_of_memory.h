// Where exceptions of memory end: library functions answer with errors.
#pragma once

#include <new>
#include <stdexcept>
#include <string_view>
#include <type_traits>
#include <utility>

#include "core/error.h"

namespace quantfit {

// What `work` returns, a Result; Io, "WHAT: not enough memory", when an allocation fails inside it, in
// threads of oneTBB that it waits for too. Every function that is handed foreign sizes and is called by front
// ends goes through here once.
template <class Work>
[[nodiscard]] std::invoke_result_t<Work> or_out_of_memory(std::string_view what, Work&& work) {
  try {
    return std::forward<Work>(work)();
  } catch (const std::bad_alloc&) {
  } catch (const std::length_error&) {  // more than a container can ever hold
  }
  return fail(ErrorCode::Io, "{}: not enough memory", what);
}

}  // namespace quantfit
