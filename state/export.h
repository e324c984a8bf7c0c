// The content of a state file for spreadsheets and programs. The same content gives the same bytes: row
// numbers and the order in which things came are left out.
#pragma once

#include <string>

#include "core/error.h"
#include "state/contents.h"

namespace quantfit::state {

// Everything, as one indented JSON document with a newline at its end; numbers come back bit for bit. Text
// that a terminal would obey is escaped.
[[nodiscard]] std::string to_json_text(const Contents& contents);

enum class ExportTable { Measurements, Sensitivities, Recipes, Evaluations };

// One table (RFC 4180, first line the names of the columns): measurements by run, tensor and format;
// sensitivities by set and tensor; recipes by run and tensor; evaluations by identity and quantity.
[[nodiscard]] std::string to_csv_text(const Contents& contents, ExportTable table);

}  // namespace quantfit::state
