#include "optimizer/llama_cpp/static_recipes.h"

#include <gtest/gtest.h>

#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <sstream>

#include "tests/support/test_paths.h"

namespace quantfit::optimizer {
namespace {

TensorInfo tensor_of(std::string name, std::vector<std::uint64_t> dims, Format format = Format::F32) {
  TensorInfo tensor;
  tensor.name = std::move(name);
  tensor.n_dims = static_cast<std::uint32_t>(dims.size());
  std::ranges::copy(dims, tensor.ne.begin());
  tensor.format = format;
  return tensor;
}

struct SyntheticModel {
  ModelTraits traits;
  std::vector<TensorInfo> tensors;
};

void find_tied(SyntheticModel& model) {
  model.traits.tied =
      std::ranges::none_of(model.tensors, [](const TensorInfo& t) { return t.name == "output.weight"; });
}

TEST(StaticRecipes, FileTypesHaveNumbersAndNames) {
  EXPECT_EQ(all_file_types().size(), 36u);
  for (const FileTypeTraits& type : all_file_types()) {
    EXPECT_EQ(parse_file_type(type.name), type.type);
    EXPECT_EQ(find_file_type(static_cast<std::uint32_t>(type.type)), &type);
  }
  EXPECT_EQ(parse_file_type("q4_k_m"), FileType::Q4_K_M);
  EXPECT_EQ(parse_file_type("Q4_K"), std::nullopt);
  EXPECT_EQ(parse_file_type(""), std::nullopt);
  for (const std::uint64_t withdrawn : {4u, 5u, 6u, 33u, 34u, 35u, 42u, 1024u})
    EXPECT_EQ(find_file_type(withdrawn), nullptr);
  EXPECT_EQ(traits(FileType::IQ2_S).default_format, Format::IQ2_XS);
  EXPECT_EQ(traits(FileType::IQ2_M).default_format, Format::IQ2_S);
}

// The part of the golden vectors that is in the source tree; its header explains the form.
TEST(StaticRecipes, ChooseWhatLlamaCppChooses) {
  std::ifstream in(test::data_dir() / "recipes" / "static_recipes.txt");
  ASSERT_TRUE(in);
  SyntheticModel model;
  std::vector<std::string> stems;  // of the tensors, with "*" for the layer
  std::string name;
  int cases = 0;
  std::string line;
  while (std::getline(in, line)) {
    std::istringstream words(line);
    std::string kind;
    words >> kind;
    if (kind == "model") {
      model = {};
      stems.clear();
      words >> name >> model.traits.architecture >> model.traits.block_count >> model.traits.head_count >>
          model.traits.head_count_kv >> model.traits.expert_count;
    } else if (kind == "tensor") {
      std::string stem;
      std::vector<std::uint64_t> dims(3);
      words >> stem >> dims[0] >> dims[1] >> dims[2];
      const std::size_t star = stem.find('*');
      const std::uint32_t count = star == std::string::npos ? 1 : model.traits.block_count;
      for (std::uint32_t layer = 0; layer < count; ++layer) {
        std::string full = stem;
        if (star != std::string::npos) full.replace(star, 1, std::to_string(layer));
        model.tensors.push_back(tensor_of(full, dims));
        stems.push_back(stem);
      }
      find_tied(model);
    } else if (kind == "case") {
      std::string file_type, importance, standard, exception;
      words >> file_type >> importance >> standard;
      SCOPED_TRACE(fmt::format("{} {} {}", name, file_type, importance));
      ++cases;
      StaticRecipeRequest request;
      request.file_type = parse_file_type(file_type).value();
      request.has_importance = importance == "imatrix";
      const auto recipe = resolve_static_recipe(model.traits, model.tensors, request);
      ASSERT_TRUE(recipe);
      EXPECT_EQ(!recipe.value().refused_by_llama_cpp.empty(), standard == "refused");
      if (standard == "refused") continue;
      std::map<std::string, std::vector<std::string>> expected;
      while (words >> exception) {
        const std::size_t equals = exception.find('=');
        std::istringstream runs(exception.substr(equals + 1));
        std::string run;
        while (std::getline(runs, run, ',')) {
          const std::size_t times = run.find('x');
          const int count = times == std::string::npos ? 1 : std::stoi(run.substr(times + 1));
          for (int i = 0; i < count; ++i)
            expected[exception.substr(0, equals)].push_back(run.substr(0, times));
        }
      }
      std::map<std::string, std::size_t> seen;
      for (std::size_t i = 0; i < model.tensors.size(); ++i) {
        const auto found = expected.find(stems[i]);
        const std::size_t layer = seen[stems[i]]++;
        const std::string want = model.tensors[i].significant_dims() < 2 ? "F32"
                                 : found == expected.end()               ? standard
                                                                         : found->second.at(layer);
        EXPECT_EQ(name_of(recipe.value().recipe.entries[i].format), want) << model.tensors[i].name;
      }
    }
  }
  EXPECT_GT(cases, 80);
}

TEST(StaticRecipes, ChooseWhatLlamaCppChoosesInEveryGoldenCase) {
  const auto shared = test::shared_dir();
  if (!shared)
    GTEST_SKIP() << "the 700 golden recipes were not checked: the folder with conformance data is absent";
  std::ifstream in(*shared / "formats" / "golden" / "recipes.json");
  const nlohmann::json golden = nlohmann::json::parse(in);
  std::map<std::string, SyntheticModel> models;
  for (const auto& m : golden["models"]) {
    SyntheticModel& model = models[m["name"]];
    model.traits.architecture = m["architecture"];
    model.traits.block_count = m["block_count"];
    model.traits.head_count = m["head_count"];
    model.traits.head_count_kv = m["head_count_kv"];
    model.traits.expert_count = m["expert_count"];
    for (const auto& t : m["tensors"])
      model.tensors.push_back(tensor_of(t[0], t[1].get<std::vector<std::uint64_t>>()));
    find_tied(model);
  }
  int cases = 0;
  for (const auto& result : golden["results"]) {
    ++cases;
    const SyntheticModel& model = models.at(result["model"]);
    SCOPED_TRACE(fmt::format("{} {} {}", result["model"].get<std::string>(),
                             result["file_type"].get<std::string>(), result["imatrix"].get<bool>()));
    StaticRecipeRequest request;
    request.file_type = parse_file_type(result["file_type"].get<std::string>()).value();
    EXPECT_EQ(static_cast<std::uint32_t>(request.file_type), result["file_type_number"].get<std::uint32_t>());
    request.has_importance = result["imatrix"];
    const auto recipe = resolve_static_recipe(model.traits, model.tensors, request);
    ASSERT_TRUE(recipe);
    EXPECT_EQ(!recipe.value().refused_by_llama_cpp.empty(), result.contains("result"));
    if (result.contains("result")) continue;
    std::size_t checked = 0;
    for (const auto& [format, indices] : result["types"].items())
      for (const std::size_t i : indices) {
        ++checked;
        ASSERT_EQ(name_of(recipe.value().recipe.entries.at(i).format), format) << model.tensors.at(i).name;
      }
    EXPECT_EQ(checked, model.tensors.size());
  }
  EXPECT_EQ(cases, 700);
}

SyntheticModel dense(std::uint32_t layers, std::uint64_t row_length = 256) {
  SyntheticModel model;
  model.traits = {.architecture = "llama",
                  .block_count = layers,
                  .nextn_layers = 0,
                  .head_count = 32,
                  .head_count_kv = 8,
                  .expert_count = 0,
                  .tied = false};
  model.tensors.push_back(tensor_of("output.weight", {row_length, 64}, Format::F16));
  model.tensors.push_back(tensor_of("token_embd.weight", {row_length, 64}, Format::F16));
  // Descending, so that file order and processing order differ.
  for (std::uint32_t layer = layers; layer-- > 0;) {
    for (const char* stem : {"attn_v", "attn_q", "ffn_down"})
      model.tensors.push_back(
          tensor_of(fmt::format("blk.{}.{}.weight", layer, stem), {row_length, 64}, Format::F16));
    model.tensors.push_back(
        tensor_of(fmt::format("blk.{}.attn_norm.weight", layer), {row_length}, Format::F32));
  }
  return model;
}

Format format_of(const StaticRecipe& recipe, const std::string& tensor) {
  const RecipeEntry* entry = recipe.recipe.find(tensor);
  EXPECT_NE(entry, nullptr) << tensor;
  return entry == nullptr ? Format::I8 : entry->format;
}

TEST(StaticRecipes, CountLayerByLayerOrInFileOrder) {
  const SyntheticModel model = dense(16);
  StaticRecipeRequest request{.file_type = FileType::Q4_K_S};
  auto recipe = resolve_static_recipe(model.traits, model.tensors, request);
  EXPECT_EQ(format_of(recipe.value(), "blk.0.attn_v.weight"), Format::Q5_K);
  EXPECT_EQ(format_of(recipe.value(), "blk.15.attn_v.weight"), Format::Q4_K);
  request.keep_split = true;
  recipe = resolve_static_recipe(model.traits, model.tensors, request);
  EXPECT_EQ(format_of(recipe.value(), "blk.0.attn_v.weight"), Format::Q4_K);
  EXPECT_EQ(format_of(recipe.value(), "blk.15.attn_v.weight"), Format::Q5_K);
}

TEST(StaticRecipes, UserChoicesComeFirstAndDoNotCount) {
  const SyntheticModel model = dense(16);
  StaticRecipeRequest request{.file_type = FileType::Q4_K_S};
  request.pins.push_back({Pattern::compile(R"(blk\.0\.attn_v)").value(), Format::Q6_K});
  request.pins.push_back({Pattern::compile("attn_v|attn_norm").value(), Format::Q5_K});
  request.pins[1].pattern = Pattern::compile(R"(blk\.[01]\.|attn_norm|output|token_embd)").value();
  request.output_format = Format::Q8_0;
  request.embedding_format = Format::Q3_K;
  const auto recipe = resolve_static_recipe(model.traits, model.tensors, request);
  ASSERT_TRUE(recipe);
  EXPECT_EQ(format_of(recipe.value(), "blk.0.attn_v.weight"), Format::Q6_K);  // the first pattern
  EXPECT_EQ(format_of(recipe.value(), "blk.1.attn_v.weight"), Format::Q5_K);
  EXPECT_EQ(format_of(recipe.value(), "blk.5.attn_v.weight"), Format::Q5_K);  // number 3 of those that count
  EXPECT_EQ(format_of(recipe.value(), "blk.6.attn_v.weight"), Format::Q4_K);
  EXPECT_EQ(format_of(recipe.value(), "output.weight"), Format::Q8_0);  // explicit formats beat patterns
  EXPECT_EQ(format_of(recipe.value(), "token_embd.weight"), Format::Q3_K);
  EXPECT_EQ(format_of(recipe.value(), "blk.1.attn_norm.weight"), Format::F32);

  request = {.file_type = FileType::Q4_K_M};
  request.pure = true;
  request.leave_output_tensor = true;
  const auto pure = resolve_static_recipe(model.traits, model.tensors, request);
  EXPECT_EQ(format_of(pure.value(), "output.weight"), Format::F16);
  EXPECT_EQ(format_of(pure.value(), "token_embd.weight"), Format::Q4_K);
  EXPECT_EQ(format_of(pure.value(), "blk.0.attn_v.weight"), Format::Q4_K);
}

TEST(StaticRecipes, GoOnWhereLlamaCppStopsAndSaySo) {
  const SyntheticModel odd = dense(4, 100);
  StaticRecipeRequest request{.file_type = FileType::Q5_0};
  const auto recipe = resolve_static_recipe(odd.traits, odd.tensors, request);
  ASSERT_TRUE(recipe);
  EXPECT_EQ(format_of(recipe.value(), "blk.0.attn_q.weight"), Format::F16);
  EXPECT_FALSE(recipe.value().refused_by_llama_cpp.empty());
  EXPECT_EQ(recipe.value().substitutions.size(), 14u);

  const SyntheticModel model = dense(4);
  request.file_type = FileType::IQ2_XXS;
  const auto poor = resolve_static_recipe(model.traits, model.tensors, request);
  EXPECT_EQ(poor.value().missing_importance.size(), 8u);  // attn_q and ffn_down; values are Q4_K
  request.has_importance = true;
  EXPECT_TRUE(resolve_static_recipe(model.traits, model.tensors, request).value().missing_importance.empty());
  request = {.file_type = FileType::Q2_K_S};
  EXPECT_FALSE(
      resolve_static_recipe(model.traits, model.tensors, request).value().missing_importance.empty());
  request = {.file_type = FileType::Q2_K};
  EXPECT_TRUE(resolve_static_recipe(model.traits, model.tensors, request).value().missing_importance.empty());

  const auto none = resolve_static_recipe(model.traits, model.tensors, {.file_type = FileType::NVFP4});
  ASSERT_FALSE(none);
  EXPECT_EQ(none.error().code, ErrorCode::Unsupported);
}

TEST(StaticRecipes, DominantFileTypeNamesTheBulk) {
  SyntheticModel model = dense(8);
  for (std::uint32_t layer = 0; layer < 8; ++layer)
    for (const char* stem : {"ffn_gate", "ffn_up"})
      model.tensors.push_back(
          tensor_of(fmt::format("blk.{}.{}.weight", layer, stem), {256, 128}, Format::F16));
  for (const FileType type :
       {FileType::Q4_K_M, FileType::Q5_K_M, FileType::Q3_K_M, FileType::Q2_K, FileType::IQ2_M,
        FileType::IQ4_XS, FileType::Q6_K, FileType::Q8_0, FileType::Q4_0, FileType::F16, FileType::BF16,
        FileType::IQ3_XXS, FileType::TQ2_0, FileType::Q4_1}) {
    const auto recipe =
        resolve_static_recipe(model.traits, model.tensors, {.file_type = type, .has_importance = true});
    EXPECT_EQ(name_of(dominant_file_type(model.tensors, recipe.value().recipe).value()), name_of(type));
  }
  StaticRecipeRequest pure{.file_type = FileType::Q4_K_M};
  pure.pure = true;
  const auto recipe = resolve_static_recipe(model.traits, model.tensors, pure);
  EXPECT_EQ(dominant_file_type(model.tensors, recipe.value().recipe).value(), FileType::Q4_K_S);
  Recipe wrong = recipe.value().recipe;
  wrong.entries[3].tensor = "other";
  EXPECT_EQ(dominant_file_type(model.tensors, wrong).error().code, ErrorCode::ShapeMismatch);
  wrong.entries.pop_back();
  EXPECT_EQ(dominant_file_type(model.tensors, wrong).error().code, ErrorCode::ShapeMismatch);
}

}  // namespace
}  // namespace quantfit::optimizer
