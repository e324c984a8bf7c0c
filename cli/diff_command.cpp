// `quantfit diff`: which tensors two models or recipes store differently.
#include <algorithm>
#include <memory>
#include <nlohmann/json.hpp>

#include "cli/commands.h"
#include "cli/exit_code.h"
#include "cli/report/json.h"
#include "cli/report/text.h"
#include "core/file_util.h"
#include "optimizer/output/recipe_io.h"

namespace quantfit::cli {
namespace {

struct DiffOptions {
  std::string before;
  std::string after;
  bool json = false;
};

// One side of the comparison: a GGUF file, or the text of a recipe that still has to meet a model.
struct Side {
  std::optional<Model> model;
  optimizer::RecipeText text;
};

Result<Side> open_side(const std::string& path) {
  Side side;
  auto head = read_text_file(path, optimizer::kMaxRecipeBytes);
  // Larger files are no recipes; GGUF says so in its first bytes.
  const bool gguf = head ? head.value().starts_with("GGUF") : head.error().code == ErrorCode::Unsupported;
  if (!head && !gguf) return std::move(head).error();
  if (gguf) {
    QF_ASSIGN(side.model, Model::open(path, OpenMode::MetadataOnly));
  } else {
    auto parsed = optimizer::parse_recipe_text(head.value());
    if (!parsed) return fail(parsed.error().code, "{}: {}", path, parsed.error().message);
    side.text = std::move(parsed).value();
  }
  return side;
}

// The recipe of a side. A recipe file means something only for a model: the other side's, when it is one.
// Otherwise its rules are compared as they are written.
Result<Recipe> recipe_of_side(const Side& side, const Side& other) {
  if (side.model) return optimizer::recipe_of(side.model->tensors());
  if (other.model) {
    QF_ASSIGN(optimizer::AppliedRecipe applied,
              optimizer::apply_recipe_text(side.text, other.model->tensors(), Format::F16));
    return std::move(applied.recipe);
  }
  Recipe recipe;
  for (const optimizer::FormatPin& rule : side.text.rules)
    recipe.entries.push_back({rule.pattern.text(), rule.format});
  return recipe;
}

// Of the tensors that both store in one format and shape: are their bytes equal?
void compare_bytes(const Model& before, const Model& after, DiffReport& report) {
  report.other_bytes.emplace();
  for (const TensorInfo& tensor : before.tensors()) {
    const TensorInfo* other = after.find(tensor.name);
    if (other == nullptr || other->format != tensor.format || other->ne != tensor.ne) continue;
    const auto first = before.data(tensor);
    const auto second = after.data(*other);
    if (first.size() != tensor.bytes || second.size() != tensor.bytes)
      ++report.not_compared;
    else if (std::ranges::equal(first, second))
      ++report.equal_bytes;
    else
      report.other_bytes->push_back(tensor.name);
    before.done_with(first);
    after.done_with(second);
  }
}

int show_diff(const DiffOptions& options, Console& console) {
  auto before = open_side(options.before);
  if (!before) return console.fail(before.error());
  auto after = open_side(options.after);
  if (!after) return console.fail(after.error());
  auto first = recipe_of_side(before.value(), after.value());
  if (!first) return console.fail(first.error());
  auto second = recipe_of_side(after.value(), before.value());
  if (!second) return console.fail(second.error());
  DiffReport report = make_diff_report(optimizer::diff_recipes(first.value(), second.value()));
  if (before.value().model && after.value().model)
    compare_bytes(*before.value().model, *after.value().model, report);
  console.print(options.json ? document_text(to_json(report)) : to_text(report));
  return kDone;
}

}  // namespace

Command make_diff_command() {
  auto options = std::make_shared<DiffOptions>();
  Command command;
  command.name = "diff";
  command.sentence = "Show which tensors two GGUF files or recipes store differently";
  OptionTable& table = command.table;
  table.add("before", options->before, "BEFORE", "GGUF file or recipe").needed().file();
  table.add("after", options->after, "AFTER", "GGUF file or recipe").needed().file();
  table.flag("--json", options->json, "print one JSON document instead of text");
  command.run = [options](Console& console) { return show_diff(*options, console); };
  return command;
}

}  // namespace quantfit::cli
