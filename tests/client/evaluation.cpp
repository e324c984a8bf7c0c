#include "tests/client/evaluation.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <mutex>
#include <numeric>
#include <optional>
#include <thread>

#include "tests/client/llama_library.h"

namespace quantfit::test {
namespace {

// One model on one chunk.
struct ChunkScore {
  double nll = 0;  // sum of -log p(token) over the scored positions
  double nll_square = 0;
  std::vector<float> kld;  // of every scored position; empty for the base model
  double kld_sum = 0;
  std::size_t same_top = 0;
  double seconds = 0;
};

// One worker's contexts and buffers.
struct Worker {
  LlamaModel base;
  std::vector<LlamaModel> candidates;
  std::vector<double> p, log_p;  // scored positions x vocabulary, of the base model
  std::vector<std::size_t> top;  // most probable token of the base model
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

// `chunks`: every chunk's scores, element `index` of which belongs to the model.
ModelScore finish(const std::vector<std::vector<ChunkScore>>& chunks, std::size_t index,
                  const std::filesystem::path& path, const LlamaModel& model, std::size_t scored) {
  ModelScore score;
  score.path = path;
  score.description = model.description();
  std::error_code ignored;
  score.file_bytes = std::filesystem::file_size(path, ignored);
  const auto n = static_cast<double>(chunks.size() * scored);
  double nll = 0, nll_square = 0;
  std::size_t same_top = 0;
  std::vector<double> kld;
  for (const std::vector<ChunkScore>& chunk : chunks) {
    nll += chunk[index].nll;
    nll_square += chunk[index].nll_square;
    same_top += chunk[index].same_top;
    score.seconds += chunk[index].seconds;
    kld.insert(kld.end(), chunk[index].kld.begin(), chunk[index].kld.end());
    if (!chunk[index].kld.empty())
      score.kld_of_chunk.push_back(chunk[index].kld_sum / static_cast<double>(scored));
  }
  nll /= n;
  score.perplexity = std::exp(nll);
  score.perplexity_error =
      n > 1 ? score.perplexity * std::sqrt(std::max(0.0, nll_square / n - nll * nll) / (n - 1)) : 0;
  if (kld.empty()) {  // the base model
    score.top1_agreement = 1;
    return score;
  }
  score.kld = mean_of(score.kld_of_chunk);
  score.kld_error_tokens = error_of_mean(kld);
  score.kld_error_chunks = error_of_mean(score.kld_of_chunk);
  score.kld_of_position.assign(kld.begin(), kld.end());
  score.kld_max = *std::max_element(kld.begin(), kld.end());
  const auto rank = kld.begin() + static_cast<std::ptrdiff_t>(std::ceil(0.99 * n) - 1);
  std::nth_element(kld.begin(), rank, kld.end());
  score.kld_q99 = *rank;
  score.top1_agreement = static_cast<double>(same_top) / n;
  return score;
}

Result<void> timed_decode(LlamaModel& model, std::span<const Token> tokens, std::size_t first,
                          ChunkScore& score) {
  const auto start = std::chrono::steady_clock::now();
  QF_TRY(model.decode(tokens, first));
  // Logits are fetched inside the time: the library may compute them only when asked.
  if (model.logits(0).empty()) return fail(ErrorCode::Internal, "llama.cpp has no logits");
  score.seconds += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return outcome::success();
}

// Scores one chunk with the base (element 0 of the result) and every candidate.
Result<std::vector<ChunkScore>> score_chunk(Worker& worker, std::span<const Token> text) {
  const std::size_t first = text.size() / 2;
  const std::size_t scored = text.size() - 1 - first;
  const std::size_t vocabulary = worker.base.vocabulary_size();
  std::vector<Token> chunk(text.begin(), text.end());
  if (const auto beginning = worker.base.beginning_token()) chunk[0] = *beginning;

  std::vector<ChunkScore> scores(1 + worker.candidates.size());
  worker.p.resize(scored * vocabulary);
  worker.log_p.resize(scored * vocabulary);
  worker.top.resize(scored);
  QF_TRY(timed_decode(worker.base, chunk, first, scores[0]));
  for (std::size_t i = 0; i < scored; ++i) {
    const std::span<const float> logits = worker.base.logits(i);
    const Normalized norm = normalize(logits);
    if (!std::isfinite(norm.log_sum))
      return fail(ErrorCode::Malformed, "the base model's logits are not finite");
    worker.top[i] = norm.top;
    double* p = worker.p.data() + i * vocabulary;
    double* log_p = worker.log_p.data() + i * vocabulary;
    for (std::size_t t = 0; t < vocabulary; ++t) {
      log_p[t] = logits[t] - norm.log_sum;
      p[t] = std::exp(log_p[t]);
    }
    const double nll = -log_p[static_cast<std::size_t>(chunk[first + i + 1])];
    scores[0].nll += nll;
    scores[0].nll_square += nll * nll;
  }
  for (std::size_t m = 0; m < worker.candidates.size(); ++m) {
    ChunkScore& score = scores[1 + m];
    QF_TRY(timed_decode(worker.candidates[m], chunk, first, score));
    for (std::size_t i = 0; i < scored; ++i) {
      const std::span<const float> logits = worker.candidates[m].logits(i);
      const Normalized norm = normalize(logits);
      if (!std::isfinite(norm.log_sum)) {
        return fail(ErrorCode::Malformed, "the logits of candidate {} are not finite", m + 1);
      }
      const double* p = worker.p.data() + i * vocabulary;
      const double* log_p = worker.log_p.data() + i * vocabulary;
      double kld = 0;
      for (std::size_t t = 0; t < vocabulary; ++t) kld += p[t] * (log_p[t] - (logits[t] - norm.log_sum));
      kld = std::max(kld, 0.0);  // Gibbs; only rounding can make it negative
      const double nll = norm.log_sum - logits[static_cast<std::size_t>(chunk[first + i + 1])];
      score.nll += nll;
      score.nll_square += nll * nll;
      score.kld.push_back(static_cast<float>(kld));
      score.kld_sum += kld;
      score.same_top += norm.top == worker.top[i] ? 1U : 0U;
    }
  }
  return scores;
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
  QF_ASSIGN(const std::vector<Token> tokens, base_model.tokenize(text));
  Evaluation result;
  result.tokens = tokens.size();
  result.chunks = tokens.size() / context;
  if (options.chunks != 0) result.chunks = std::min(result.chunks, options.chunks);
  if (result.chunks == 0) {
    return fail(ErrorCode::InvalidArgument, "the text has {} tokens, a chunk {}", tokens.size(), context);
  }
  const std::size_t scored = context - 1 - context / 2;
  result.positions = result.chunks * scored;

  std::vector<Worker> workers;
  workers.push_back(Worker{std::move(base_model), {}, {}, {}, {}});
  for (const std::filesystem::path& path : candidates) {
    QF_ASSIGN(LlamaModel model, LlamaModel::open(path, options.context, options.threads));
    const std::size_t vocabulary = workers[0].base.vocabulary_size();
    if (model.vocabulary_size() != vocabulary) {
      return fail(ErrorCode::InvalidArgument, "{} has {} tokens, {} has {}", path.string(),
                  model.vocabulary_size(), base.string(), vocabulary);
    }
    workers[0].candidates.push_back(std::move(model));
  }
  const auto worker_count =
      std::clamp<std::size_t>(static_cast<std::size_t>(std::max(options.workers, 1)), 1, result.chunks);
  while (workers.size() < worker_count) {
    QF_ASSIGN(LlamaModel model, workers[0].base.another_context());
    Worker worker{std::move(model), {}, {}, {}, {}};
    for (const LlamaModel& candidate : workers[0].candidates) {
      QF_ASSIGN(LlamaModel copy, candidate.another_context());
      worker.candidates.push_back(std::move(copy));
    }
    workers.push_back(std::move(worker));
  }

  // Chunks are taken in order by whoever is free; their scores are summed in order at the end.
  std::vector<std::vector<ChunkScore>> scores(result.chunks);
  std::atomic<std::size_t> next{0};
  std::mutex mutex;  // guards done and failure, and orders the calls of progress
  std::size_t done = 0;
  std::optional<Error> failure;
  const auto run = [&](Worker& worker) {
    for (std::size_t c = next++; c < result.chunks; c = next++) {
      auto chunk = score_chunk(worker, std::span(tokens).subspan(c * context, context));
      const std::lock_guard lock(mutex);
      if (!chunk) {
        if (!failure) failure = fail(chunk.error().code, "chunk {}: {}", c, chunk.error().message);
        next = result.chunks;
        return;
      }
      scores[c] = std::move(chunk).value();
      ++done;
      if (options.progress) options.progress(done, result.chunks);
    }
  };
  {
    std::vector<std::jthread> threads;
    for (std::size_t w = 1; w < workers.size(); ++w) threads.emplace_back([&, w] { run(workers[w]); });
    run(workers[0]);
  }
  if (failure) return *failure;

  result.base = finish(scores, 0, base, workers[0].base, scored);
  for (std::size_t m = 0; m < candidates.size(); ++m) {
    result.candidates.push_back(finish(scores, 1 + m, candidates[m], workers[0].candidates[m], scored));
  }
  return result;
}

}  // namespace quantfit::test
