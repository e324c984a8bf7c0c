// The page's files, as the program carries them. Written by CMake from cli/service/web, the files of the
// report (cli/report/web) that the page shares, and the description of the interface.
#pragma once

#include <span>
#include <string_view>

namespace quantfit::service {

struct Asset {
  std::string_view name;  // "index.html"
  std::string_view text;
};
[[nodiscard]] std::span<const Asset> page_assets();

// openapi.json, and docs/schema/NAME.schema.json of plan, frontier and model.
[[nodiscard]] std::string_view openapi_text();
[[nodiscard]] std::span<const Asset> document_schemas();

}  // namespace quantfit::service
