#include "cli/service/metrics.h"

#include <fmt/format.h>
#include <unistd.h>

#include <cstdio>
#include <string_view>

namespace quantfit::service {
namespace {

void head(std::string& text, std::string_view name, std::string_view type, std::string_view help) {
  text += fmt::format("# HELP {0} {2}\n# TYPE {0} {1}\n", name, type, help);
}

void one(std::string& text, std::string_view name, std::string_view type, std::string_view help,
         std::uint64_t value) {
  head(text, name, type, help);
  text += fmt::format("{} {}\n", name, value);
}

// Nothing (0) where /proc is not there.
std::uint64_t resident_bytes() {
  std::FILE* const file = std::fopen("/proc/self/statm", "re");
  if (file == nullptr) return 0;
  unsigned long long size = 0, resident = 0;
  if (std::fscanf(file, "%llu %llu", &size, &resident) != 2) resident = 0;
  std::fclose(file);
  return resident * static_cast<std::uint64_t>(sysconf(_SC_PAGESIZE));
}

}  // namespace

void Metrics::count_answer(double seconds) {
  ++answered;
  answer_seconds += seconds;
  for (std::size_t i = 0; i < kBounds.size(); ++i)
    if (seconds <= kBounds[i]) ++answered_within[i];
}

std::string prometheus_text(const Metrics& metrics, const Planner::Figures& plans, const JobFigures& jobs) {
  std::string text;
  head(text, "quantfit_http_responses_total", "counter", "Responses by status.");
  for (const auto& [status, count] : metrics.responses)
    text += fmt::format("quantfit_http_responses_total{{status=\"{}\"}} {}\n", status, count);
  head(text, "quantfit_http_answer_seconds", "histogram", "Time until a reply was ready.");
  for (std::size_t i = 0; i < Metrics::kBounds.size(); ++i)
    text += fmt::format("quantfit_http_answer_seconds_bucket{{le=\"{}\"}} {}\n", Metrics::kBounds[i],
                        metrics.answered_within[i]);
  text += fmt::format("quantfit_http_answer_seconds_bucket{{le=\"+Inf\"}} {}\n", metrics.answered);
  text += fmt::format("quantfit_http_answer_seconds_sum {}\n", metrics.answer_seconds);
  text += fmt::format("quantfit_http_answer_seconds_count {}\n", metrics.answered);
  one(text, "quantfit_http_sent_bytes_total", "counter", "Bytes of replies.", metrics.bytes_sent);
  one(text, "quantfit_http_connections", "gauge", "Open connections.", metrics.connections);
  one(text, "quantfit_http_connections_refused_total", "counter", "Connections beyond the limit.",
      metrics.connections_refused);
  one(text, "quantfit_http_event_streams", "gauge", "Open event streams.", metrics.streams);
  one(text, "quantfit_http_malformed_total", "counter", "Requests that are no HTTP.",
      metrics.requests_malformed);
  one(text, "quantfit_http_timeouts_total", "counter", "Connections that took too long.", metrics.timeouts);
  one(text, "quantfit_plans_total", "counter", "Plans and frontiers answered.", plans.answers);
  one(text, "quantfit_plans_from_memory_total", "counter", "Of them, questions that were asked before.",
      plans.from_memory);
  one(text, "quantfit_plan_sessions_opened_total", "counter", "Models opened for plans.",
      plans.sessions_opened);
  head(text, "quantfit_jobs", "gauge", "Jobs by status.");
  for (const auto& [status, count] : jobs.by_status)
    text += fmt::format("quantfit_jobs{{status=\"{}\"}} {}\n", status, count);
  one(text, "process_resident_memory_bytes", "gauge", "Memory of the service, without its jobs.",
      resident_bytes());
  return text;
}

}  // namespace quantfit::service
