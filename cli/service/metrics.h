// Figures about the service, for Prometheus.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <string>

#include "cli/service/planner.h"

namespace quantfit::service {

// Used by the thread of the sockets alone.
struct Metrics {
  std::map<unsigned, std::uint64_t> responses;  // by status
  std::uint64_t bytes_sent = 0;
  std::uint64_t connections = 0;          // open
  std::uint64_t connections_refused = 0;  // beyond the limit
  std::uint64_t streams = 0;              // open
  std::uint64_t requests_malformed = 0;
  std::uint64_t timeouts = 0;
  // Seconds until a reply was ready, cumulative counts per bound.
  static constexpr std::array kBounds = {0.001, 0.005, 0.02, 0.1, 0.5, 2.0, 10.0};
  std::array<std::uint64_t, kBounds.size()> answered_within{};
  std::uint64_t answered = 0;
  double answer_seconds = 0;

  void count_answer(double seconds);
};

// Of the jobs, asked for when figures are.
struct JobFigures {
  std::map<std::string, std::uint64_t> by_status;
};

// Text format 0.0.4.
[[nodiscard]] std::string prometheus_text(const Metrics& metrics, const Planner::Figures& plans,
                                          const JobFigures& jobs);

}  // namespace quantfit::service
