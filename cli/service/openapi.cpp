#include "cli/service/openapi.h"

#include <string>

#include "cli/service/assets.h"
#include "cli/service/command_options.h"

namespace quantfit::service {

nlohmann::ordered_json openapi_document() {
  using Json = nlohmann::ordered_json;
  Json document = Json::parse(openapi_text());
  Json& schemas = document["components"]["schemas"];
  schemas["QuantizeOptions"] = options_schema("quantize", OptionUse::Job);
  schemas["PlanOptions"] = options_schema("plan", OptionUse::Job);
  schemas["MeasureOptions"] = options_schema("measure", OptionUse::Job);
  schemas["FrontierOptions"] = options_schema("frontier", OptionUse::Answer);
  for (const Asset& asset : document_schemas()) {
    Json schema = Json::parse(asset.text);
    schema.erase("$schema");
    schemas[std::string(asset.name)] = std::move(schema);
  }
  return document;
}

}  // namespace quantfit::service
