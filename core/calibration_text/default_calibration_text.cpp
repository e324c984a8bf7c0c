#include "core/calibration_text/default_calibration_text.h"

#include <cstddef>

// The assembler includes the file, so that no compiler has to read it as one huge literal.
// QUANTFIT_CALIBRATION_TEXT is its path, from CMakeLists.txt.
asm(".pushsection .rodata\n"
    ".global quantfit_calibration_text_begin\n"
    ".global quantfit_calibration_text_end\n"
    "quantfit_calibration_text_begin:\n"
    ".incbin \"" QUANTFIT_CALIBRATION_TEXT
    "\"\n"
    "quantfit_calibration_text_end:\n"
    ".byte 0\n"
    ".popsection\n");

extern "C" {
extern const char quantfit_calibration_text_begin[];
extern const char quantfit_calibration_text_end[];
}

namespace quantfit {

std::string_view default_calibration_text() {
  return {quantfit_calibration_text_begin,
          static_cast<std::size_t>(quantfit_calibration_text_end - quantfit_calibration_text_begin)};
}

}  // namespace quantfit
