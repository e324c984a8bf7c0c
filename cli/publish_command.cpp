// `quantfit publish`: one measurement, many files, and what a hub wants beside them.
#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <filesystem>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>

#include "cli/commands.h"
#include "cli/exit_code.h"
#include "cli/job_options.h"
#include "cli/output_files.h"
#include "cli/report/frontier_report.h"
#include "cli/report/json.h"
#include "cli/report/model_card.h"
#include "cli/report/svg.h"
#include "cli/report/table.h"
#include "cli/report/text.h"
#include "cli/session.h"
#include "cli/sha256.h"
#include "cli/suggest.h"
#include "core/atomic_file.h"
#include "core/byte_size.h"
#include "core/file_util.h"
#include "core/progress.h"
#include "core/text.h"
#include "optimizer/job/curve.h"
#include "optimizer/job/evaluation.h"
#include "optimizer/llama_cpp/prune_layers.h"
#include "optimizer/llama_cpp/static_recipes.h"
#include "optimizer/output/model_writer.h"
#include "optimizer/output/recipe_io.h"

namespace quantfit::cli {
namespace {

namespace fs = std::filesystem;

// The largest file that hubs take.
constexpr std::string_view kMostBytesOfAFile = "50G";
constexpr std::uint64_t kMostBytesOfACard = std::uint64_t{1} << 24;
constexpr std::uint64_t kMostBytesOfACopy = std::uint64_t{1} << 36;

struct PublishOptions {
  JobOptions job;
  std::vector<std::string> sizes;
  std::string output;
  std::string name;
  std::string evaluate;
  bool force = false;
};

// One file to be made: how it is called, and the options that ask for it.
struct Wanted {
  std::string label;
  JobOptions job;
  std::string file;  // "Model-Q4_K_M.gguf"
};

// "Model" of "Model-F16.gguf", "model.bf16-00001-of-00002.gguf".
std::string base_name(const fs::path& model) {
  std::string stem = model_stem(model);
  for (const std::string_view ending :
       {"-f16", "-bf16", "-f32", ".f16", ".bf16", ".f32", "_f16", "_bf16", "_f32"})
    if (stem.size() > ending.size() && to_lower(stem).ends_with(ending)) {
      stem.resize(stem.size() - ending.size());
      break;
    }
  return stem;
}

// "Q4_K_M", "4.5bpw", "4.5", "23.5GiB".
Result<Wanted> wanted_of(const PublishOptions& options, const std::string& base, const std::string& size) {
  Wanted wanted;
  wanted.job = options.job;
  const std::string lower = to_lower(size);
  const bool bpw = lower.ends_with("bpw");
  const std::string number = bpw ? size.substr(0, size.size() - 3) : size;
  if (const optimizer::Preset* preset = optimizer::find_preset(size)) {
    wanted.label = preset->name;
    wanted.job.preset = preset->name;
  } else if (bpw || number.find_first_not_of("0123456789.") == std::string::npos) {
    auto budget = budget_for_bpw(8, number);
    if (!budget) return fail(ErrorCode::InvalidArgument, "--sizes: {}", budget.error().message);
    wanted.job.target_bpw = {number};
    // Two digits behind the point, as names on hubs have them, unless more were given.
    const std::size_t point = number.find('.');
    const std::size_t digits = point == std::string::npos ? 0 : number.size() - point - 1;
    wanted.label =
        digits > 2 ? number + "bpw" : fmt::format("{:.2f}bpw", std::strtod(number.c_str(), nullptr));
  } else if (auto bytes = parse_byte_size(size); bytes) {
    wanted.job.target_size = {size};
    wanted.label = size;
    std::erase(wanted.label, ' ');
  } else {
    return fail(ErrorCode::InvalidArgument,
                "--sizes: {} is no mixture (Q4_K_M), bits per weight (4.5bpw) or size (23.5GiB){}",
                printable(size), suggestion(size, preset_names()));
  }
  wanted.file = fmt::format("{}-{}.gguf", base, wanted.label);
  return wanted;
}

bool same_value(const GgufKeyValue* a, const GgufKeyValue& b) {
  return a != nullptr && a->type == b.type && a->count == b.count && a->bytes == b.bytes;
}

// The file is there already, whole, and was made from the same by the same recipe and encoders.
bool is_there(const fs::path& path, const optimizer::Solution& solution) {
  const auto model = Model::open(path);
  if (!model) return false;
  std::uint64_t bytes = 0;
  for (const GgufShard& shard : model.value().shards()) bytes += shard.file_bytes;
  if (bytes != solution.file_bytes) return false;
  return std::ranges::all_of(solution.keys, [&](const GgufKeyValue& key) {
    // Another target may have led to the same recipe; digests of tensors follow from the rest.
    return key.key == "quantfit.target" || key.key == optimizer::kTensorInputs ||
           key.key == optimizer::kTensorData || same_value(model.value().metadata().find(key.key), key);
  });
}

Result<void> put_text(const fs::path& path, const std::string& text) {
  return write_file_atomically(path, text, Existing::Replace);
}

class Publisher {
 public:
  Publisher(const PublishOptions& options, Console& console)
      : options_(options), console_(console), context_(console.context()), folder_(options.output) {}

  [[nodiscard]] Result<void> run() {
    QF_TRY(prepare());
    QF_TRY(refuse_early());
    QF_TRY(survey());
    for (const Wanted& wanted : wanted_) QF_TRY(make(wanted));
    std::ranges::stable_sort(card_.files, std::greater<>(), &PublishedFile::file_bytes);
    if (!options_.evaluate.empty()) QF_TRY(evaluate());
    QF_TRY(check_sums());
    return put_text(folder_ / "README.md", to_markdown(card_));
  }

  [[nodiscard]] const ModelCard& card() const { return card_; }
  [[nodiscard]] std::string state() const { return state_; }

 private:
  // What the options say, before any file is opened.
  Result<void> prepare() {
    const std::string base = options_.name.empty() ? base_name(options_.job.model) : options_.name;
    if (base.empty() || base.find('/') != std::string::npos)
      return fail(ErrorCode::InvalidArgument, "--name: {} is no name for files", printable(base));
    for (const std::string& size : options_.sizes) {
      QF_ASSIGN(Wanted wanted, wanted_of(options_, base, size));
      for (const Wanted& other : wanted_)
        if (other.file == wanted.file)
          return fail(ErrorCode::InvalidArgument, "--sizes: {} is given twice", wanted.label);
      wanted_.push_back(std::move(wanted));
    }
    QF_TRY(check_folder());
    // Beside the folder, not in it: it is of no use to others.
    state_ = options_.job.state;
    if (state_.empty()) state_ = fs::path(folder_ / "").parent_path().string() + ".qfstate";
    for (Wanted& wanted : wanted_) {
      wanted.job.state = state_;
      if (wanted.job.split_max_size.empty()) wanted.job.split_max_size = kMostBytesOfAFile;
    }
    card_.model = base;
    card_.command = console_.command();
    return outcome::success();
  }

  // A folder with somebody else's README or checksums is not ours to fill.
  Result<void> check_folder() const {
    std::error_code trouble;
    if (options_.force) return outcome::success();
    const fs::path card = folder_ / "README.md";
    if (fs::exists(card, trouble)) {
      const auto text = read_text_file(card, kMostBytesOfACard);
      if (text && text.value().find(kCardTag) != std::string::npos) return outcome::success();
      return fail(ErrorCode::InvalidArgument, "{} is not one of ours; --force replaces it", card.string());
    }
    for (const char* name : {"SHA256SUMS", "curve.svg"})
      if (fs::exists(folder_ / name, trouble))
        return fail(ErrorCode::InvalidArgument, "{} exists already; --force replaces it",
                    (folder_ / name).string());
    return outcome::success();
  }

  // From here on the folder is known as ours, even when this run is cut short.
  Result<void> claim_folder() const {
    std::error_code trouble;
    fs::create_directories(folder_ / "recipes", trouble);
    if (trouble) return fail(ErrorCode::Io, "{}: {}", (folder_ / "recipes").string(), trouble.message());
    if (fs::exists(folder_ / "README.md", trouble) && !options_.force) return outcome::success();
    return put_text(folder_ / "README.md",
                    fmt::format("---\ntags:\n{}---\n\nThese files are being made.\n", kCardTag));
  }

  // Everything that can be refused is refused before the first file is made.
  Result<void> refuse_early() {
    for (const Wanted& wanted : wanted_) {
      QF_TRY(check_targets(wanted.job));
      QF_ASSIGN(Session session, Session::open(wanted.job, true, context_));
      QF_TRY(session.check(context_));
      for (const optimizer::Budget& budget : session.job->budgets)
        if (!budget.feasible())
          return fail(ErrorCode::Infeasible,
                      "{} cannot be reached with this model; 'quantfit plan' tells the range", wanted.label);
    }
    return outcome::success();
  }

  // The one measurement, the curve, and llama.cpp's mixtures beside it.
  Result<void> survey() {
    QF_TRY(claim_folder());
    JobOptions all = options_.job;
    all.state = state_;
    QF_ASSIGN(Session session, Session::open(all, false, context_));
    const Model& model = session.inputs->model;
    card_.original = model.shards()[0].path.filename().string();
    card_.architecture = model.architecture();
    card_.elements = model.total_elements();
    console_.display().reads(session.source_bytes_per_weight());
    QF_TRY(session.check(context_));
    QF_TRY(session.measure(context_));
    statics_ = session.statics;
    QF_ASSIGN(const optimizer::ModelFrontier frontier,
              optimizer::model_frontier(*session.job, session.request));
    card_.picture = "curve.svg";
    QF_TRY(put_text(folder_ / card_.picture,
                    to_svg(make_frontier_report(model.total_elements(), frontier, session.statics,
                                                session.job->error_unit))));
    if (!session.inputs->importance) return outcome::success();
    // The matrix travels along; a copy that is the same stays.
    const fs::path from = session.inputs->importance->path();
    card_.importance = card_.model + ".imatrix" + from.extension().string();
    const fs::path to = folder_ / card_.importance;
    if (same_file(from, to)) return outcome::success();
    QF_ASSIGN(const std::string bytes, read_text_file(from, kMostBytesOfACopy));
    return put_text(to, bytes);
  }

  Result<void> make(const Wanted& wanted) {
    QF_ASSIGN(Session session, Session::open(wanted.job, true, context_));
    QF_TRY(session.check(context_));
    QF_TRY(session.measure(context_));
    const Model& model = session.inputs->model;
    QF_ASSIGN(optimizer::Solution solution,
              optimizer::choose(*session.inputs, *session.job, session.request, session.job->budgets.front(),
                                {context_.progress, context_.cancel}));
    QF_ASSIGN(const auto contest,
              session.run_candidates(session.job->budgets.front(), folder_, context_, solution));
    PublishedFile file;
    file.name = wanted.file;
    file.label = wanted.label;
    file.file_bytes = solution.file_bytes;
    file.answer = make_plan_report(model, *session.job, solution, statics_);
    if (contest) file.answer.candidates = candidate_reports(*contest);
    // Several files are in a folder of the name.
    QF_ASSIGN(const optimizer::OutputLayout layout,
              optimizer::output_layout(model, solution.recipe, session.inputs->importance_or_null(),
                                       solution.keys, session.request.split));
    const fs::path whole =
        layout.files.size() == 1 ? fs::path(wanted.file) : fs::path(wanted.file).stem() / wanted.file;
    for (std::size_t i = 0; i < layout.files.size(); ++i)
      file.parts.push_back(shard_path(whole, i, layout.files.size()).string());
    file.name = file.parts.front();
    const fs::path path = folder_ / file.name;
    std::error_code trouble;
    file.kept = fs::exists(path, trouble) && is_there(path, solution);
    if (file.kept) {
      context_.logger.log(LogLevel::Info, fmt::format("{} is there already", file.name));
    } else {
      for (const GgufShard& shard : model.shards())
        if (same_file(shard.path, path))
          return fail(ErrorCode::InvalidArgument, "{}: the output would replace the model it is made from",
                      path.string());
      if (fs::exists(path, trouble) && !options_.force)
        return fail(ErrorCode::InvalidArgument, "{} exists and is another file; --force replaces it",
                    path.string());
      optimizer::WriterOptions writer = optimizer::writer_options(*session.inputs, session.request);
      writer.keys = solution.keys;
      for (const PublishedFile& made : card_.files) writer.reuse.files.push_back(folder_ / made.name);
      writer.existing = options_.force ? Existing::Replace : Existing::Keep;
      fs::create_directories(path.parent_path(), trouble);
      if (trouble) return fail(ErrorCode::Io, "{}: {}", path.parent_path().string(), trouble.message());
      QF_ASSIGN(const optimizer::WriteSummary done,
                optimizer::write_model(model, session.inputs->importance_or_null(), solution.recipe,
                                       folder_ / whole, writer, *session.kernels, context_.progress,
                                       context_.cancel));
      for (const std::string& note : done.notes) context_.logger.log(LogLevel::Warning, note);
      session.remember_digest(done.source_digest, context_);
      context_.logger.log(LogLevel::Info,
                          fmt::format("wrote {}, {}", file.name, format_bytes(file.file_bytes)));
    }
    QF_ASSIGN(const std::string recipe, optimizer::to_recipe_text(solution.recipe, model.tensors()));
    QF_TRY(put_text(folder_ / "recipes" / fs::path(wanted.file).replace_extension(".txt"), recipe));
    card_.files.push_back(std::move(file));
    return outcome::success();
  }

  Result<void> evaluate() {
    TextOptions text = options_.job.text;
    text.texts = {options_.evaluate};
    text.token_ids.clear();
    text.chunks.reset();
    text.skip_chunks = 0;
    optimizer::EvaluationRequest request;
    QF_ASSIGN(request.text, make_text_request(text));
    QF_ASSIGN(request.options.run, make_run_options(text, options_.job.threads));
    std::vector<fs::path> paths;
    for (const PublishedFile& file : card_.files) paths.push_back(folder_ / file.name);
    QF_ASSIGN(Model base, Model::open(options_.job.model));
    std::vector<std::string> told_before;
    QF_ASSIGN(base, optimizer::prune_layers(std::move(base), options_.job.prune_layers, told_before));
    QF_ASSIGN(const optimizer::EvaluatedFiles evaluated,
              optimizer::evaluate_files(base, paths, request, {context_.progress, context_.cancel}));
    for (std::size_t i = 0; i < card_.files.size(); ++i) {
      const auto& figures = evaluated.files[i].figures;
      card_.files[i].divergence = figures.divergence.value;
      card_.files[i].divergence_error = figures.divergence_chunk_error;
      card_.files[i].same_top = figures.same_top.value;
    }
    card_.evaluated_on = fs::path(evaluated.text).filename().string();
    card_.chunks = evaluated.chunks;
    card_.context = evaluated.context;
    return outcome::success();
  }

  // In the form that sha256sum reads.
  Result<void> check_sums() {
    std::uint64_t total = 0;
    for (const PublishedFile& file : card_.files) total += file.file_bytes;
    const ProgressPhase phase(context_.progress, "checksums", total);
    const auto sum_of = [&](const std::string& name) {
      return sha256_of(folder_ / name, [&](std::uint64_t bytes) {
        context_.progress.advance(bytes, name);
        return !context_.cancel.cancelled();
      });
    };
    std::map<std::string, std::string> sums;
    for (PublishedFile& file : card_.files)
      for (const std::string& part : file.parts) {
        QF_ASSIGN(sums[part], sum_of(part));
        file.sha256.push_back(sums[part]);
      }
    if (!card_.importance.empty()) {
      QF_ASSIGN(sums[card_.importance], sum_of(card_.importance));
    }
    std::string text;
    for (const auto& [name, sum] : sums) text += fmt::format("{}  {}\n", sum, name);
    return put_text(folder_ / "SHA256SUMS", text);
  }

  const PublishOptions& options_;
  Console& console_;
  JobContext context_;
  fs::path folder_;
  std::string state_;
  std::vector<Wanted> wanted_;
  optimizer::StaticComparisons statics_;
  ModelCard card_;
};

nlohmann::ordered_json publish_document(const ModelCard& card, const std::string& folder) {
  nlohmann::ordered_json json = document_of("publish");
  json["folder"] = folder;
  if (!card.importance.empty()) json["importance"] = card.importance;
  json["files"] = nlohmann::ordered_json::array();
  for (const PublishedFile& file : card.files) {
    nlohmann::ordered_json row = {{"name", file.name},
                                  {"label", file.label},
                                  {"file_bytes", file.file_bytes},
                                  {"tensor_bytes", file.answer.tensor_bytes},
                                  {"bpw", file.answer.bpw},
                                  {"sha256", file.sha256.front()},
                                  {"kept", file.kept}};
    for (std::size_t i = 0; i < file.parts.size() && file.parts.size() > 1; ++i)
      row["parts"].push_back({{"name", file.parts[i]}, {"sha256", file.sha256[i]}});
    if (file.answer.predicted_error) row["predicted_error"] = *file.answer.predicted_error;
    row["error_unit"] = file.answer.error_unit;
    if (file.divergence)
      row["kl_divergence"] = {{"mean", *file.divergence},
                              {"standard_error_over_chunks", *file.divergence_error}};
    json["files"].push_back(std::move(row));
  }
  return json;
}

int run_publish(const PublishOptions& options, Console& console) {
  Publisher publisher(options, console);
  if (auto done = publisher.run(); !done) {
    const int status = console.fail(done.error());
    if (done.error().code == ErrorCode::Interrupted)
      console.tell(
          fmt::format("all measurements are in {}, finished files stay: the same command goes on there",
                      publisher.state()));
    return status;
  }
  const ModelCard& card = publisher.card();
  if (options.job.json) {
    console.print(document_text(publish_document(card, options.output)));
    return kDone;
  }
  Table table(
      {"file", "size", "bpw", card.evaluated_on.empty() ? "predicted error" : "KL divergence", "use"});
  for (const PublishedFile& file : card.files)
    table.add({file.name, format_bytes(file.file_bytes), fmt::format("{:.4f}", file.answer.bpw),
               file.divergence               ? fmt::format("{:.5f}", *file.divergence)
               : file.answer.predicted_error ? fmt::format("{:.5g}", *file.answer.predicted_error)
                                             : "unknown",
               use_of(file)});
  console.print(table.to_text() +
                fmt::format("\nin {}, with README.md, SHA256SUMS, recipes{} and the curve\n",
                            escaped(options.output),
                            card.importance.empty() ? "" : ", the importance matrix"));
  return kDone;
}

}  // namespace

Command make_publish_command() {
  auto options = std::make_shared<PublishOptions>();
  Command command;
  command.name = "publish";
  command.sentence = "Make a folder of files for a hub: many sizes, checksums, recipes, a model card";
  OptionTable& table = command.table;
  add_input_options(table, options->job);
  table.group("Files");
  table
      .add("--sizes", options->sizes, "LIST",
           "what to make, separated by commas: mixtures (Q4_K_M), bits per weight (3.5bpw), sizes (23.5GiB)")
      .needed()
      .split_at_commas();
  table.add("--output", options->output, "FOLDER", "folder for all of it").alias("-o").needed().folder();
  table.add("--name", options->name, "NAME", "what names of files begin with")
      .default_is("that of the model, without its format");
  table
      .add("--evaluate", options->evaluate, "TEXT",
           "measure the KL divergence of every file on this text, in chunks of --context")
      .file();
  table
      .add("--split-max-size", options->job.split_max_size, "SIZE",
           "larger ones are cut into files of at most this size, in a folder of their name")
      .default_is("50G, the most that hubs take");
  add_override_option(table, options->job);
  add_reuse_options(table, options->job);
  table.flag("--force", options->force,
             "replace files of these names that are others; never what is being read");
  add_calibration_options(table, options->job);
  add_objective_options(table, options->job);
  add_candidates_option(table, options->job);
  add_search_options(table, options->job);
  table.group("Output");
  table.flag("--json", options->job.json, "print one JSON document instead of text");
  add_console_options(table, *command.console);
  command.notes = {
      "What was measured is kept in a state file beside the folder; files that are there already and right "
      "stay as they "
      "are. So the same command continues after an interruption.",
      "  quantfit publish Model-F16.gguf --imatrix imatrix.gguf --sizes Q8_0,Q6_K,Q4_K_M,3.5bpw,2.5bpw -o "
      "Model-GGUF"};
  command.run = [options](Console& console) { return run_publish(*options, console); };
  return command;
}

}  // namespace quantfit::cli
