// What the error of a row counts for beside errors everywhere else, where rows are encoded with error
// feedback.
#pragma once

namespace quantfit::optimizer {

// Feedback hides errors in directions in which inputs vary little. Inputs of a quantized model carry the
// errors of all layers before, in every direction, and bring out what was hidden. How large those are is not
// known before formats are chosen, but few bits here mean few bits elsewhere: the cost rises faster than the
// error.
inline constexpr double kInteraction = 8.0;

// For an error over the energy, N >= 0: N (1 + b N) / (1 + b N^2), b = kInteraction, which is N for small N,
// 1 at 1, and rises; N itself above. error_model.md, "Errors beside errors", has the measurements.
[[nodiscard]] double interacting(double relative_error);

}  // namespace quantfit::optimizer
