// reference_quantize: writes a model in a given recipe with ggml's own encoders or with ours, for comparison.
#include "tests/support/reference_library.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <fstream>
#include <iterator>
#include <optional>
#include <string>

#include "tests/client/reference_model.h"

namespace {

using namespace quantfit;
using namespace quantfit::test;

struct Options {
  std::filesystem::path source, out, imatrix, recipe_file, covariance;
  std::string format, preset, ends = "Q8_0", encoder = "ggml", effort = "default";
  EncoderChoice choice;
  int threads = 2;
  bool no_means = false;
};

Result<Recipe> recipe_of(const Model& model, const Options& options) {
  if (!options.format.empty()) {
    const auto layers = parse_format(options.format);
    const auto ends = parse_format(options.ends);
    if (!layers) return fail(ErrorCode::InvalidArgument, "'{}' is not a format", options.format);
    if (!ends) return fail(ErrorCode::InvalidArgument, "'{}' is not a format", options.ends);
    return uniform_recipe(model, *layers, *ends);
  }
  if (!options.preset.empty()) return preset_recipe(model, options.preset, !options.imatrix.empty());
  std::ifstream in(options.recipe_file, std::ios::binary);
  if (!in) return fail(ErrorCode::Io, "cannot read {}", options.recipe_file.string());
  const std::string text{std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
  return read_recipe(model, text);
}

Result<void> run(const Options& options) {
  QF_ASSIGN(const Model model, Model::open(options.source));
  std::optional<ImportanceMatrix> importance;
  if (!options.imatrix.empty()) {
    QF_ASSIGN(importance, ImportanceMatrix::read(options.imatrix));
  }
  QF_ASSIGN(const Recipe recipe, recipe_of(model, options));
  EncoderChoice choice = options.choice;
  std::optional<SecondMoments> moments;
  if (!options.covariance.empty()) {
    QF_ASSIGN(moments, SecondMoments::open(options.covariance, "calibration"));
    choice.moments = &*moments;
  }
  QF_ASSIGN(const EncodedTensors encoded,
            write_reference_model(model, recipe, importance ? &*importance : nullptr, choice, options.out,
                                  options.threads));
  if (moments) {
    fmt::print(stderr, "{} tensors with error feedback through their covariance, {} by the diagonal metric\n",
               encoded.feedback, encoded.diagonal);
  }
  return outcome::success();
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("Writes a model in a given recipe with ggml's own encoders or with ours, for comparison");
  Options options;
  app.add_option("source", options.source, "F16, BF16 or F32 model")->required();
  app.add_option("out", options.out, "File to write; an existing one is replaced")->required();
  auto* what = app.add_option_group("recipe");
  what->add_option("--format", options.format, "One format for every layer matrix");
  what->add_option("--preset", options.preset, "A mixture of llama.cpp, for example Q4_K_M");
  what->add_option("--recipe", options.recipe_file, "File of lines tensor=format");
  what->require_option(1);
  app.add_option("--ends", options.ends, "With --format: format of token embedding and output head")
      ->capture_default_str();
  app.add_option("--imatrix", options.imatrix, "Importance matrix");
  app.add_option("--encoder", options.encoder, "Whose encoder")
      ->capture_default_str()
      ->check(CLI::IsMember({"ggml", "quantfit"}));
  app.add_option("--effort", options.effort, "Of our encoder")
      ->capture_default_str()
      ->check(CLI::IsMember({"fast", "default", "max"}));
  app.add_option("--kappa", options.choice.error_model.kappa,
                 "Of our encoder: weight of errors along the row, 1 for none (default: by role)")
      ->check(CLI::Range(1.0, 100.0));
  app.add_flag("--no-means", options.no_means, "Of our encoder: without the bias term");
  auto* covariance = app.add_option("--covariance", options.covariance,
                                    "Of our encoder: folder of second moments (index.json and a set "
                                    "'calibration'); error feedback for the tensors that it knows");
  app.add_option("--damping", options.choice.damping,
                 "With --covariance: added to its diagonal, as a share of the mean of the diagonal")
      ->capture_default_str()
      ->check(CLI::Range(0.0, 100.0))
      ->needs(covariance);
  app.add_option("-t,--threads", options.threads, "Threads")
      ->capture_default_str()
      ->check(CLI::Range(1, 256));
  app.footer("Exit codes: 0 done; 1 failure; 2 wrong usage; 77 the llama.cpp libraries are not installed");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }
  options.choice.ggml = options.encoder == "ggml";
  if (options.choice.ggml && !options.covariance.empty()) {
    fmt::print(stderr,
               "reference_quantize: --covariance needs --encoder quantfit: ggml's encoders take none\n");
    return 2;
  }
  options.choice.use_means = !options.no_means;
  options.choice.effort = options.effort == "fast"  ? kernels::Effort::Fast
                          : options.effort == "max" ? kernels::Effort::Max
                                                    : kernels::Effort::Default;
  if (const auto library = ReferenceLibrary::load(); !library) {
    fmt::print(stderr, "reference_quantize: {}\n", library.error().message);
    return 77;
  }
  if (const auto done = run(options); !done) {
    fmt::print(stderr, "reference_quantize: {}\n", done.error().message);
    return 1;
  }
  return 0;
}
