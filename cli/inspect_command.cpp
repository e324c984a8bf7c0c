// `quantfit inspect`: tensors, formats, sizes and bits per weight of any GGUF file.
#include <fmt/format.h>

#include <CLI/CLI.hpp>

#include <memory>

#include "cli/commands.h"
#include "cli/exit_code.h"
#include "cli/render.h"

namespace quantfit::cli {
namespace {

struct InspectOptions {
  std::string file;
  bool tensors = false;
  bool metadata = false;
  bool json = false;
};

int inspect(const InspectOptions& options) {
  // A header that was downloaded alone is enough to look at.
  auto model = Model::open(options.file, OpenMode::MetadataOnly);
  if (!model) return report(model.error());
  if (options.json)
    fmt::print("{}\n", model_to_json(model.value(), options.metadata)
                           .dump(2, ' ', false, nlohmann::json::error_handler_t::replace));
  else
    fmt::print("{}", describe_model(model.value(), options.tensors, options.metadata));
  return kDone;
}

}  // namespace

void add_inspect_command(CLI::App& app, int& status) {
  auto options = std::make_shared<InspectOptions>();
  CLI::App* command =
      app.add_subcommand("inspect", "Show what is in a GGUF file: formats, sizes, bits per weight");
  command->add_option("file", options->file, "GGUF file (the first, when it is sharded)")
      ->required()
      ->type_name("FILE.gguf");
  command->add_flag("--tensors", options->tensors, "list every tensor");
  command->add_flag("--metadata", options->metadata, "list every metadata key");
  command->add_flag("--json", options->json, "print one JSON document instead of text");
  command->callback([options, &status] { status = inspect(*options); });
}

}  // namespace quantfit::cli
