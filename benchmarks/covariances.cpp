// covariances: what full second moments of our own are worth.
//
//   covariances collect MODEL TEXT MOMENTS [--context 256] [--full-columns 4096] [--block 256] [--expert-mib
//   256]
//     runs the text through the model and writes the file of second moments
//   covariances write MODEL OUT FORMAT [--imatrix FILE] [--moments FILE] [--damping 0.03] [--effort default]
//     the whole model in one format, embedding and output in Q8_0, with error feedback where MOMENTS are
//     given; FORMAT may be a GGUF file of the model: the formats that it has
//   covariances factor [--columns 256,1024,4096]
//     times making a factor from random moments
//
// `scripts/evaluate files` then scores what was written.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <chrono>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "core/fingerprint.h"
#include "core/model.h"
#include "optimizer/calibration/moments.h"
#include "optimizer/measurement/file_covariances.h"
#include "optimizer/output/model_writer.h"

namespace {

using namespace quantfit;

struct Settings {
  std::string model, text, moments, out, format, imatrix;
  std::string effort = "default";
  std::uint32_t context = 256;
  std::uint32_t full_columns = 4096;
  std::uint32_t block = 256;
  std::uint64_t expert_mib = 256;
  float damping = kernels::CovarianceFactor::kDamping;
  std::vector<std::size_t> columns = {256, 1024, 4096};
};

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

Result<void> collect(const Settings& settings) {
  QF_ASSIGN(const Model model, Model::open(settings.model));
  QF_ASSIGN(const auto engine, engine::Engine::open(model));
  calibration::TextRequest request;
  request.texts = {settings.text};
  request.context = settings.context;
  QF_ASSIGN(const auto text, calibration::read_text(model, request));
  calibration::MomentsOptions options;
  options.form = {settings.full_columns, settings.block, settings.expert_mib << 20};
  options.model_fingerprint = fingerprint(model);
  NoProgress progress;
  const CancellationToken cancel;
  const auto start = std::chrono::steady_clock::now();
  QF_TRY(calibration::collect_moments(engine, text, settings.moments, options, progress, cancel));
  fmt::print("{} tokens, {:.1f} s\n", text.tokens(), seconds_since(start));
  return outcome::success();
}

Result<void> write(const Settings& settings) {
  QF_ASSIGN(const Model model, Model::open(settings.model));
  std::optional<ImportanceMatrix> importance;
  if (!settings.imatrix.empty()) {
    QF_ASSIGN(importance, ImportanceMatrix::read(settings.imatrix));
  }
  const auto format = parse_format(settings.format);
  const auto effort = kernels::parse_effort(settings.effort);
  std::optional<Model> like;
  if (!format) {
    QF_ASSIGN(like, Model::open(settings.format));
  }
  if (!effort) return fail(ErrorCode::InvalidArgument, "no such effort");
  std::optional<optimizer::FileCovariances> covariances;
  if (!settings.moments.empty()) {
    QF_ASSIGN(auto file, SecondMomentsFile::open(settings.moments));
    covariances.emplace(std::move(file), settings.damping);
  }
  Recipe recipe;
  for (const TensorInfo& tensor : model.tensors()) {
    Format chosen = tensor.format;
    if (like) {
      const TensorInfo* same = like->find(tensor.name);
      if (same == nullptr)
        return fail(ErrorCode::InvalidArgument, "{} has no {}", settings.format, tensor.name);
      chosen = same->format;
    } else if (tensor.name == "token_embd.weight" || tensor.name == "output.weight") {
      chosen = Format::Q8_0;
    } else if (tensor.significant_dims() > 1 && tensor.name.find("gate_inp") == std::string::npos &&
               tensor.row_length() % traits(*format).block_len == 0) {
      chosen = *format;
    }
    recipe.entries.push_back({tensor.name, chosen});
  }
  QF_ASSIGN(const auto* kernels, kernels::default_kernels());
  optimizer::WriterOptions options;
  options.effort = *effort;
  options.existing = Existing::Replace;
  options.covariances = covariances ? &*covariances : nullptr;
  NoProgress progress;
  const CancellationToken cancel;
  QF_ASSIGN(const auto summary, optimizer::write_model(model, importance ? &*importance : nullptr, recipe,
                                                       settings.out, options, *kernels, progress, cancel));
  fmt::print("{} bytes, {:.1f} s\n", summary.file_bytes, summary.seconds);
  return outcome::success();
}

Result<void> factor(const Settings& settings) {
  std::mt19937 generator(1);
  std::normal_distribution<float> normal;
  for (const std::size_t n : settings.columns) {
    // A random direction in each of 16 runs of columns, and noise: positive definite whatever n.
    std::vector<float> x(n);
    for (float& value : x) value = normal(generator);
    std::vector<float> moments(n * n);
    for (std::size_t i = 0; i < n; ++i)
      for (std::size_t j = 0; j < n; ++j)
        moments[i * n + j] = (i % 16 == j % 16 ? x[i] * x[j] : 0.0F) + (i == j ? 1.0F : 0.0F);
    const auto start = std::chrono::steady_clock::now();
    QF_ASSIGN(const auto made, kernels::CovarianceFactor::make(n, moments));
    fmt::print("{} columns: {:.3f} s, last innovation {:.3f}\n", n, seconds_since(start),
               made.innovations()[n - 1]);
  }
  return outcome::success();
}

}  // namespace

int main(int argc, char** argv) {
  Settings settings;
  CLI::App app("Full second moments: collecting, factoring, writing with error feedback.");
  app.require_subcommand(1);
  CLI::App* collecting = app.add_subcommand("collect", "second moments of a text");
  collecting->add_option("model", settings.model)->required();
  collecting->add_option("text", settings.text)->required();
  collecting->add_option("moments", settings.moments)->required();
  collecting->add_option("--context", settings.context);
  collecting->add_option("--full-columns", settings.full_columns);
  collecting->add_option("--block", settings.block);
  collecting->add_option("--expert-mib", settings.expert_mib);
  CLI::App* writing = app.add_subcommand("write", "a model in one format");
  writing->add_option("model", settings.model)->required();
  writing->add_option("out", settings.out)->required();
  writing->add_option("format", settings.format)->required();
  writing->add_option("--imatrix", settings.imatrix);
  writing->add_option("--moments", settings.moments);
  writing->add_option("--damping", settings.damping);
  writing->add_option("--effort", settings.effort);
  CLI::App* factoring = app.add_subcommand("factor", "times factors of random moments");
  factoring->add_option("--columns", settings.columns)->delimiter(',');
  CLI11_PARSE(app, argc, argv);
  const auto done = collecting->parsed() ? collect(settings)
                    : writing->parsed()  ? write(settings)
                                         : factor(settings);
  if (done) return 0;
  fmt::print(stderr, "covariances: {}\n", done.error().message);
  return 1;
}
