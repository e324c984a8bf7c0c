// pipeline: times the phases of a whole run on a generated model.
//
// The phases are those of `quantfit quantize`, called as library functions: opening, sampling, allocating at
// the target, writing; then the same again with the state file that the first run left. Per phase: wall time,
// user and system CPU time, weights of the model per second of wall time, and the highest resident memory
// seen while it ran (looked up every 10 ms): anonymous, which is ours, and file-backed, which is the mapped
// source. With the llama.cpp libraries present, the same tensors go through ggml's encoder into one format
// with as many threads.
#include <fmt/format.h>
#include <sys/resource.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <atomic>
#include <chrono>
#include <fstream>
#include <map>
#include <mutex>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "benchmarks/generated_model.h"
#include "core/model.h"
#include "kernels/row_kernels.h"
#include "optimizer/job/job.h"
#include "optimizer/job/solve.h"
#include "optimizer/output/model_writer.h"
#include "tests/support/reference_library.h"

namespace {

using namespace quantfit;
namespace fs = std::filesystem;
using quantfit::test::ReferenceLibrary;

struct Settings {
  double weights = 1e9;
  std::string folder = "build/pipeline";
  std::string bpw = "4.5";
  std::vector<unsigned> threads = {2};
  std::vector<std::string> formats;
  std::string reference_format = "Q4_K";
  double reference_share = 1;
  std::string effort = "default";
  bool sparse = false;
  bool keep = false;
  bool json = false;
};

struct Memory {
  std::uint64_t anonymous = 0, file = 0;  // bytes
};

Memory memory_now() {
  std::ifstream status("/proc/self/status");
  Memory memory;
  std::string word;
  while (status >> word) {
    std::uint64_t* place = word == "RssAnon:"   ? &memory.anonymous
                           : word == "RssFile:" ? &memory.file
                                                : nullptr;
    if (place == nullptr) continue;
    status >> *place;
    *place *= 1024;
  }
  return memory;
}

// Nanoseconds that every thread of the process ran or was ready to run and waited for a core, by thread id.
std::map<std::string, std::uint64_t> ready_times() {
  std::map<std::string, std::uint64_t> times;
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator("/proc/self/task", ignored)) {
    std::ifstream file(entry.path() / "schedstat");
    std::uint64_t ran = 0;
    std::uint64_t waited = 0;
    if (file >> ran >> waited) times[entry.path().filename().string()] = ran + waited;
  }
  return times;
}

// Looks at the process's memory and threads until it ends.
class Watch {
 public:
  Watch()
      : before_(ready_times()), watcher_([this](const std::stop_token& stop) {
          {
            const std::scoped_lock guard(lock_);
            own_ = std::to_string(gettid());
          }
          while (!stop.stop_requested()) {
            look();
            std::this_thread::sleep_for(std::chrono::milliseconds(10));
          }
        }) {}
  [[nodiscard]] Memory peak() {
    look();
    const std::scoped_lock guard(lock_);
    return peak_;
  }
  // Seconds that all threads together were ready to run: what they could have computed
  // had every one its own core.
  [[nodiscard]] double ready_seconds() {
    look();
    const std::scoped_lock guard(lock_);
    std::uint64_t sum = 0;
    for (const auto& [thread, time] : last_) {
      if (thread == own_) continue;
      const auto before = before_.find(thread);
      sum += time - (before == before_.end() ? 0 : before->second);
    }
    return 1e-9 * static_cast<double>(sum);
  }

 private:
  void look() {
    const Memory now = memory_now();
    const auto times = ready_times();
    const std::scoped_lock guard(lock_);
    for (const auto& [thread, time] : times) last_[thread] = time;  // threads that ended keep their last
    peak_.anonymous = std::max(peak_.anonymous, now.anonymous);
    peak_.file = std::max(peak_.file, now.file);
  }
  std::mutex lock_;
  Memory peak_;
  std::map<std::string, std::uint64_t> before_, last_;
  std::string own_;  // the watching thread
  std::jthread watcher_;
};

double seconds_of(const timeval& time) {
  return static_cast<double>(time.tv_sec) + 1e-6 * static_cast<double>(time.tv_usec);
}

struct Phase {
  std::string name;
  double wall = 0, user = 0, system = 0;  // seconds
  Memory peak;
  double weights = 0;  // that the phase accounts for
  double ready = 0;    // seconds that its threads ran or waited for a core
};

void to_json(nlohmann::json& json, const Phase& phase) {
  json = {{"name", phase.name},
          {"wall_seconds", phase.wall},
          {"user_seconds", phase.user},
          {"system_seconds", phase.system},
          {"ready_seconds", phase.ready},
          {"weights_per_second", phase.weights / phase.wall},
          {"peak_anonymous_bytes", phase.peak.anonymous},
          {"peak_file_bytes", phase.peak.file}};
}

// Runs `work`, a function that returns a Result, as a phase.
template <class Work>
auto timed(std::vector<Phase>& phases, std::string name, double weights, const Work& work) {
  Watch watch;
  rusage before{};
  rusage after{};
  getrusage(RUSAGE_SELF, &before);
  const auto started = std::chrono::steady_clock::now();
  auto result = work();
  const std::chrono::duration<double> wall = std::chrono::steady_clock::now() - started;
  getrusage(RUSAGE_SELF, &after);
  phases.push_back({std::move(name), wall.count(), seconds_of(after.ru_utime) - seconds_of(before.ru_utime),
                    seconds_of(after.ru_stime) - seconds_of(before.ru_stime), watch.peak(), weights,
                    watch.ready_seconds()});
  return result;
}

struct Run {
  unsigned threads = 0;
  std::vector<Phase> phases;
  double first_seconds = 0, second_seconds = 0;
  std::optional<double> reference_seconds;
  std::uint64_t rows_sampled = 0, weights_sampled = 0,
                pairs = 0;  // pairs: weights times formats, all of them
  double bpw = 0, predicted_error = 0;
};

Result<double> one_run(const Settings& settings, const bench::GeneratedModel& generated,
                       const fs::path& state, const std::string& prefix, Run& run,
                       const kernels::RowKernels& kernels) {
  const auto started = std::chrono::steady_clock::now();
  const auto weights = static_cast<double>(generated.elements);
  NoProgress progress;
  const CancellationToken cancel;
  optimizer::JobRequest request;
  request.paths = {generated.model, generated.importance, state};
  request.sampler.threads = run.threads;
  request.sampler.effort = *kernels::parse_effort(settings.effort);
  request.program_version = "benchmark";
  for (const std::string& name : settings.formats) request.policy.rules.pool.push_back(*parse_format(name));
  QF_ASSIGN(auto inputs, timed(run.phases, prefix + "open", weights,
                               [&] { return optimizer::open_inputs(request.paths); }));
  const optimizer::JobControl control{progress, cancel};
  const std::vector<optimizer::Target> targets = {optimizer::BpwTarget{settings.bpw}};
  QF_ASSIGN(auto job, optimizer::check_job(inputs, request, targets, kernels));
  QF_TRY(timed(run.phases, prefix + "sample", weights,
               [&] { return optimizer::measure_job(inputs, request, kernels, control, job); }));
  if (job.measured.tensors_sampled != 0) {
    for (const auto& [name, measured] : job.measured.measurements) {
      run.rows_sampled += measured.rows_sampled;
      const std::uint64_t sampled = measured.rows_sampled * measured.shape.row_length();
      run.weights_sampled += sampled;
      run.pairs += sampled * measured.errors.size();
    }
  }
  QF_ASSIGN(const auto solution, timed(run.phases, prefix + "allocate", weights, [&] {
              return optimizer::choose(inputs, job, request, job.budgets[0], control);
            }));
  if (!solution.feasible) return fail(ErrorCode::Infeasible, "{} bpw cannot be reached", settings.bpw);
  run.bpw = solution.bpw();
  run.predicted_error = solution.predicted_error;
  optimizer::WriterOptions options;
  options.error_model = request.sampler.error_model;
  options.effort = request.sampler.effort;
  options.threads = run.threads;
  options.existing = Existing::Replace;
  const fs::path output = fs::path(settings.folder) / "quantized.gguf";
  QF_TRY(timed(run.phases, prefix + "write", weights, [&] {
    return optimizer::write_model(inputs.model, inputs.importance_or_null(), solution.recipe, output, options,
                                  kernels, progress, cancel);
  }));
  std::error_code ignored;
  if (!settings.keep) fs::remove(output, ignored);
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - started).count();
}

// Seconds that ggml's encoder needs for the same tensors with as many threads: chunks of rows are taken in
// turn, decoded to float32, and encoded with the importance of their tensor. Nothing is written.
Result<double> reference_run(const Settings& settings, const bench::GeneratedModel& generated,
                             unsigned threads, const ReferenceLibrary& ggml) {
  QF_ASSIGN(const Model model, Model::open(generated.model));
  QF_ASSIGN(const ImportanceMatrix importance, ImportanceMatrix::read(generated.importance));
  const Format format = *parse_format(settings.reference_format);
  struct Chunk {
    const TensorInfo* tensor;
    std::uint64_t row, rows;
    std::span<const float> importance;
  };
  std::vector<Chunk> chunks;
  std::vector<std::vector<float>> columns;
  columns.reserve(model.tensors().size());
  std::uint64_t all = 0;
  std::uint64_t taken = 0;
  for (const TensorInfo& tensor : model.tensors()) {
    if (tensor.format != Format::F16) continue;
    QF_ASSIGN(const auto statistics, importance.statistics(tensor));
    columns.push_back(statistics ? statistics->front().mean_square : std::vector<float>{});
    constexpr std::uint64_t kRows = 32;
    for (std::uint64_t row = 0; row < tensor.rows(); row += kRows) {
      const std::uint64_t rows = std::min(kRows, tensor.rows() - row);
      all += rows * tensor.row_length();
      if (static_cast<double>(taken) >= settings.reference_share * static_cast<double>(all)) continue;
      taken += rows * tensor.row_length();
      chunks.push_back({&tensor, row, rows, columns.back()});
    }
  }
  std::atomic<std::size_t> next{0};
  std::atomic<bool> failed{false};
  const auto work = [&] {
    std::vector<float> x;
    std::vector<std::byte> out;
    for (std::size_t i = next++; i < chunks.size(); i = next++) {
      const Chunk& chunk = chunks[i];
      const std::uint64_t length = chunk.tensor->row_length();
      const auto bytes = tensor_bytes(format, length, chunk.rows);
      if (!bytes) {
        failed = true;
        return;
      }
      x.resize(chunk.rows * length);
      out.resize(bytes.value());
      const auto source = model.data(*chunk.tensor).subspan(chunk.row * length * 2, chunk.rows * length * 2);
      if (!ggml.dequantize_row(Format::F16, source, x) ||
          !ggml.quantize_chunk(format, x, chunk.rows, length, chunk.importance, out))
        failed = true;
    }
  };
  const auto started = std::chrono::steady_clock::now();
  {
    std::vector<std::jthread> workers;
    for (unsigned i = 0; i < threads; ++i) workers.emplace_back(work);
  }
  const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - started;
  if (failed) return fail(ErrorCode::Unsupported, "the reference library cannot encode {}", name_of(format));
  return elapsed.count() * static_cast<double>(all) / static_cast<double>(taken);
}

Result<Run> measure(const Settings& settings, const bench::GeneratedModel& generated, unsigned threads,
                    const kernels::RowKernels& kernels) {
  Run run;
  run.threads = threads;
  const fs::path state = fs::path(settings.folder) / "pipeline.state";
  for (const char* suffix : {"", "-wal", "-shm"}) fs::remove(state.string() + suffix);
  QF_ASSIGN(run.first_seconds, one_run(settings, generated, state, "", run, kernels));
  QF_ASSIGN(run.second_seconds, one_run(settings, generated, state, "again: ", run, kernels));
  if (settings.reference_share > 0) {
    if (const auto ggml = ReferenceLibrary::load()) {
      QF_ASSIGN(run.reference_seconds,
                timed(run.phases, "ggml", static_cast<double>(generated.elements),
                      [&] { return reference_run(settings, generated, threads, *ggml.value()); }));
      // Of a part of the tensors, scaled up to all.
      Phase& phase = run.phases.back();
      const double scale = *run.reference_seconds / phase.wall;
      phase.ready *= scale;
      phase.wall *= scale;
      phase.user *= scale;
      phase.system *= scale;
    }
  }
  return run;
}

void print(const Settings& settings, const Run& run) {
  fmt::print("\n{} thread{}\n{:<16} {:>9} {:>9} {:>9} {:>12} {:>9} {:>12} {:>12}\n", run.threads,
             run.threads == 1 ? "" : "s", "phase", "wall s", "user s", "system s", "Mweights/s", "ready",
             "anon MiB", "mapped MiB");
  for (const Phase& phase : run.phases)
    fmt::print("{:<16} {:>9.3f} {:>9.3f} {:>9.3f} {:>12.1f} {:>9.2f} {:>12.1f} {:>12.1f}\n", phase.name,
               phase.wall, phase.user, phase.system, 1e-6 * phase.weights / phase.wall,
               phase.wall < 0.1 ? 0.0 : phase.ready / phase.wall,
               static_cast<double>(phase.peak.anonymous) / (1 << 20),
               static_cast<double>(phase.peak.file) / (1 << 20));
  double first = 0;  // CPU seconds: what the machine's other work disturbs least
  double second = 0;
  double reference = 0;
  for (const Phase& phase : run.phases)
    (phase.name == "ggml"              ? reference
     : phase.name.starts_with("again") ? second
                                       : first) += phase.user + phase.system;
  for (const Phase& phase : run.phases)
    if (phase.name == "sample" && run.pairs != 0)
      fmt::print(
          "sampled {} rows, {:.1f} million weights, in up to {:.0f} formats: {:.3f} us of CPU per weight\n",
          run.rows_sampled, 1e-6 * static_cast<double>(run.weights_sampled),
          static_cast<double>(run.pairs) / static_cast<double>(run.weights_sampled),
          1e6 * (phase.user + phase.system) / static_cast<double>(run.weights_sampled));
  fmt::print("first run {:.2f} s, second run {:.2f} s; {:.4f} bpw, predicted error {:.6g}\n",
             run.first_seconds, run.second_seconds, run.bpw, run.predicted_error);
  if (run.reference_seconds) {
    fmt::print("ggml into {}, {} thread{}: {:.2f} s, {:.2f} times our first run, {:.2f} times our second\n",
               settings.reference_format, run.threads, run.threads == 1 ? "" : "s", *run.reference_seconds,
               *run.reference_seconds / run.first_seconds, *run.reference_seconds / run.second_seconds);
    fmt::print(
        "by CPU time: ggml {:.2f} s, {:.2f} times our first run ({:.2f} s), {:.2f} times our second ({:.2f} "
        "s)\n",
        reference, reference / first, first, reference / second, second);
  } else if (settings.reference_share > 0)
    fmt::print("no comparison: {}\n", quantfit::test::kReferenceLibraryAbsent);
}

nlohmann::json as_json(const Run& run) {
  nlohmann::json json = {{"threads", run.threads},
                         {"phases", run.phases},
                         {"first_run_seconds", run.first_seconds},
                         {"second_run_seconds", run.second_seconds},
                         {"rows_sampled", run.rows_sampled},
                         {"weights_sampled", run.weights_sampled},
                         {"weights_times_formats_sampled", run.pairs},
                         {"bpw", run.bpw},
                         {"predicted_error", run.predicted_error},
                         {"reference_seconds", nullptr}};
  if (run.reference_seconds) json["reference_seconds"] = *run.reference_seconds;
  return json;
}

int run_all(const Settings& settings) {
  const auto complain = [](const Error& error) {
    fmt::print(stderr, "pipeline: {}\n", error.message);
    return 1;
  };
  const auto kernels = kernels::default_kernels();
  if (!kernels) return complain(kernels.error());
  const auto generated =
      bench::generate_model(settings.folder, static_cast<std::uint64_t>(settings.weights), settings.sparse);
  if (!generated) return complain(generated.error());
  nlohmann::json document = {{"weights", generated.value().elements},
                             {"sparse", settings.sparse},
                             {"bpw", settings.bpw},
                             {"effort", settings.effort},
                             {"isa", kernels.value()->isa},
                             {"reference_format", settings.reference_format},
                             {"runs", nlohmann::json::array()}};
  if (!settings.json)
    fmt::print("{} weights{}, {} bpw, {} effort, {}\n", generated.value().elements,
               settings.sparse ? " (sparse)" : "", settings.bpw, settings.effort, kernels.value()->isa);
  for (const unsigned threads : settings.threads) {
    const auto run = measure(settings, generated.value(), threads, *kernels.value());
    if (!run) return complain(run.error());
    if (settings.json)
      document["runs"].push_back(as_json(run.value()));
    else
      print(settings, run.value());
  }
  if (settings.json) fmt::print("{}\n", document.dump(1));
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("Times the phases of a whole run of quantfit on a generated model");
  Settings settings;
  app.add_option("--weights", settings.weights, "Weights of the model, about")
      ->capture_default_str()
      ->check(CLI::Range(1e6, 1e12));
  app.add_option("--folder", settings.folder, "Where model, state file and output go")->capture_default_str();
  app.add_option("--bpw", settings.bpw, "Target in bits per weight")->capture_default_str();
  app.add_option("--threads", settings.threads, "Numbers of threads to run with, one after the other")
      ->delimiter(',')
      ->capture_default_str()
      ->check(CLI::Range(1, 1024));
  const auto is_format = [](const std::string& name) {
    const auto format = parse_format(name);
    return format && is_quantized(*format) ? std::string() : "'" + name + "' is not a quantized format";
  };
  app.add_option("--formats", settings.formats, "Formats to choose from; the default candidates when absent")
      ->delimiter(',')
      ->check(is_format);
  app.add_option("--effort", settings.effort, "Effort of the encoders")
      ->capture_default_str()
      ->check(CLI::IsMember({"fast", "default", "max"}));
  app.add_option("--reference-format", settings.reference_format, "What ggml encodes into")
      ->capture_default_str()
      ->check(is_format);
  app.add_option("--reference-share", settings.reference_share,
                 "Part of the tensors that ggml encodes, scaled up to all; 0 leaves ggml out")
      ->capture_default_str()
      ->check(CLI::Range(0.0, 1.0));
  app.add_flag("--sparse", settings.sparse,
               "Store few rows of each tensor, the rest as holes: for memory only");
  app.add_flag("--keep", settings.keep, "Leave the quantized file");
  app.add_flag("--json", settings.json, "One JSON document instead of text");
  app.footer("Exit codes: 0 done; 1 failure; 2 wrong usage");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }
  return run_all(settings);
}
