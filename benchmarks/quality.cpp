// How good the encoders are, beside ggml's: prints one line per format and effort.
//
//   quality [golden] [fresh] [model] [--formats Q4_K,IQ2_S] [--efforts fast,default,max] [--kappa 5]
//           [--no-means] [--rows N] [--isa avx2] [--tensors TEXT] [--no-speed]
//           [--covariance] [--damping 0.03]
//
// golden  diagonal errors on the golden rows over those of ggml's encoder (stored beside the rows): with the
//         importance vector, and with unit weights.
// fresh   D over that of ggml's encoder on generated rows (Gaussian, Student t with 4 degrees of freedom,
//         Laplace); importance over two decades, means that make up a tenth of it.
// model   all layer matrices of the small dense model: the true error e^T C e under the held-out second
//         moments over that of ggml's encoder with the same importance matrix, the variance term, the share
//         of the bias term in D under the calibration means, and the gain sum a w (w + e) / sum a w^2 - 1.
//         With --covariance our encoders get the calibration's full second moments (error feedback).
//
// fresh and the ratios of model need the prebuilt library (scripts/setup-client), golden and model the shared
// conformance data. --rows takes every N-th row of the model only. --no-speed leaves out the speed: the same
// code then prints the same text, which benchmarks/quality.txt keeps.

#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <vector>

#include "core/format.h"
#include "core/model.h"
#include "kernels/covariance.h"
#include "kernels/row_kernels.h"
#include "kernels/row_quantizer.h"
#include "optimizer/measurement/error_model.h"
#include "tests/support/reference_library.h"
#include "tests/support/second_moments.h"
#include "tests/support/test_paths.h"

namespace quantfit {
namespace {

using kernels::ColumnMetric;
using kernels::Effort;
using kernels::RowQuantizer;

struct Options {
  std::vector<Format> formats;
  std::vector<Effort> efforts = {Effort::Default};
  optimizer::ErrorModel error_model;
  bool means = true;
  bool covariance = false;
  float damping = kernels::CovarianceFactor::kDamping;
  bool golden = false;
  bool fresh = false;
  bool speed = true;
  bool model = false;
  std::size_t row_step = 1;
  const kernels::RowKernels* kernels = nullptr;
  std::string tensors;
};

const char* name_of_effort(Effort effort) {
  return effort == Effort::Fast ? "fast" : effort == Effort::Default ? "default" : "max";
}

std::vector<std::string> split(const std::string& text) {
  std::vector<std::string> parts;
  std::size_t start = 0;
  while (start <= text.size()) {
    const std::size_t comma = std::min(text.find(',', start), text.size());
    if (comma > start) parts.push_back(text.substr(start, comma - start));
    start = comma + 1;
  }
  return parts;
}

double seconds() {
  timespec time{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

std::span<const std::byte> bytes_of(const float* data, std::size_t count) {
  return std::as_bytes(std::span(data, count));
}

// ---- golden
// ---------------------------------------------------------------------------------------------------

// Sum of errors of the rows under the metric, each row's worst ratio to `reference` when given.
double golden_error(const Options& options, const ColumnMetric& metric, const std::vector<float>& x,
                    std::size_t columns, Format format, Effort effort, const double* reference,
                    double& worst) {
  RowQuantizer quantizer(*options.kernels, columns);
  double total = 0;
  worst = 0;
  for (std::size_t r = 0; r < x.size() / columns; ++r) {
    if (!quantizer.load(Format::F32, bytes_of(&x[r * columns], columns), metric)) continue;
    const double error = quantizer.encode_and_measure(format, effort).variance;
    total += error;

    if (error > 1e-12 * quantizer.row().energy * metric.scale())
      worst = std::max(worst, error / reference[r]);
  }
  return total;
}

void run_golden(const Options& options, const std::filesystem::path& shared) {
  const std::filesystem::path folder = shared / "formats" / "golden";
  std::ifstream file(folder / "index.json");
  const auto index = nlohmann::json::parse(file);
  const auto& encode = index["encode"];
  std::vector<std::string> types = encode["types"];
  std::printf("golden: diagonal error over ggml's, kappa 1, no means (edge: worst row)\n%-8s %-7s", "format",
              "effort");
  for (const char* set : {"attn_like", "ffn_like", "moe_like", "gaussian", "edge"})
    std::printf("  %9s w/unit ", set);
  std::printf("\n");
  for (const Format format : options.formats) {
    const auto type = std::find(types.begin(), types.end(), std::string(name_of(format)));
    if (type == types.end()) continue;
    const auto t = static_cast<std::size_t>(type - types.begin());
    for (const Effort effort : options.efforts) {
      std::printf("%-8s %-7s", std::string(name_of(format)).c_str(), name_of_effort(effort));
      for (const char* set : {"attn_like", "ffn_like", "moe_like", "gaussian", "edge"}) {
        const std::string base = (folder / "encode" / set).string();
        const auto x = test::read_array<float>(base + ".x.f32");
        const auto w = test::read_array<float>(base + ".w.f32");
        const auto errors = test::read_array<double>(base + ".errors.f64");
        const std::size_t columns = w.size();
        const std::size_t rows = x.size() / columns;
        const double* weighted = &errors[3 * t * rows];
        std::vector<double> unit(rows);
        double sums[3] = {};
        for (std::size_t mode = 0; mode < 3; ++mode)
          for (std::size_t r = 0; r < rows; ++r) sums[mode] += weighted[mode * rows + r];
        const std::size_t best_mode = sums[1] < sums[2] ? 1 : 2;
        for (std::size_t r = 0; r < rows; ++r) unit[r] = weighted[best_mode * rows + r];
        double worst_weighted = 0;
        double worst_unit = 0;
        const double a = golden_error(options, ColumnMetric(columns, w, {}, 1.0F), x, columns, format, effort,
                                      weighted, worst_weighted);
        const double b = golden_error(options, ColumnMetric(columns, {}, {}, 1.0F), x, columns, format,
                                      effort, unit.data(), worst_unit);
        if (std::string(set) == "edge") {
          std::printf("  %8.4f %8.4f", worst_weighted, worst_unit);
        } else {
          std::printf("  %8.4f %8.4f", a / sums[0], b / sums[best_mode]);
        }
      }
      std::printf("\n");
    }
  }
}

// ---- model
// ---- fresh rows

void run_fresh(const Options& options) {
  const auto reference = test::ReferenceLibrary::load();
  if (!reference) {
    std::printf("fresh rows left out: %s\n", reference.error().message.c_str());
    return;
  }
  constexpr std::size_t kColumns = 2048;
  constexpr std::size_t kRows = 32;
  constexpr const char* kNames[] = {"gaussian", "student", "laplace"};
  std::mt19937_64 random(20240301);
  std::normal_distribution<double> normal;
  std::student_t_distribution<double> student(4.0);
  std::exponential_distribution<double> exponential;
  const float kappa = options.error_model.kappa.value_or(optimizer::ErrorModel::kKappa);
  std::vector<float> a(kColumns);
  std::vector<float> m(kColumns);
  for (std::size_t j = 0; j < kColumns; ++j) {
    const double second = std::exp(1.2 * normal(random));
    a[j] = static_cast<float>(second);
    m[j] = static_cast<float>(std::sqrt(second) * std::min(0.9, std::max(-0.9, 0.3 * normal(random))));
  }
  std::vector<float> rows[3];
  for (std::size_t i = 0; i < kRows * kColumns; ++i) {
    rows[0].push_back(static_cast<float>(0.02 * normal(random)));
    rows[1].push_back(static_cast<float>(0.015 * student(random)));
    const double size = 0.015 * exponential(random);
    rows[2].push_back(static_cast<float>(random() % 2 == 0 ? size : -size));
  }
  const ColumnMetric metric(kColumns, a, options.means ? std::span<const float>(m) : std::span<const float>(),
                            kappa);
  std::printf("fresh: D over ggml's, %zu rows of %zu, kappa %.2f, %s\n%-8s %-7s", kRows, kColumns,
              double{kappa}, options.means ? "means" : "no means", "format", "effort");
  for (const char* name : kNames) std::printf(" %9s", name);
  std::printf("\n");
  RowQuantizer quantizer(*options.kernels, kColumns);
  for (const Format format : options.formats) {
    const std::uint64_t bytes = row_bytes(format, kColumns).value();
    std::vector<std::byte> encoded(kRows * bytes);
    for (const Effort effort : options.efforts) {
      std::printf("%-8s %-7s", std::string(name_of(format)).c_str(), name_of_effort(effort));
      for (const std::vector<float>& x : rows) {
        const auto done = reference.value()->quantize_chunk(format, x, kRows, kColumns, a, encoded);
        double ours = 0;
        double theirs = 0;
        for (std::size_t r = 0; done && r < kRows; ++r) {
          if (!quantizer.load(Format::F32, bytes_of(&x[r * kColumns], kColumns), metric)) continue;
          theirs += quantizer.measure(format, &encoded[r * bytes]).total();
          ours += quantizer.encode_and_measure(format, effort).total();
        }
        std::printf(" %9.4f", ours / theirs);
      }
      std::printf("\n");
      std::fflush(stdout);
    }
  }
}

// ----------------------------------------------------------------------------------------------------

struct Matrix {
  std::string name;
  std::string role;
  std::size_t columns = 0;
  std::size_t rows = 0;
  std::vector<float> x;
  std::vector<float> second_moment, mean;             // of the importance matrix
  const std::vector<float>* covariance = nullptr;     // held-out, full
  const kernels::CovarianceFactor* factor = nullptr;  // of the calibration moments
};

std::vector<float> tensor_values(const Model& model, const std::string& name,
                                 const kernels::RowKernels& table) {
  const TensorInfo* info = model.find(name);
  if (info == nullptr) return {};
  std::vector<float> values(info->elements());
  table.decode[static_cast<std::size_t>(info->format)](model.data(*info).data(), values.size(),
                                                       values.data());
  return values;
}

struct TrueError {
  double exact = 0;     // e^T C e
  double variance = 0;  // sum v e^2
  double bias = 0;      // (sum m e)^2
  double gain = 0;      // sum a w e
  double energy = 0;    // sum a w^2
  double seconds = 0;
  double weights = 0;
  void add(const TrueError& other, double scale) {
    exact += scale * other.exact;
    variance += scale * other.variance;
    bias += scale * other.bias;
    gain += scale * other.gain;
    energy += scale * other.energy;
    seconds += other.seconds;
    weights += other.weights;
  }
};

// What `decoded` does to the outputs of `matrix`.
TrueError true_error(const Matrix& matrix, const std::vector<float>& decoded) {
  TrueError error;
  const std::size_t n = matrix.columns;
  std::vector<float> product(n);
  std::vector<float> e(n);
  for (std::size_t r = 0; r < matrix.rows; ++r) {
    double bias = 0;
    for (std::size_t j = 0; j < n; ++j) {
      const double x = matrix.x[r * n + j];
      e[j] = decoded[r * n + j] - matrix.x[r * n + j];
      const double a = matrix.second_moment[j];
      const double m = matrix.mean[j];
      error.variance += (a - m * m) * e[j] * e[j];
      error.gain += a * x * e[j];
      error.energy += a * x * x;
      bias += m * e[j];
    }
    error.bias += bias * bias;
    std::fill(product.begin(), product.end(), 0.0F);
    for (std::size_t j = 0; j < n; ++j) {
      const float factor = e[j];
      const float* line = matrix.covariance->data() + j * n;
      for (std::size_t i = 0; i < n; ++i) product[i] += factor * line[i];
    }
    for (std::size_t j = 0; j < n; ++j) error.exact += double{product[j]} * double{e[j]};
  }
  return error;
}

void run_model(const Options& options, const std::filesystem::path& shared) {
  const std::filesystem::path folder = shared / "models";
  auto model = Model::open(folder / "tale-dense-F16.gguf");
  auto importance = Model::open(folder / "tale-dense.imatrix.gguf");
  if (!model || !importance) {
    std::printf("cannot read the model: %s\n", (model ? importance.error() : model.error()).message.c_str());
    return;
  }
  const auto heldout = test::SecondMoments::open(folder / "tale-dense-moments", "heldout");
  const auto calibration = test::SecondMoments::open(folder / "tale-dense-moments", "calibration");
  if (!heldout || !calibration) {
    std::printf("%s\n", (heldout ? calibration : heldout).error().message.c_str());
    return;
  }
  std::map<std::string, std::vector<float>> covariances;
  std::map<std::string, kernels::CovarianceFactor> factors;
  std::vector<Matrix> matrices;
  for (const test::SecondMoments::Input& input : heldout.value().inputs()) {
    const std::size_t n = input.columns;
    auto unseen = heldout.value().read(input);
    if (!unseen) {
      std::printf("%s\n", unseen.error().message.c_str());
      return;
    }
    std::vector<float>& full = covariances[input.name];
    full = std::move(unseen).value();
    if (options.covariance) {
      const test::SecondMoments::Input* same = calibration.value().find(input.tensors.at(0));
      const auto seen = same != nullptr ? calibration.value().read(*same)
                                        : fail(ErrorCode::InvalidArgument, "no calibration of this input");
      auto factor = seen ? kernels::CovarianceFactor::make(n, seen.value(), options.damping) : seen.error();
      if (!factor) {
        std::printf("%s: %s\n", input.name.c_str(), factor.error().message.c_str());
        return;
      }
      factors.emplace(input.name, std::move(factor.value()));
    }
    for (const std::string& name : input.tensors) {
      if (name.find(options.tensors) == std::string::npos) continue;
      Matrix matrix;
      matrix.name = name;
      matrix.role = name.substr(name.find('.', 4) + 1);
      matrix.columns = n;
      const std::vector<float> all = tensor_values(model.value(), name, *options.kernels);
      for (std::size_t r = 0; r < all.size() / n; r += options.row_step)
        matrix.x.insert(matrix.x.end(), all.begin() + static_cast<std::ptrdiff_t>(r * n),
                        all.begin() + static_cast<std::ptrdiff_t>((r + 1) * n));
      matrix.rows = matrix.x.size() / n;
      matrix.second_moment = tensor_values(importance.value(), name + ".in_sum2", *options.kernels);
      matrix.mean = tensor_values(importance.value(), name + ".in_sum", *options.kernels);
      const float count = tensor_values(importance.value(), name + ".counts", *options.kernels).at(0);
      for (float& value : matrix.second_moment) value /= count;
      for (float& value : matrix.mean) value /= count;
      matrix.covariance = &full;
      if (options.covariance) matrix.factor = &factors.at(input.name);
      matrices.push_back(std::move(matrix));
    }
  }

  const auto reference = test::ReferenceLibrary::load();
  if (!reference) std::printf("no ratios: %s\n", reference.error().message.c_str());
  std::printf("model%s: %zu matrices, %s, %s; every matrix weighs as 1 / its energy\n",
              options.covariance ? " with full second moments of the calibration" : "", matrices.size(),
              options.error_model.to_text().c_str(), options.means ? "means" : "no means");
  std::printf("%-8s %-7s %9s %9s | %8s %8s | %8s %8s | %8s %8s%s\n", "format", "effort", "true", "variance",
              "NMSE", "ggml", "bias %", "ggml", "gain", "ggml", options.speed ? " |     Mw/s" : "");
  std::map<Effort, std::pair<double, int>> mean_log;
  for (const Format format : options.formats) {
    if (options.covariance && !kernels::has_error_feedback(format)) continue;
    TrueError theirs;
    if (reference) {
      for (const Matrix& matrix : matrices) {
        std::vector<std::byte> encoded(tensor_bytes(format, matrix.columns, matrix.rows).value());
        std::vector<float> decoded(matrix.x.size());
        const auto done = reference.value()->quantize_chunk(format, matrix.x, matrix.rows, matrix.columns,
                                                            matrix.second_moment, encoded);
        if (!done) {
          std::printf("%s\n", done.error().message.c_str());
          break;
        }
        const std::uint64_t bytes = row_bytes(format, matrix.columns).value();
        for (std::size_t r = 0; r < matrix.rows; ++r)
          options.kernels->decode[static_cast<std::size_t>(format)](&encoded[r * bytes], matrix.columns,
                                                                    &decoded[r * matrix.columns]);
        const TrueError error = true_error(matrix, decoded);
        theirs.add(error, 1.0 / error.energy);
      }
    }
    for (const Effort effort : options.efforts) {
      TrueError ours;
      std::map<std::string, std::pair<double, double>> roles;
      for (const Matrix& matrix : matrices) {
        const ColumnMetric metric(
            matrix.columns, matrix.second_moment,
            options.means ? std::span<const float>(matrix.mean) : std::span<const float>(),
            options.error_model.kappa_of(matrix.name), matrix.factor);
        RowQuantizer quantizer(*options.kernels, matrix.columns);
        if (!quantizer.can_encode(format)) continue;
        std::vector<float> decoded(matrix.x.size());
        std::vector<std::byte> encoded(row_bytes(format, matrix.columns).value());
        double time = 0;
        for (std::size_t r = 0; r < matrix.rows; ++r) {
          if (!quantizer.load(Format::F32, bytes_of(&matrix.x[r * matrix.columns], matrix.columns), metric))
            continue;
          const double start = seconds();
          quantizer.encode(format, effort, encoded.data());
          time += seconds() - start;
          options.kernels->decode[static_cast<std::size_t>(format)](encoded.data(), matrix.columns,
                                                                    &decoded[r * matrix.columns]);
        }
        TrueError error = true_error(matrix, decoded);
        error.seconds = time;
        error.weights = static_cast<double>(matrix.x.size());
        ours.add(error, 1.0 / error.energy);
      }
      if (ours.weights == 0) continue;
      const double ratio = ours.exact / theirs.exact;
      if (theirs.exact > 0) {
        mean_log[effort].first += std::log(ratio);
        ++mean_log[effort].second;
      }
      const auto share = [](const TrueError& e) { return 100 * e.bias / (e.bias + e.variance); };
      std::printf("%-8s %-7s %9.4f %9.4f | %8.5f %8.5f | %8.3f %8.3f | %8.4f %8.4f",
                  std::string(name_of(format)).c_str(), name_of_effort(effort), ratio,
                  ours.variance / theirs.variance, ours.exact / ours.energy, theirs.exact / theirs.energy,
                  share(ours), share(theirs), ours.gain / ours.energy, theirs.gain / theirs.energy);
      if (options.speed) std::printf(" | %8.1f", 1e-6 * ours.weights / ours.seconds);
      std::printf("\n");
      std::fflush(stdout);
    }
  }
  for (const auto& [effort, log] : mean_log)
    std::printf("geometric mean of the true error, %s: %.4f over %d formats\n", name_of_effort(effort),
                std::exp(log.first / log.second), log.second);
}

int run(const std::vector<std::string>& arguments) {
  Options options;
  const auto default_table = kernels::default_kernels();
  if (!default_table) {
    std::fprintf(stderr, "%s\n", default_table.error().message.c_str());
    return 1;
  }
  options.kernels = default_table.value();
  for (std::size_t i = 0; i < arguments.size(); ++i) {
    const std::string& argument = arguments[i];
    const std::string value = i + 1 < arguments.size() ? arguments[i + 1] : "";
    if (argument == "golden") {
      options.golden = true;
    } else if (argument == "fresh") {
      options.fresh = true;
    } else if (argument == "--no-speed") {
      options.speed = false;
    } else if (argument == "model") {
      options.model = true;
    } else if (argument == "--no-means") {
      options.means = false;
    } else if (argument == "--covariance") {
      options.covariance = true;
    } else if (argument == "--damping") {
      options.damping = std::stof(value);
      ++i;
    } else if (argument == "--formats") {
      for (const std::string& name : split(value)) {
        const auto format = parse_format(name);
        if (!format) {
          std::fprintf(stderr, "no format '%s'\n", name.c_str());
          return 1;
        }
        options.formats.push_back(*format);
      }
      ++i;
    } else if (argument == "--efforts") {
      options.efforts.clear();
      for (const std::string& name : split(value))
        options.efforts.push_back(name == "fast"  ? Effort::Fast
                                  : name == "max" ? Effort::Max
                                                  : Effort::Default);
      ++i;
    } else if (argument == "--kappa") {
      options.error_model.kappa = std::stof(value);
      ++i;
    } else if (argument == "--rows") {
      options.row_step = std::max<std::size_t>(1, std::stoul(value));
      ++i;
    } else if (argument == "--tensors") {
      options.tensors = value;
      ++i;
    } else if (argument == "--isa") {
      const auto table = kernels::find_kernels(value);
      if (!table) {
        std::fprintf(stderr, "%s\n", table.error().message.c_str());
        return 1;
      }
      options.kernels = table.value();
      ++i;
    } else {
      std::fprintf(stderr, "unknown argument '%s'; see the top of benchmarks/quality.cpp\n",
                   argument.c_str());
      return 1;
    }
  }
  if (!options.golden && !options.fresh && !options.model)
    options.golden = options.fresh = options.model = true;
  if (options.formats.empty()) {
    for (const FormatTraits& format : all_formats())
      if (is_quantized(format.format) &&
          options.kernels->encode[static_cast<std::size_t>(format.format)] != nullptr)
        options.formats.push_back(format.format);
  }
  const auto shared = test::shared_dir();
  if (!shared) {
    std::fprintf(stderr, "the shared conformance data are absent; set QUANTFIT_SHARED_DIR\n");
    return 1;
  }
  if (options.speed) std::printf("kernels: %s\n", std::string(options.kernels->isa).c_str());
  if (options.golden) run_golden(options, *shared);
  if (options.fresh) run_fresh(options);
  if (options.model) run_model(options, *shared);
  return 0;
}

}  // namespace
}  // namespace quantfit

int main(int argc, char** argv) {
  return quantfit::run(std::vector<std::string>(argv + 1, argv + argc));
}
