// compare: speed of this program's encoders and decoders against ggml's, per format, on the same rows.
//
// One thread. For every format the contestants alternate, `--repeat` times; the best time of each counts,
// measured as CPU time of the thread, so that other programs on the machine disturb little. Encoding is timed
// from float32 rows in memory to encoded bytes, our preparation of the row included. Beside the speed stands
// the quality: the expected output error (error_metric.h) of our bytes over that of ggml's.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <cstring>
#include <ctime>
#include <nlohmann/json.hpp>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "core/format.h"
#include "kernels/row_kernels.h"
#include "kernels/row_quantizer.h"
#include "optimizer/measurement/error_model.h"
#include "tests/support/reference_library.h"

namespace {

using namespace quantfit;
using namespace quantfit::kernels;
using quantfit::test::ReferenceLibrary;

constexpr Effort kEfforts[] = {Effort::Fast, Effort::Default, Effort::Max};
constexpr const char* kEffortNames[] = {"fast", "default", "max"};

struct Settings {
  std::size_t rows = 64;
  std::size_t columns = 2048;
  int repeat = 3;
  double seconds = 0.02;
  float kappa = optimizer::ErrorModel::kKappa;
  bool means = false;
  bool no_importance = false;
  std::vector<std::string> formats;
  std::string isa;
  std::vector<std::string> efforts = {"fast", "default", "max"};
  bool json = false;
};

// Rows as trained layers have them: heavy tails (Student's t, 5 degrees of freedom) of a layer's size, and
// importance that varies over columns by orders of magnitude.
struct Data {
  std::vector<float> x;
  std::vector<float> mean_square;
  std::vector<float> mean;
};

Data make_data(const Settings& settings) {
  Data data;
  std::mt19937_64 random(20240229);
  std::student_t_distribution<float> weight(5);
  std::normal_distribution<float> normal;
  data.x.resize(settings.rows * settings.columns);
  for (float& x : data.x) x = 0.02F * weight(random);
  for (std::size_t j = 0; j < settings.columns; ++j) {
    const float deviation = std::exp(0.75F * normal(random));
    const float mean = 0.3F * deviation * normal(random);
    data.mean.push_back(mean);
    data.mean_square.push_back(deviation * deviation + mean * mean);
  }
  if (!settings.means) data.mean.clear();
  if (settings.no_importance) {
    data.mean.clear();
    data.mean_square.clear();
  }
  return data;
}

double thread_seconds() {
  timespec time{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

// Seconds of one call of `work`, averaged over as many calls as fill `at_least`.
template <class Work>
double time_of(double at_least, const Work& work) {
  const double start = thread_seconds();
  int calls = 0;
  double elapsed = 0;
  do {
    work();
    ++calls;
    elapsed = thread_seconds() - start;
  } while (elapsed < at_least);
  return elapsed / calls;
}

struct Row {
  Format format;
  double ggml_encode = 0, ggml_decode = 0, our_decode = 0;  // million weights per second
  std::optional<double> our_encode[3];                      // by effort
  std::optional<double> error_ratio[3];                     // ours over ggml's
};

std::string cell(const std::optional<double>& value, int precision) {
  return value ? fmt::format("{:.{}f}", *value, precision) : "-";
}

double million_per_second(const Settings& settings, double seconds) {
  return 1e-6 * static_cast<double>(settings.rows * settings.columns) / seconds;
}

Result<Row> compare(Format format, const Settings& settings, const Data& data, const ReferenceLibrary& ggml,
                    const RowKernels& kernels) {
  Row row{format, 0, 0, 0, {}, {}};
  const std::span<const float> importance = data.mean_square;
  QF_ASSIGN(const std::uint64_t bytes_per_row, row_bytes(format, settings.columns));
  std::vector<std::byte> theirs(bytes_per_row * settings.rows);
  std::vector<std::vector<std::byte>> ours(3, theirs);
  std::vector<float> decoded(settings.columns);
  const ColumnMetric metric(settings.columns, data.mean_square, data.mean, settings.kappa);
  RowQuantizer quantizer(kernels, settings.columns);
  const auto source = std::as_bytes(std::span(data.x));
  const auto source_row = [&](std::size_t r) {
    return source.subspan(r * settings.columns * sizeof(float), settings.columns * sizeof(float));
  };
  const bool can_encode = quantizer.can_encode(format);

  double ggml_encode = 1e30, ggml_decode = 1e30, our_decode = 1e30;
  double our_encode[3] = {1e30, 1e30, 1e30};
  QF_TRY(ggml.quantize_chunk(format, data.x, settings.rows, settings.columns, importance,
                             theirs));  // builds tables
  for (int repetition = 0; repetition < settings.repeat; ++repetition) {
    ggml_encode = std::min(ggml_encode, time_of(settings.seconds, [&] {
                             (void)ggml.quantize_chunk(format, data.x, settings.rows, settings.columns,
                                                       importance, theirs);
                           }));
    for (std::size_t e = 0; e < 3; ++e) {
      if (!can_encode) continue;
      if (std::find(settings.efforts.begin(), settings.efforts.end(), kEffortNames[e]) ==
          settings.efforts.end())
        continue;
      our_encode[e] = std::min(our_encode[e], time_of(settings.seconds, [&] {
                                 for (std::size_t r = 0; r < settings.rows; ++r) {
                                   (void)quantizer.load(Format::F32, source_row(r), metric);
                                   quantizer.encode(format, kEfforts[e], ours[e].data() + r * bytes_per_row);
                                 }
                               }));
    }
    ggml_decode =
        std::min(ggml_decode, time_of(settings.seconds, [&] {
                   for (std::size_t r = 0; r < settings.rows; ++r) {
                     (void)ggml.dequantize_row(
                         format, std::span(theirs).subspan(r * bytes_per_row, bytes_per_row), decoded);
                   }
                 }));
    if (const DecodeRow decode = kernels.decode[static_cast<std::size_t>(format)]; decode != nullptr) {
      our_decode = std::min(our_decode, time_of(settings.seconds, [&] {
                              for (std::size_t r = 0; r < settings.rows; ++r) {
                                decode(theirs.data() + r * bytes_per_row, settings.columns, decoded.data());
                              }
                            }));
    }
  }
  row.ggml_encode = million_per_second(settings, ggml_encode);
  row.ggml_decode = million_per_second(settings, ggml_decode);
  row.our_decode = million_per_second(settings, our_decode);
  double error_ggml = 0;
  double error_ours[3] = {0, 0, 0};
  for (std::size_t r = 0; r < settings.rows; ++r) {
    QF_TRY(quantizer.load(Format::F32, source_row(r), metric));
    error_ggml += quantizer.measure(format, theirs.data() + r * bytes_per_row).total();
    for (std::size_t e = 0; e < 3; ++e) {
      if (our_encode[e] < 1e30)
        error_ours[e] += quantizer.measure(format, ours[e].data() + r * bytes_per_row).total();
    }
  }
  for (std::size_t e = 0; e < 3; ++e) {
    if (our_encode[e] >= 1e30) continue;
    row.our_encode[e] = million_per_second(settings, our_encode[e]);
    if (error_ggml > 0) row.error_ratio[e] = error_ours[e] / error_ggml;
  }
  return row;
}

// Geometric mean of ours over ggml's encoding speed at one effort.
std::optional<double> mean_ratio(const std::vector<Row>& rows, std::size_t effort) {
  double sum = 0;
  int count = 0;
  for (const Row& row : rows) {
    if (!row.our_encode[effort]) continue;
    sum += std::log(*row.our_encode[effort] / row.ggml_encode);
    ++count;
  }
  if (count == 0) return std::nullopt;
  return std::exp(sum / count);
}

// Million floats per second of a plain copy: what decoding can reach at best.
double copy_speed(const Settings& settings, const Data& data) {
  std::vector<float> out(settings.columns);
  double best = 1e30;
  for (int repetition = 0; repetition < settings.repeat; ++repetition) {
    best = std::min(
        best, time_of(settings.seconds, [&] {
          for (std::size_t r = 0; r < settings.rows; ++r) {
            std::memcpy(out.data(), data.x.data() + r * settings.columns, settings.columns * sizeof(float));
            asm volatile("" : : "r"(out.data()) : "memory");  // the copy is not to be optimized away
          }
        }));
  }
  return million_per_second(settings, best);
}

int fail_with(const Error& error, int code) {
  fmt::print(stderr, "compare: {}\n", error.message);
  return code;
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("Speed of quantfit's encoders and decoders against ggml's, per format, on the same rows");
  Settings settings;
  app.add_option("formats", settings.formats,
                 "Formats to compare; the default candidates when none is named");
  app.add_option("--rows", settings.rows, "Rows of each call")
      ->capture_default_str()
      ->check(CLI::Range(1, 1 << 20));
  app.add_option("--columns", settings.columns, "Weights per row")
      ->capture_default_str()
      ->check(CLI::Range(256, 1 << 20));
  app.add_option("--repeat", settings.repeat, "Rounds; the best of each contestant counts")
      ->capture_default_str()
      ->check(CLI::Range(1, 1000));
  app.add_option("--seconds", settings.seconds, "Least time of one measurement")->capture_default_str();
  app.add_option("--kappa", settings.kappa, "Weight of errors along the row in our metric; 1 for none")
      ->capture_default_str()
      ->check(CLI::Range(1.0, 100.0));
  app.add_flag("--means", settings.means, "Importance with mean activations (bias term)");
  app.add_flag("--no-importance", settings.no_importance,
               "Without importance; formats that need it are left out");
  app.add_option("--isa", settings.isa,
                 "Instruction set of our kernels; the best by default (also QUANTFIT_ISA)");
  app.add_option("--efforts", settings.efforts, "Efforts of our encoders")
      ->delimiter(',')
      ->check(CLI::IsMember({"fast", "default", "max"}));
  app.add_flag("--json", settings.json, "One JSON document instead of a table");
  app.footer("Exit codes: 0 done; 1 failure; 2 wrong usage; 77 the llama.cpp libraries are not installed");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }
  std::vector<Format> formats;
  for (const std::string& name : settings.formats) {
    const auto format = parse_format(name);
    if (!format || !is_quantized(*format)) {
      fmt::print(stderr, "compare: '{}' is not a quantized format\n", name);
      return 2;
    }
    formats.push_back(*format);
  }
  if (formats.empty()) formats.assign(default_candidate_formats().begin(), default_candidate_formats().end());

  const auto ggml = ReferenceLibrary::load();
  if (!ggml) return fail_with(ggml.error(), 77);
  const auto kernels = settings.isa.empty() ? default_kernels() : find_kernels(settings.isa);
  if (!kernels) return fail_with(kernels.error(), 2);

  const Data data = make_data(settings);
  const double copied = copy_speed(settings, data);
  if (!settings.json) {
    fmt::print(
        "{} rows of {}, kernels {}, kappa {}, {}; million weights per second of one thread; plain copy "
        "{:.0f}\n",
        settings.rows, settings.columns, kernels.value()->isa, settings.kappa,
        settings.no_importance ? "no importance"
        : settings.means       ? "importance with means"
                               : "importance",
        copied);
    fmt::print("{:<8} | {:^8} | {:^26} | {:^23} | {:^23} | {:^24}\n", "", "ggml", "encode, ours",
               "ours over ggml", "error, ours over ggml", "decode");
    fmt::print(
        "{:<8} | {:>8} | {:>8} {:>8} {:>8} | {:>7} {:>7} {:>7} | {:>7} {:>7} {:>7} | {:>8} {:>8} {:>6}\n",
        "format", "encode", "fast", "default", "max", "fast", "default", "max", "fast", "default", "max",
        "ggml", "ours", "ratio");
  }
  std::vector<Row> rows;
  for (const Format format : formats) {
    if (settings.no_importance &&
        (traits(format).needs_importance || ggml.value()->requires_importance(format))) {
      continue;
    }
    const auto compared = compare(format, settings, data, *ggml.value(), *kernels.value());
    if (!compared) return fail_with(compared.error(), 1);
    const Row& row = compared.value();
    rows.push_back(row);
    if (settings.json) continue;
    std::optional<double> ratio[3];
    for (std::size_t e = 0; e < 3; ++e) {
      if (row.our_encode[e]) ratio[e] = *row.our_encode[e] / row.ggml_encode;
    }
    fmt::print(
        "{:<8} | {:>8.1f} | {:>8} {:>8} {:>8} | {:>7} {:>7} {:>7} | {:>7} {:>7} {:>7} | {:>8.0f} {:>8.0f} "
        "{:>6.2f}\n",
        name_of(format), row.ggml_encode, cell(row.our_encode[0], 1), cell(row.our_encode[1], 1),
        cell(row.our_encode[2], 1), cell(ratio[0], 2), cell(ratio[1], 2), cell(ratio[2], 2),
        cell(row.error_ratio[0], 3), cell(row.error_ratio[1], 3), cell(row.error_ratio[2], 3),
        row.ggml_decode, row.our_decode, row.our_decode / row.ggml_decode);
    std::fflush(stdout);
  }
  if (!settings.json) {
    fmt::print("geometric mean of encoding speed over ggml: fast {}, default {}, max {}\n",
               cell(mean_ratio(rows, 0), 2), cell(mean_ratio(rows, 1), 2), cell(mean_ratio(rows, 2), 2));
    return 0;
  }
  const auto optional_json = [](const std::optional<double>& value) -> nlohmann::json {
    return value ? nlohmann::json(*value) : nlohmann::json();
  };
  nlohmann::json document = {{"rows", settings.rows},
                             {"columns", settings.columns},
                             {"kernels", kernels.value()->isa},
                             {"kappa", settings.kappa},
                             {"means", settings.means},
                             {"importance", !settings.no_importance},
                             {"copy_million_per_second", copied},
                             {"formats", nlohmann::json::array()},
                             {"encode_ratio_geometric_mean", nlohmann::json::object()}};
  for (const Row& row : rows) {
    nlohmann::json item = {{"format", name_of(row.format)},
                           {"ggml_encode", row.ggml_encode},
                           {"ggml_decode", row.ggml_decode},
                           {"our_decode", row.our_decode}};
    for (std::size_t e = 0; e < 3; ++e) {
      item["our_encode"][kEffortNames[e]] = optional_json(row.our_encode[e]);
      item["error_ratio"][kEffortNames[e]] = optional_json(row.error_ratio[e]);
    }
    document["formats"].push_back(item);
  }
  for (std::size_t e = 0; e < 3; ++e) {
    document["encode_ratio_geometric_mean"][kEffortNames[e]] = optional_json(mean_ratio(rows, e));
  }
  fmt::print("{}\n", document.dump(1));
  return 0;
}
