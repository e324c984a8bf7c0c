// The description of the interface: openapi.json with the options of the commands and the documents that they
// print, each from its one source.
#pragma once

#include <nlohmann/json.hpp>

namespace quantfit::service {

[[nodiscard]] nlohmann::ordered_json openapi_document();

}  // namespace quantfit::service
