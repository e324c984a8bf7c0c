#include "cli/service/openapi.h"

#include <string>

#include "cli/service/assets.h"
#include "cli/service/command_options.h"

namespace quantfit::service {
namespace {

using Json = nlohmann::ordered_json;

}  // namespace

Json openapi_document() {
  Json document = Json::parse(openapi_text());
  Json& schemas = document["components"]["schemas"];
  Json kinds = Json::array(), requests = Json::array();
  for (const std::string_view command : job_commands()) {
    std::string name = std::string(command) + "Options";
    name[0] = static_cast<char>(name[0] - 'a' + 'A');
    schemas[name] = options_schema(command, OptionUse::Job);
    kinds.push_back(command);
    requests.push_back(
        {{"type", "object"},
         {"properties",
          {{"command", {{"const", command}}}, {"options", {{"$ref", "#/components/schemas/" + name}}}}},
         {"required", {"command", "options"}},
         {"additionalProperties", false}});
  }
  schemas["JobRequest"] = {{"oneOf", std::move(requests)}};
  schemas["Job"]["properties"]["command"] = {{"enum", std::move(kinds)}};
  schemas["FrontierOptions"] = options_schema("frontier", OptionUse::Answer);
  for (const Asset& asset : document_schemas()) {
    Json schema = Json::parse(asset.text);
    schema.erase("$schema");
    schemas[std::string(asset.name)] = std::move(schema);
  }
  return document;
}

}  // namespace quantfit::service
