// The part of JobRunner that takes requests, shows jobs and what they made.
#include <fmt/format.h>
#include <sys/random.h>

#include <algorithm>
#include <array>
#include <ctime>
#include <optional>
#include <utility>

#include "cli/output_files.h"
#include "cli/run_command.h"
#include "cli/service/catalog.h"
#include "cli/service/command_options.h"
#include "cli/service/job_runner.h"
#include "core/digest.h"
#include "core/text.h"

namespace quantfit::service {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::uint64_t kUsualList = 100;
constexpr std::uint64_t kLongestList = 1000;
constexpr std::size_t kLongestKey = 255;
constexpr std::string_view kFolder = "results";

std::string new_id() {
  std::array<unsigned char, 8> bytes{};
  while (getrandom(bytes.data(), bytes.size(), 0) != static_cast<ssize_t>(bytes.size())) {
  }
  return fmt::format("{:02x}", fmt::join(bytes, ""));
}

bool is_id(std::string_view text) {
  return text.size() == 16 && text.find_first_not_of("0123456789abcdef") == std::string_view::npos;
}

// How the target of a job is called in the names of its files; empty for several targets, which name
// themselves.
std::string label_of(const CommandOptions& options) {
  const cli::JobOptions& job = options.job;
  if (job.target_bpw.size() + job.target_size.size() > 1) return "";
  std::string label = "fit";
  if (!job.target_bpw.empty()) label = job.target_bpw.front() + "bpw";
  if (!job.target_size.empty()) label = job.target_size.front();
  if (!job.preset.empty()) label = job.preset;
  std::erase_if(label, [](char letter) {
    return !((letter >= '0' && letter <= '9') || (letter >= 'a' && letter <= 'z') ||
             (letter >= 'A' && letter <= 'Z') || letter == '.' || letter == '_');
  });
  return '-' + label;
}

// The files that a job makes where nobody says otherwise.
void add_usual_outputs(CommandOptions& options) {
  const auto add = [&](std::string option, std::string name) {
    const auto given =
        std::ranges::find(options.outputs, option, &std::pair<std::string, std::string>::first);
    if (given == options.outputs.end()) options.outputs.emplace_back(std::move(option), std::move(name));
  };
  const std::string stem = cli::model_stem(options.model.path);
  if (options.command == "calibrate") add("--output", stem + ".imatrix.gguf");
  if (options.command == "tune") add("--output", cli::model_stem(options.quantized.path) + "-tuned.gguf");
  if (options.command != "quantize") return;
  add("--output", stem + label_of(options) + ".gguf");
  add("--export-recipe", "recipe.txt");
  add("--report", "report.html");
}

Problem not_there(std::string_view id) {
  return problem(ProblemKind::NotFound, fmt::format("there is no job {}", printable(id)));
}

}  // namespace

Answer<JobRecord> JobRunner::find(const std::string& id) {
  if (!is_id(id)) return not_there(id);
  QF_ANSWER(auto job, store_.find(id));
  if (!job) return not_there(id);
  return std::move(*job);
}

JobRunner::Places JobRunner::places() {
  Places places;
  if (const auto all = store_.unfinished())
    for (const JobRecord& job : all.value())
      if (job.status == JobStatus::Queued) places.emplace(job.id, places.size() + 1);
  return places;
}

Json JobRunner::to_json(const JobRecord& job, const Places& places) {
  Json json = {{"id", job.id},
               {"command", job.command},
               {"options", Json::parse(job.given, nullptr, false)},
               {"status", to_string(job.status)}};
  if (job.stopping) json["stopping"] = true;
  if (const auto place = places.find(job.id); place != places.end()) json["position"] = place->second;
  json["created"] = time_text(job.created);
  if (job.started != 0) json["started"] = time_text(job.started);
  if (job.finished != 0) json["finished"] = time_text(job.finished);
  json["attempts"] = job.attempts;
  if (!job.state.empty()) json["state"] = job.state;
  std::vector<std::string> words = job_words(job);
  words.insert(words.begin(), "quantfit");
  json["command_line"] = cli::shell_text(words);
  if (Json progress = progress_of(job.id); !progress.is_null()) json["progress"] = std::move(progress);
  if (job.exit_status) json["exit_status"] = *job.exit_status;
  if (!job.problem.empty()) json["problem"] = Json::parse(job.problem, nullptr, false);
  if (job.status == JobStatus::Done) {
    json["results"] = service::to_json(results_of(roots_, job), job.id);
  }
  return json;
}

Answer<JobRunner::Created> JobRunner::create(const std::string& body, const std::string& key) {
  if (key.size() > kLongestKey || !is_utf8(key) || key != escaped(key))
    return problem(ProblemKind::InvalidArgument,
                   fmt::format("Idempotency-Key: at most {} plain letters are expected", kLongestKey));
  const nlohmann::json request = nlohmann::json::parse(body, nullptr, false);
  if (!request.is_object() || !request.contains("command") || !request["command"].is_string() ||
      !request.contains("options") || request.size() != 2)
    return problem(ProblemKind::InvalidArgument,
                   "a JSON object with the members command and options is expected");
  const std::string command = request["command"];
  if (const auto known = job_commands(); std::ranges::find(known, command) == known.end())
    return problem(ProblemKind::InvalidArgument, fmt::format("there is no job {}; there are {}",
                                                             printable(command), fmt::join(known, ", ")));
  Digest digest;
  digest.text(request.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace));
  if (!key.empty()) {
    QF_ANSWER(const auto before, store_.by_key(key));
    if (before && before->digest != digest.hex())
      return problem(ProblemKind::KeyReused, "another request had this Idempotency-Key");
    if (before) {
      QF_ASSIGN(Json job, show(before->job));
      return Created{std::move(job), true};
    }
  }
  QF_ASSIGN(CommandOptions options, read_options(roots_, command, request["options"], OptionUse::Job));
  add_usual_outputs(options);
  JobRecord job;
  job.id = new_id();
  job.command = command;
  job.given = request["options"].dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  job.state = options.state.text;
  job.created = static_cast<std::int64_t>(std::time(nullptr));
  // Threads and memory are shared out.
  const auto threads = options.options.find("threads");
  if (threads == options.options.end() || options.job.threads > shares_.threads)
    options.options["threads"] = shares_.threads;
  if (shares_.memory_bytes != 0) options.options["memory"] = std::to_string(shares_.memory_bytes);
  job.options = options.options.dump(-1, ' ', false, Json::error_handler_t::replace);
  Json outputs = Json::array();
  for (const auto& [option, name] : options.outputs) outputs.push_back({option, name});
  job.outputs = outputs.dump(-1, ' ', false, Json::error_handler_t::replace);
  if (options.state.root != nullptr && !options.state.root->writable)
    return problem(ProblemKind::Forbidden,
                   fmt::format("{}: the root of the state file is for reading only", options.state.text));
  if (const std::size_t slash = options.state.path.rfind('/');
      options.state.root != nullptr && slash != std::string::npos)
    QF_TRY(roots_.make_folder(*options.state.root, options.state.path.substr(0, slash)));
  if (!options.outputs.empty()) {
    const Root* const root = options.model.root->writable ? options.model.root : roots_.writable();
    if (root == nullptr)
      return problem(ProblemKind::Forbidden,
                     "no root may be written to: there is no place for what the job makes");
    job.folder = fmt::format("{}/{}/{}", root->name, kFolder, job.id);
    QF_TRY(roots_.make_folder(*root, fmt::format("{}/{}", kFolder, job.id)));
  }
  if (auto inserted = store_.insert(job, key, digest.hex()); !inserted) {
    if (!job.folder.empty())
      if (auto name = roots_.parse(job.folder))
        (void)roots_.remove_folder(*name.value().root, name.value().path);
    return problem_of(inserted.error());
  }
  tell(job);
  fill();
  QF_ASSIGN(Json shown, show(job.id));
  return Created{std::move(shown), false};
}

Answer<Json> JobRunner::show(const std::string& id) {
  QF_ASSIGN(const JobRecord job, find(id));
  return to_json(job);
}

Answer<Json> JobRunner::list(const std::string& status, const std::string& before, const std::string& limit) {
  std::optional<JobStatus> wanted;
  if (!status.empty()) {
    wanted = parse_job_status(status);
    if (!wanted)
      return problem(
          ProblemKind::InvalidArgument,
          fmt::format("status: {} is none of queued, running, done, failed, cancelled", printable(status)));
  }
  const auto count = limit.empty() ? std::optional(kUsualList) : parse_whole_number(limit);
  if (!count || *count == 0 || *count > kLongestList)
    return problem(ProblemKind::InvalidArgument,
                   fmt::format("limit: {} is no whole number from 1 to {}", printable(limit), kLongestList));
  std::int64_t sequence = 0;
  if (!before.empty()) {
    QF_ASSIGN(const JobRecord job, find(before));
    sequence = job.sequence;
  }
  QF_ANSWER(const std::vector<JobRecord> jobs, store_.list(wanted, sequence, *count));
  Json json;
  json["jobs"] = Json::array();
  const Places queued = places();
  for (const JobRecord& job : jobs) json["jobs"].push_back(to_json(job, queued));
  return json;
}

Answer<void> JobRunner::remove(const std::string& id) {
  QF_ASSIGN(const JobRecord job, find(id));
  if (!job.is_over())
    return problem(ProblemKind::Conflict,
                   fmt::format("the job is {}: cancel it first", to_string(job.status)));
  if (!job.folder.empty()) {
    const auto name = roots_.parse(job.folder);
    // A root that is not given any more keeps its files.
    if (name) QF_TRY(roots_.remove_folder(*name.value().root, name.value().path));
  }
  QF_ANSWER_TRY(store_.remove(id));
  events_.forget(id);
  return outcome::success();
}

Answer<Json> JobRunner::results(const std::string& id) {
  QF_ASSIGN(const JobRecord job, find(id));
  Json json;
  json["results"] = service::to_json(
      job.status == JobStatus::Done ? results_of(roots_, job) : std::vector<JobResult>(), id);
  return json;
}

Answer<Response> JobRunner::result(const std::string& id, const std::string& name, const Request& request) {
  QF_ASSIGN(const JobRecord job, find(id));
  if (job.status == JobStatus::Done)
    for (const JobResult& result : results_of(roots_, job)) {
      if (result.name != name) continue;
      if (!result.file.empty()) return file_response(roots_, result, request);
      QF_ANSWER(std::string answer, store_.answer(id));
      return text_response(200, "application/json", std::move(answer));
    }
  return problem(ProblemKind::NotFound, fmt::format("the job made no {}", printable(name)));
}

std::map<std::string, std::uint64_t> JobRunner::counts() {
  auto counts = store_.counts();
  return counts ? std::move(counts).value() : std::map<std::string, std::uint64_t>();
}

}  // namespace quantfit::service
