// Plans and frontiers from a state file, fast enough for a slider: models stay open with what is known about
// them, and answers that were given are kept as long as no file changed.
#pragma once

#include <atomic>
#include <cstdint>
#include <list>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>
#include <vector>

#include "cli/service/command_options.h"
#include "cli/service/http_message.h"
#include "cli/service/roots.h"
#include "core/progress.h"

namespace quantfit::service {

// Thread-safe: workers ask it. Nothing is measured and nothing is written.
class Planner {
 public:
  explicit Planner(const Roots& roots) : roots_(roots) {}
  ~Planner();

  // `command`: "plan" or "frontier"; `body`: its options as JSON. The document as text; NotMeasured where the
  // state file does not know enough, otherwise what the command line says.
  [[nodiscard]] Answer<Text> answer(std::string_view command, const std::string& body);

  // Ends what runs; for the end of the service.
  void stop() { stopped_.cancel(); }

  struct Figures {
    std::atomic<std::uint64_t> answers{0}, from_memory{0}, sessions_opened{0};
  };
  [[nodiscard]] const Figures& figures() const { return figures_; }

 private:
  // What a file was when it was looked at.
  struct Stamp {
    std::string path;
    bool exists = false;
    std::uint64_t device = 0, node = 0, bytes = 0;
    std::int64_t seconds = 0, nanoseconds = 0;
    friend bool operator==(const Stamp&, const Stamp&) = default;
  };
  using Stamps = std::vector<Stamp>;
  struct OpenModel;
  struct Kept {
    std::string question;
    Stamps stamps;
    Text answer;
  };

  [[nodiscard]] static Stamps look_at(const std::vector<std::string>& paths);
  [[nodiscard]] static bool unchanged(const Stamps& stamps);
  [[nodiscard]] Answer<std::shared_ptr<OpenModel>> open_model(const CommandOptions& options);
  [[nodiscard]] Answer<void> prepare(OpenModel& model, const CommandOptions& options);
  [[nodiscard]] Answer<Text> solve(OpenModel& model, const CommandOptions& options);
  [[nodiscard]] Text remembered(const std::string& question);
  void remember(std::string question, Stamps stamps, Text answer);

  const Roots& roots_;
  CancellationToken stopped_;
  Figures figures_;
  std::mutex lock_;                               // of what follows
  std::list<std::shared_ptr<OpenModel>> models_;  // the last used first
  std::list<Kept> answers_;                       // likewise
  std::unordered_map<std::string, std::list<Kept>::iterator> by_question_;
  std::size_t answer_bytes_ = 0;
};

}  // namespace quantfit::service
