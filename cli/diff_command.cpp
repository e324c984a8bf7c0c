// `quantfit diff`: which tensors two models or recipes store differently.
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

constexpr std::uint64_t kMaxRecipeBytes = std::uint64_t{64} << 20;

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
  auto head = read_text_file(path, kMaxRecipeBytes);
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

int show_diff(const DiffOptions& options, Console& console) {
  auto before = open_side(options.before);
  if (!before) return console.fail(before.error());
  auto after = open_side(options.after);
  if (!after) return console.fail(after.error());
  auto first = recipe_of_side(before.value(), after.value());
  if (!first) return console.fail(first.error());
  auto second = recipe_of_side(after.value(), before.value());
  if (!second) return console.fail(second.error());
  const DiffReport report = make_diff_report(optimizer::diff_recipes(first.value(), second.value()));
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
