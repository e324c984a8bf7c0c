// `quantfit inspect`: tensors, formats, sizes and bits per weight of any GGUF file.
#include <memory>
#include <nlohmann/json.hpp>

#include "cli/commands.h"
#include "cli/exit_code.h"
#include "cli/report/json.h"
#include "cli/report/text.h"

namespace quantfit::cli {
namespace {

struct InspectOptions {
  std::string file;
  bool tensors = false;
  bool metadata = false;
  bool json = false;
};

int inspect(const InspectOptions& options, Console& console) {
  // A header that was downloaded alone is enough to look at.
  auto model = Model::open(options.file, OpenMode::MetadataOnly);
  if (!model) return console.fail(model.error());
  const ModelReport report = make_model_report(model.value());
  console.print(options.json ? document_text(to_json(report, options.metadata))
                             : to_text(report, options.tensors, options.metadata));
  return kDone;
}

}  // namespace

Command make_inspect_command() {
  auto options = std::make_shared<InspectOptions>();
  Command command;
  command.name = "inspect";
  command.sentence = "Show what is in a GGUF file: formats, sizes, bits per weight";
  OptionTable& table = command.table;
  table.add("file", options->file, "FILE.gguf", "GGUF file (the first, when it is sharded)").needed().file();
  table.flag("--tensors", options->tensors, "list every tensor");
  table.flag("--metadata", options->metadata, "list every metadata key");
  table.flag("--json", options->json, "print one JSON document instead of text");
  command.run = [options](Console& console) { return inspect(*options, console); };
  return command;
}

}  // namespace quantfit::cli
