// One measurement: what quantizing one tensor into one format costs.
#pragma once

#include "core/format.h"

namespace quantfit {

struct FormatMeasurement {
  Format format = Format::F32;
  double nmse = 0;            // N(t,f): relative expected output error, a ratio of sums over the sampled rows
  double standard_error = 0;  // of nmse, from the spread over rows
  double bias_share = 0;      // part of the error that is the squared mean output shift, 0..1
  double seconds = 0;  // wall time spent encoding, summed over rows; more than CPU time on a busy machine
};

}  // namespace quantfit
