// covariances: what full second moments of our own are worth.
//
//   covariances collect MODEL TEXT MOMENTS [--context 256] [--skip 0] [--windows N] [--full-columns 4096]
//                       [--block 256] [--expert-mib 256]
//     runs the text through the model and writes the file of second moments
//   covariances write MODEL OUT FORMAT [--imatrix FILE] [--moments FILE] [--damping 0.03] [--effort default]
//     the whole model in one format, embedding and output in Q8_0, with error feedback where MOMENTS are
//     given; FORMAT may be a GGUF file of the model: the formats that it has
//   covariances heldout MODEL MOMENTS JUDGE... [--formats Q4_K,IQ2_S] [--ways diagonal,d0.1] [--rows 64]
//                       [--imatrix FILE] [--tensors]
//     errors of sampled rows under the second moments of other texts, ways to encode over the usual one (full
//     covariance of MOMENTS, damping 0.03): "diagonal" without feedback; dX: damping X; sX: entries beside
//     the diagonal shrunk by the share X; bN: those between runs of N columns left out; for experts with
//     matrices of their own pX: joined by X rows for each column of what all experts of the tensor have in
//     common, scaled to the expert's diagonal; "shared": that alone. Letters may be joined: "b64p2".
//   covariances factor [--columns 256,1024,4096]
//     times making a factor from random moments
//
// `scripts/evaluate files` then scores what was written.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cmath>
#include <limits>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "core/fingerprint.h"
#include "core/model.h"
#include "kernels/row_quantizer.h"
#include "optimizer/calibration/moments.h"
#include "optimizer/measurement/error_model.h"
#include "optimizer/measurement/file_covariances.h"
#include "optimizer/output/model_writer.h"

namespace {

using namespace quantfit;

struct Settings {
  std::string model, text, moments, out, format, imatrix;
  std::string effort = "default";
  std::vector<std::string> judges;
  std::vector<std::string> formats = {"Q4_K", "IQ3_S", "IQ2_S"};
  std::vector<std::string> ways = {"diagonal", "d0.01", "d0.1", "s0.1", "s0.3"};
  std::uint64_t rows = 64;
  bool by_tensor = false;
  std::uint32_t context = 256;
  std::uint32_t skip = 0;
  std::optional<std::uint32_t> windows;
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
  request.skip = settings.skip;
  request.most = settings.windows;
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

// A way to make a covariance of second moments; see above.
struct Way {
  bool diagonal = false;  // no covariance
  double damping = kernels::CovarianceFactor::kDamping;
  double shrinkage = 0;
  std::size_t run = 0;  // columns; 0: all
  double pooled = 0;    // rows per column; infinite: the shared matrix alone
};

Result<Way> way_of(const std::string& name) {
  Way way;
  if (name == "usual") return way;
  if (name == "diagonal") {
    way.diagonal = true;
    return way;
  }
  if (name == "shared") {
    way.pooled = std::numeric_limits<double>::infinity();
    return way;
  }
  for (std::size_t at = 0; at < name.size();) {
    std::size_t read = 0;
    const char letter = name[at];
    const double value = std::stod(name.substr(at + 1), &read);
    if (letter == 'd') way.damping = value;
    if (letter == 's') way.shrinkage = value;
    if (letter == 'b') way.run = static_cast<std::size_t>(value);
    if (letter == 'p') way.pooled = value;
    if (std::string_view("dsbp").find(letter) == std::string_view::npos)
      return fail(ErrorCode::InvalidArgument, "no way '{}'", name);
    at += 1 + read;
  }
  return way;
}

// Full matrices of an input whose moments are full; of all experts, where they have some of their own.
struct Moments {
  std::size_t n = 0;
  std::vector<std::vector<float>> matrices;
  std::vector<double> rows;
};

Result<std::optional<Moments>> moments_of(const SecondMomentsFile& file, const TensorInfo& tensor) {
  const SecondMomentsInput* input = file.find(tensor.name);
  if (input == nullptr || input->experts > 0 || input->block < input->columns ||
      input->matrices != tensor.matrices())
    return std::nullopt;
  Moments out;
  out.n = input->columns;
  for (std::uint32_t i = 0; i < input->matrices; ++i) {
    QF_ASSIGN(auto one, file.moments(*input, i));
    out.matrices.push_back(std::move(one));
    out.rows.push_back(file.rows(*input, i));
  }
  return out;
}

// What all experts have in common, scaled to the diagonal of one.
std::vector<double> pooled(const Moments& moments, std::size_t matrix) {
  const std::size_t n = moments.n;
  std::vector<double> sum(n * n, 0.0);
  double rows = 0;
  for (std::size_t e = 0; e < moments.matrices.size(); ++e) {
    rows += moments.rows[e];
    for (std::size_t i = 0; i < n * n; ++i) sum[i] += moments.rows[e] * double{moments.matrices[e][i]};
  }
  std::vector<double> stretch(n);
  for (std::size_t i = 0; i < n; ++i) {
    const double of_all = sum[i * n + i] / rows;
    stretch[i] = of_all > 0 ? std::sqrt(double{moments.matrices[matrix][i * n + i]} / of_all) : 0.0;
  }
  for (std::size_t i = 0; i < n; ++i)
    for (std::size_t j = 0; j < n; ++j) sum[i * n + j] *= stretch[i] * stretch[j] / rows;
  return sum;
}

using Factor = std::shared_ptr<const kernels::CovarianceFactor>;

Result<Factor> factor_of(const Moments& moments, std::size_t matrix, const Way& way) {
  if (way.diagonal || !(moments.rows[matrix] > 0)) return Factor();
  const std::size_t n = moments.n;
  std::vector<float> c = moments.matrices[matrix];
  if (way.pooled > 0) {
    const std::vector<double> all = pooled(moments, matrix);
    const double added = way.pooled * static_cast<double>(n);
    const double share = std::isfinite(added) ? added / (added + moments.rows[matrix]) : 1.0;
    for (std::size_t i = 0; i < n * n; ++i)
      c[i] = static_cast<float>((1 - share) * double{c[i]} + share * all[i]);
  }
  for (std::size_t i = 0; i < n; ++i)
    for (std::size_t j = 0; j < n; ++j) {
      if (i == j) continue;
      c[i * n + j] *= static_cast<float>(1 - way.shrinkage);
      if (way.run > 0 && i / way.run != j / way.run) c[i * n + j] = 0;
    }
  QF_ASSIGN(auto made, kernels::CovarianceFactor::make(n, c, static_cast<float>(way.damping)));
  return std::make_shared<const kernels::CovarianceFactor>(std::move(made));
}

double quadratic(const std::vector<float>& c, const std::vector<double>& e) {
  double sum = 0;
  for (std::size_t i = 0; i < e.size(); ++i) {
    double row = 0;
    for (std::size_t j = 0; j < e.size(); ++j) row += double{c[i * e.size() + j]} * e[j];
    sum += e[i] * row;
  }
  return sum;
}

Result<void> heldout(const Settings& settings) {
  QF_ASSIGN(const Model model, Model::open(settings.model));
  std::optional<ImportanceMatrix> importance;
  if (!settings.imatrix.empty()) {
    QF_ASSIGN(importance, ImportanceMatrix::read(settings.imatrix));
  }
  QF_ASSIGN(const SecondMomentsFile made, SecondMomentsFile::open(settings.moments));
  std::vector<SecondMomentsFile> judges;
  for (const std::string& path : settings.judges) {
    QF_ASSIGN(SecondMomentsFile judge, SecondMomentsFile::open(path));
    judges.push_back(std::move(judge));
  }
  std::vector<Format> formats;
  for (const std::string& name : settings.formats) {
    const auto format = parse_format(name);
    if (!format) return fail(ErrorCode::InvalidArgument, "no format {}", name);
    formats.push_back(*format);
  }
  std::vector<Way> ways = {Way()};
  for (const std::string& name : settings.ways) {
    QF_ASSIGN(const Way way, way_of(name));
    ways.push_back(way);
  }
  QF_ASSIGN(const auto* kernels, kernels::default_kernels());
  // ln of the ratio to the usual way, by judge, format and way; and tensors.
  std::vector<double> logs(judges.size() * formats.size() * ways.size(), 0.0);
  std::size_t tensors = 0;
  const auto slot = [&](std::size_t judge, std::size_t format, std::size_t way) {
    return (judge * formats.size() + format) * ways.size() + way;
  };
  for (const TensorInfo& tensor : model.tensors()) {
    if (tensor.significant_dims() < 2) continue;
    QF_ASSIGN(const auto own, moments_of(made, tensor));
    if (!own) continue;
    std::vector<Moments> theirs;
    for (const SecondMomentsFile& judge : judges) {
      QF_ASSIGN(auto found, moments_of(judge, tensor));
      if (found) theirs.push_back(std::move(*found));
    }
    if (theirs.size() < judges.size()) continue;
    QF_ASSIGN(const auto metric,
              optimizer::make_tensor_metric(tensor, importance ? &*importance : nullptr, {}));
    kernels::RowQuantizer quantizer(*kernels, tensor.row_length());
    std::vector<double> sums(logs.size(), 0.0);
    const std::uint64_t per_matrix =
        std::clamp<std::uint64_t>(settings.rows / tensor.matrices(), 1, tensor.ne[1]);
    std::vector<std::byte> bytes;
    std::vector<float> decoded(own->n);
    std::vector<double> error(own->n);
    for (std::uint64_t matrix = 0; matrix < tensor.matrices(); ++matrix)
      for (std::size_t way = 0; way < ways.size(); ++way) {
        QF_ASSIGN(const Factor factor, factor_of(*own, matrix, ways[way]));
        for (std::uint64_t r = 0; r < per_matrix; ++r) {
          const std::uint64_t row = matrix * tensor.ne[1] + r * tensor.ne[1] / per_matrix;
          QF_TRY(quantizer.load(tensor.format, model.row(tensor, row), metric.of(matrix), factor));
          for (std::size_t f = 0; f < formats.size(); ++f) {
            QF_ASSIGN(const std::uint64_t size, row_bytes(formats[f], own->n));
            bytes.resize(size);
            quantizer.encode(formats[f], kernels::Effort::Default, bytes.data());
            kernels->decode[static_cast<std::size_t>(formats[f])](bytes.data(), own->n, decoded.data());
            for (std::size_t j = 0; j < own->n; ++j)
              error[j] = double{decoded[j]} - double{quantizer.row().x[j]};
            for (std::size_t judge = 0; judge < judges.size(); ++judge)
              sums[slot(judge, f, way)] +=
                  theirs[judge].rows[matrix] * quadratic(theirs[judge].matrices[matrix], error);
          }
        }
      }
    ++tensors;
    for (std::size_t judge = 0; judge < judges.size(); ++judge)
      for (std::size_t f = 0; f < formats.size(); ++f) {
        if (settings.by_tensor) fmt::print("{} {} {}", tensor.name, judge, settings.formats[f]);
        for (std::size_t way = 0; way < ways.size(); ++way) {
          const double ratio = sums[slot(judge, f, way)] / sums[slot(judge, f, 0)];
          logs[slot(judge, f, way)] += std::log(ratio);
          if (settings.by_tensor && way > 0) fmt::print(" {:.4f}", ratio);
        }
        if (settings.by_tensor) fmt::print("\n");
      }
  }
  fmt::print("{} tensors, geometric means\n", tensors);
  for (std::size_t judge = 0; judge < judges.size(); ++judge) {
    fmt::print("{}\n{:10}", settings.judges[judge], "");
    for (const std::string& name : settings.ways) fmt::print(" {:>9}", name);
    fmt::print("\n");
    for (std::size_t f = 0; f < formats.size(); ++f) {
      fmt::print("{:10}", settings.formats[f]);
      for (std::size_t way = 1; way < ways.size(); ++way)
        fmt::print(" {:9.4f}", std::exp(logs[slot(judge, f, way)] / static_cast<double>(tensors)));
      fmt::print("\n");
    }
  }
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
  collecting->add_option("--skip", settings.skip);
  collecting->add_option("--windows", settings.windows);
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
  CLI::App* judging = app.add_subcommand("heldout", "errors under the moments of other texts");
  judging->add_option("model", settings.model)->required();
  judging->add_option("moments", settings.moments)->required();
  judging->add_option("judges", settings.judges)->required();
  judging->add_option("--formats", settings.formats)->delimiter(',');
  judging->add_option("--ways", settings.ways)->delimiter(',');
  judging->add_option("--rows", settings.rows);
  judging->add_option("--imatrix", settings.imatrix);
  judging->add_flag("--tensors", settings.by_tensor);
  CLI::App* factoring = app.add_subcommand("factor", "times factors of random moments");
  factoring->add_option("--columns", settings.columns)->delimiter(',');
  CLI11_PARSE(app, argc, argv);
  const auto done = collecting->parsed() ? collect(settings)
                    : writing->parsed()  ? write(settings)
                    : judging->parsed()  ? heldout(settings)
                                         : factor(settings);
  if (done) return 0;
  fmt::print(stderr, "covariances: {}\n", done.error().message);
  return 1;
}
