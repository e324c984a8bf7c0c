#include "tests/client/evaluation.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <numeric>

#include "tests/client/llama_library.h"

namespace quantfit::test {
namespace {

// Sums of one model over the positions scored so far.
struct Accumulator {
  double nll = 0;  // sum of -log p(token)
  double nll_square = 0;
  std::vector<float> kld;  // of every position
  std::vector<double> kld_of_chunk;
  std::size_t same_top = 0;
  double seconds = 0;
};

struct Normalized {
  double log_sum;   // log of the sum of exp(logit)
  std::size_t top;  // index of the largest logit
};

Normalized normalize(std::span<const float> logits) {
  const auto top = std::max_element(logits.begin(), logits.end());
  const double largest = *top;
  double sum = 0;
  for (const float logit : logits) sum += std::exp(static_cast<double>(logit) - largest);
  return {largest + std::log(sum), static_cast<std::size_t>(top - logits.begin())};
}

double mean_of(std::span<const double> values) {
  return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
}

// Standard error of the mean; zero for fewer than two values.
double error_of_mean(std::span<const double> values) {
  if (values.size() < 2) return 0;
  const double mean = mean_of(values);
  double square = 0;
  for (const double value : values) square += (value - mean) * (value - mean);
  const auto n = static_cast<double>(values.size());
  return std::sqrt(square / (n * (n - 1)));
}

ModelScore finish(Accumulator& sums, const std::filesystem::path& path, const LlamaModel& model,
                  std::size_t positions) {
  ModelScore score;
  score.path = path;
  score.description = model.description();
  std::error_code ignored;
  score.file_bytes = std::filesystem::file_size(path, ignored);
  const auto n = static_cast<double>(positions);
  const double nll = sums.nll / n;
  score.perplexity = std::exp(nll);
  const double variance = std::max(0.0, sums.nll_square / n - nll * nll);
  score.perplexity_error = positions > 1 ? score.perplexity * std::sqrt(variance / (n - 1)) : 0;
  score.seconds = sums.seconds;
  if (sums.kld.empty()) {  // the base model
    score.top1_agreement = 1;
    return score;
  }
  double sum = 0, square = 0;
  for (const double value : sums.kld) sum += value;
  score.kld = sum / n;
  for (const double value : sums.kld) square += (value - score.kld) * (value - score.kld);
  score.kld_error_tokens = positions > 1 ? std::sqrt(square / (n * (n - 1))) : 0;
  score.kld_of_chunk = std::move(sums.kld_of_chunk);
  score.kld_error_chunks = error_of_mean(score.kld_of_chunk);
  score.kld_max = *std::max_element(sums.kld.begin(), sums.kld.end());
  const auto rank = sums.kld.begin() + static_cast<std::ptrdiff_t>(std::ceil(0.99 * n) - 1);
  std::nth_element(sums.kld.begin(), rank, sums.kld.end());
  score.kld_q99 = *rank;
  score.top1_agreement = static_cast<double>(sums.same_top) / n;
  return score;
}

Result<void> timed_decode(LlamaModel& model, std::span<const Token> tokens, std::size_t first,
                          Accumulator& sums) {
  const auto start = std::chrono::steady_clock::now();
  QF_TRY(model.decode(tokens, first));
  // Logits are fetched inside the time: the library may compute them only when asked.
  if (model.logits(0).empty()) return fail(ErrorCode::Internal, "llama.cpp has no logits");
  sums.seconds += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return outcome::success();
}

}  // namespace

PairedDifference paired_difference(const ModelScore& a, const ModelScore& b) {
  PairedDifference result;
  const std::size_t chunks = std::min(a.kld_of_chunk.size(), b.kld_of_chunk.size());
  if (chunks == 0) return result;
  std::vector<double> spread(chunks);
  for (std::size_t i = 0; i < chunks; ++i) spread[i] = a.kld_of_chunk[i] - b.kld_of_chunk[i];
  result.difference = mean_of(spread);
  result.difference_error = error_of_mean(spread);
  if (b.kld > 0) {
    result.ratio = a.kld / b.kld;
    for (std::size_t i = 0; i < chunks; ++i) spread[i] = a.kld_of_chunk[i] - result.ratio * b.kld_of_chunk[i];
    result.ratio_error = error_of_mean(spread) / b.kld;
  }
  return result;
}

Result<Evaluation> evaluate(const std::filesystem::path& base,
                            std::span<const std::filesystem::path> candidates, std::string_view text,
                            const EvaluationOptions& options) {
  const std::size_t context = options.context;
  if (context < 4 || context % 2 != 0) {
    return fail(ErrorCode::InvalidArgument, "context of {} tokens; expected an even number, at least 4",
                context);
  }
  QF_ASSIGN(LlamaModel base_model, LlamaModel::open(base, options.context, options.threads));
  std::vector<LlamaModel> models;
  for (const std::filesystem::path& path : candidates) {
    QF_ASSIGN(LlamaModel model, LlamaModel::open(path, options.context, options.threads));
    if (model.vocabulary_size() != base_model.vocabulary_size()) {
      return fail(ErrorCode::InvalidArgument, "{} has {} tokens, {} has {}", path.string(),
                  model.vocabulary_size(), base.string(), base_model.vocabulary_size());
    }
    models.push_back(std::move(model));
  }
  QF_ASSIGN(const std::vector<Token> tokens, base_model.tokenize(text));

  Evaluation result;
  result.tokens = tokens.size();
  result.chunks = tokens.size() / context;
  if (options.chunks != 0) result.chunks = std::min(result.chunks, options.chunks);
  if (result.chunks == 0) {
    return fail(ErrorCode::InvalidArgument, "the text has {} tokens, a chunk {}", tokens.size(), context);
  }
  const std::size_t first = context / 2;
  const std::size_t scored = context - 1 - first;
  result.positions = result.chunks * scored;

  const std::size_t vocabulary = base_model.vocabulary_size();
  std::vector<double> log_p(vocabulary * scored);
  std::vector<double> p(vocabulary * scored);
  std::vector<std::size_t> top(scored);
  std::vector<Token> chunk(context);
  Accumulator base_sums;
  std::vector<Accumulator> sums(models.size());

  for (std::size_t c = 0; c < result.chunks; ++c) {
    std::copy_n(tokens.begin() + static_cast<std::ptrdiff_t>(c * context), context, chunk.begin());
    if (const auto beginning = base_model.beginning_token()) chunk[0] = *beginning;
    QF_TRY(timed_decode(base_model, chunk, first, base_sums));
    for (std::size_t i = 0; i < scored; ++i) {
      const std::span<const float> logits = base_model.logits(i);
      const Normalized norm = normalize(logits);
      if (!std::isfinite(norm.log_sum)) {
        return fail(ErrorCode::Malformed, "{}: logits of chunk {} are not finite", base.string(), c);
      }
      top[i] = norm.top;
      for (std::size_t t = 0; t < vocabulary; ++t) {
        const double value = logits[t] - norm.log_sum;
        log_p[i * vocabulary + t] = value;
        p[i * vocabulary + t] = std::exp(value);
      }
      const double nll = -log_p[i * vocabulary + static_cast<std::size_t>(chunk[first + i + 1])];
      base_sums.nll += nll;
      base_sums.nll_square += nll * nll;
    }
    for (std::size_t m = 0; m < models.size(); ++m) {
      Accumulator& sum = sums[m];
      QF_TRY(timed_decode(models[m], chunk, first, sum));
      double chunk_kld = 0;
      for (std::size_t i = 0; i < scored; ++i) {
        const std::span<const float> logits = models[m].logits(i);
        const Normalized norm = normalize(logits);
        if (!std::isfinite(norm.log_sum)) {
          return fail(ErrorCode::Malformed, "{}: logits of chunk {} are not finite", candidates[m].string(),
                      c);
        }
        double kld = 0;
        for (std::size_t t = 0; t < vocabulary; ++t) {
          kld += p[i * vocabulary + t] * (log_p[i * vocabulary + t] - (logits[t] - norm.log_sum));
        }
        kld = std::max(kld, 0.0);  // Gibbs; only rounding can make it negative
        const double nll = norm.log_sum - logits[static_cast<std::size_t>(chunk[first + i + 1])];
        sum.nll += nll;
        sum.nll_square += nll * nll;
        sum.kld.push_back(static_cast<float>(kld));
        sum.same_top += norm.top == top[i] ? 1U : 0U;
        chunk_kld += kld;
      }
      sum.kld_of_chunk.push_back(chunk_kld / static_cast<double>(scored));
    }
    if (options.progress) options.progress(c + 1, result.chunks);
  }

  result.base = finish(base_sums, base, base_model, result.positions);
  for (std::size_t m = 0; m < models.size(); ++m) {
    result.candidates.push_back(finish(sums[m], candidates[m], models[m], result.positions));
  }
  return result;
}

}  // namespace quantfit::test
