// How far a candidate's predictions are from the base model's: figures from scores of single positions.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace quantfit::calibration {

struct Estimate {
  double value = 0;
  double error = 0;  // standard error
};

// What one model predicted at one position: the token that follows there.
struct BaseScore {
  double log_loss = 0;  // -ln p(token), nats
};
struct CandidateScore {
  double log_loss = 0;
  double divergence = 0;              // sum over the vocabulary of p ln(p / q), p the base's: nats
  double probability_difference = 0;  // q(token) - p(token)
  bool same_top = false;              // the most probable token is the base's
};

// Shares in percent at which quantiles are reported, as this field's reports do.
inline constexpr std::array<double, 9> kQuantiles = {99.9, 99, 95, 90, 50, 10, 5, 1, 0.1};

// exp(mean log loss); the error by propagation from the spread over positions.
[[nodiscard]] Estimate perplexity(std::span<const BaseScore> scores);

struct DivergenceFigures {
  std::uint64_t positions = 0;
  Estimate perplexity;        // of the candidate
  Estimate log_ratio;         // ln(perplexity / perplexity of the base); errors are of paired differences
  Estimate perplexity_ratio;  // e^log_ratio
  double correlation = 0;     // of log losses of candidate and base over positions
  Estimate divergence;        // mean; the error takes positions as independent
  double divergence_chunk_error =
      0;  // standard error over chunk means: honest about what is alike in a chunk
  double divergence_max = 0;
  std::array<double, kQuantiles.size()> divergence_quantiles{};
  Estimate probability_difference;  // mean
  Estimate probability_rms;         // root of the mean square
  Estimate same_top;                // share of positions
};

// `base` and `candidate` of the same positions, `per_chunk` of them one after another in every chunk. The
// order of summation is that of positions.
[[nodiscard]] DivergenceFigures divergence_figures(std::span<const BaseScore> base,
                                                   std::span<const CandidateScore> candidate,
                                                   std::size_t per_chunk);

// Candidate a against b, chunk paired with chunk: what the text does to both cancels.
struct PairedComparison {
  Estimate difference;  // mean divergence of a minus that of b
  Estimate ratio;       // of means, a over b; first order from the spread of a_i - ratio * b_i over chunks
  double significance = 0;  // |difference| / error; 0 without an error

  // More than three standard errors apart.
  [[nodiscard]] bool decided() const { return significance > 3; }
};
[[nodiscard]] PairedComparison compare(std::span<const CandidateScore> a, std::span<const CandidateScore> b,
                                       std::size_t per_chunk);

}  // namespace quantfit::calibration
