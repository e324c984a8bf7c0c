#include "cli/service/planner.h"

#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <optional>
#include <shared_mutex>
#include <utility>

#include "cli/report/frontier_report.h"
#include "cli/report/json.h"
#include "cli/report/plan_text.h"
#include "cli/run_command.h"
#include "cli/session.h"
#include "core/log.h"
#include "optimizer/job/budget.h"
#include "optimizer/job/curve.h"
#include "optimizer/job/provenance.h"
#include "optimizer/job/solve.h"
#include "optimizer/planning/knapsack_memory.h"

namespace quantfit::service {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::size_t kMostModels = 4;
constexpr std::size_t kMostBytesOfAnswers = std::size_t{64} << 20;

// Options that say how much room there is, and change nothing of what is known about a model: one open model
// serves all their values.
constexpr auto kOfTarget = std::to_array<std::string_view>(
    {"target-bpw",  "target-size",    "target-vram",       "target-ram",      "min-fill",
     "ctx-size",    "cache-type-k",   "cache-type-v",      "parallel",        "ubatch",
     "vram-margin", "cpu-moe",        "n-cpu-moe",         "override-tensor", "gpu-layers",
     "swa-full",    "split-max-size", "split-max-tensors", "points",          "threads"});

std::string key_of(const CommandOptions& options) {
  Json rest = options.options;
  for (const std::string_view key : kOfTarget) rest.erase(std::string(key));
  return nlohmann::json(rest).dump(-1, ' ', false, Json::error_handler_t::replace);  // keys in order
}

Problem not_measured(std::string sentence) {
  return problem(ProblemKind::NotMeasured, std::move(sentence),
                 "a job with the command plan or quantize and these options measures what is missing");
}

// The document says at its end what does the same in a shell.
void add_command_line(const CommandOptions& options, std::string& document) {
  std::vector<std::string> words = words_of(options);
  words.insert(words.begin(), "quantfit");
  words.emplace_back("--json");
  std::string member = cli::line_text(Json{{"command_line", cli::shell_text(words)}});
  document.resize(document.size() - 2);  // "}" and the line's end
  document += ',';
  document.append(member, 1);
}

}  // namespace

// A model with what its state file knows.
struct Planner::OpenModel {
  std::shared_mutex lock;  // shared by answers; alone while the model is opened
  std::string key;
  cli::JobOptions options;
  std::optional<cli::Session> session;
  std::optional<cli::PlanTexts> texts;  // about the session
  Stamps stamps;
};

Planner::~Planner() = default;

Planner::Stamps Planner::look_at(const std::vector<std::string>& paths) {
  Stamps stamps;
  for (const std::string& path : paths) {
    Stamp stamp;
    stamp.path = path;
    struct stat status {};
    stamp.exists = stat(path.c_str(), &status) == 0;
    if (stamp.exists) {
      stamp.device = status.st_dev;
      stamp.node = status.st_ino;
      stamp.bytes = static_cast<std::uint64_t>(status.st_size);
      stamp.seconds = status.st_mtim.tv_sec;
      stamp.nanoseconds = status.st_mtim.tv_nsec;
    }
    stamps.push_back(std::move(stamp));
  }
  return stamps;
}

bool Planner::unchanged(const Stamps& stamps) {
  std::vector<std::string> paths;
  for (const Stamp& stamp : stamps) paths.push_back(stamp.path);
  return look_at(paths) == stamps;
}

Text Planner::remembered(const std::string& question) {
  Stamps stamps;
  Text answer;
  {
    const std::scoped_lock guard(lock_);
    const auto found = by_question_.find(question);
    if (found == by_question_.end()) return nullptr;
    answers_.splice(answers_.begin(), answers_, found->second);
    stamps = found->second->stamps;
    answer = found->second->answer;
  }
  return unchanged(stamps) ? answer : nullptr;
}

void Planner::remember(std::string question, Stamps stamps, Text answer) {
  const std::scoped_lock guard(lock_);
  const auto forget = [&](std::list<Kept>::iterator kept) {
    answer_bytes_ -= kept->answer->size() + kept->question.size();
    by_question_.erase(kept->question);
    answers_.erase(kept);
  };
  if (const auto old = by_question_.find(question); old != by_question_.end()) forget(old->second);
  answer_bytes_ += answer->size() + question.size();
  answers_.push_front({question, std::move(stamps), std::move(answer)});
  by_question_[std::move(question)] = answers_.begin();
  while (answer_bytes_ > kMostBytesOfAnswers && answers_.size() > 1) forget(std::prev(answers_.end()));
}

Answer<Text> Planner::answer(std::string_view command, const std::string& body) {
  std::string question = std::string(command) + ' ' + body;
  ++figures_.answers;
  if (Text known = remembered(question)) {
    ++figures_.from_memory;
    return known;
  }
  const nlohmann::json parsed = nlohmann::json::parse(body, nullptr, false);
  if (parsed.is_discarded()) return problem(ProblemKind::InvalidArgument, "the body is no JSON");
  QF_ASSIGN(const CommandOptions options, read_options(roots_, command, parsed, OptionUse::Answer));
  QF_ASSIGN(const std::shared_ptr<OpenModel> model, open_model(options));
  std::shared_lock reading(model->lock);
  // Once: a job that writes the state file meanwhile would have it opened again and again.
  for (bool fresh = false; !model->session || (!fresh && !unchanged(model->stamps)); fresh = true) {
    reading.unlock();
    {
      const std::scoped_lock alone(model->lock);
      if (!model->session || !unchanged(model->stamps)) QF_TRY(prepare(*model, options));
    }
    reading.lock();
  }
  QF_ASSIGN(Text text, solve(*model, options));
  remember(std::move(question), model->stamps, text);
  return text;
}

Answer<std::shared_ptr<Planner::OpenModel>> Planner::open_model(const CommandOptions& options) {
  const std::string key = key_of(options);
  const std::scoped_lock guard(lock_);
  for (auto at = models_.begin(); at != models_.end(); ++at)
    if ((*at)->key == key) {
      models_.splice(models_.begin(), models_, at);
      return models_.front();
    }
  models_.push_front(std::make_shared<OpenModel>());
  models_.front()->key = key;
  if (models_.size() > kMostModels) models_.pop_back();
  return models_.front();
}

Answer<void> Planner::prepare(OpenModel& model, const CommandOptions& options) {
  model.texts.reset();
  model.session.reset();
  if (!roots_.exists(options.state))
    return not_measured(fmt::format("{}: there is no state file of this model yet", options.state.text));
  std::vector<std::string> paths = {options.model.text, options.state.text, options.state.text + "-wal"};
  if (!options.job.importance.empty() && options.job.importance != cli::kNoImportance)
    paths.push_back(options.job.importance);
  for (const std::string& file :
       {options.job.tensor_type_file, options.job.recipe, options.job.text.token_ids})
    if (!file.empty()) paths.push_back(file);
  for (const std::string& text : options.job.text.texts) paths.push_back(text);
  // Before anything is read: what changes meanwhile is seen by the next question.
  model.stamps = look_at(paths);
  model.options = options.job;
  const bool given = !options.job.preset.empty() || !options.job.recipe.empty();
  NoProgress progress;
  NoLogger logger;
  const cli::JobContext context{progress, logger, stopped_};
  ++figures_.sessions_opened;
  QF_ANSWER(model.session, cli::Session::open(model.options, given, context, cli::SessionMode::Recall));
  cli::Session& session = *model.session;
  auto known = session.check(context);
  if (known) known = session.measure(context);
  if (!known) {
    const Problem why = session.unmeasured ? not_measured(known.error().message) : problem_of(known.error());
    model.session.reset();
    return why;
  }
  session.inputs->store.reset();  // nothing is kept of what will be asked
  session.job->knapsacks = std::make_shared<optimizer::KnapsackMemory>();
  model.texts.emplace(session.inputs->model, *session.job, session.statics);
  return outcome::success();
}

Answer<Text> Planner::solve(OpenModel& model, const CommandOptions& options) {
  cli::Session& session = *model.session;
  const Model& file = session.inputs->model;
  const auto text_of = [&options](std::string document) {
    add_command_line(options, document);
    return std::make_shared<const std::string>(std::move(document));
  };
  if (options.command == "frontier") {
    QF_ANSWER(const optimizer::ModelFrontier frontier,
              optimizer::model_frontier(*session.job, session.request));
    const auto points = options.options.find("points");
    return text_of(cli::line_text(cli::to_json(
        cli::make_frontier_report(file.total_elements(), frontier, session.statics, session.job->error_unit),
        points == options.options.end() ? 0 : points->get<std::size_t>())));
  }
  optimizer::JobRequest request = session.request;
  {
    QF_ANSWER(const optimizer::JobRequest own, cli::make_request(options.job));
    request.min_fill = own.min_fill;
    request.split = own.split;
  }
  QF_ANSWER_TRY(cli::check_patterns(options.job, request, file.tensors()));
  std::vector<optimizer::Budget> budgets = session.job->budgets;  // of recipes that were given
  if (!session.with_targets) {
    QF_ANSWER(const auto targets, cli::make_targets(options.job, request, *session.inputs));
    for (const optimizer::Target& target : targets) {
      const auto keys =
          optimizer::provenance_keys(*session.inputs, request, target, session.job->error_unit, nullptr);
      QF_ANSWER(optimizer::Budget budget, optimizer::find_budget(*session.inputs, session.job->candidates,
                                                                 target, keys, request.split));
      budgets.push_back(std::move(budget));
    }
  }
  NoProgress progress;
  std::vector<optimizer::Solution> solutions;
  for (const optimizer::Budget& budget : budgets) {
    QF_ANSWER(optimizer::Solution solution,
              optimizer::choose(*session.inputs, *session.job, request, budget, {progress, stopped_}));
    solutions.push_back(std::move(solution));
  }
  return text_of(model.texts->line(solutions));
}

}  // namespace quantfit::service
