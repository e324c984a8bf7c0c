// What quantization does to a model: perplexity and KL divergence over held-out text,
// measured by llama.cpp itself.
//
// The text is cut into chunks of `context` tokens. The second half of each is scored as llama-perplexity
// does: positions context / 2 .. context - 2 predict the token after them (127 positions of a chunk of 256).
// With p the base model's distribution at a position and q the candidate's, KLD = sum p (log p - log q) in
// nats. Base and candidates run side by side, chunk by chunk, so no logits are kept: memory does not grow
// with the text.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/error.h"

namespace quantfit::test {

struct EvaluationOptions {
  std::uint32_t context = 256;  // tokens per chunk, even, at least 4
  std::size_t chunks = 0;       // first chunks of the text; 0 for all
  // Chunks that run at the same time, each in contexts of its own over the same weights. The scores do not
  // depend on it. More than one thread per context pays only for large models on an idle machine: llama.cpp's
  // threads wait for each other in a loop, and lose much where other programs run.
  int workers = 2;
  int threads = 1;  // of llama.cpp, per context
  // Called after every chunk with chunks done and chunks in all, one call at a time.
  std::function<void(std::size_t, std::size_t)> progress;
};

struct ModelScore {
  std::filesystem::path path;
  std::string description;  // as llama.cpp names the model
  std::uint64_t file_bytes = 0;
  double perplexity = 0;
  double perplexity_error = 0;  // standard error over tokens, as llama-perplexity prints it
  // Against the base model; zero for the base itself.
  double kld = 0;               // mean over positions, nats
  double kld_error_tokens = 0;  // standard error of the mean over positions, taken as independent
  double kld_error_chunks = 0;  // standard error over chunk means: honest about correlation within a chunk
  double kld_max = 0;
  double kld_q99 = 0;                  // 99 % quantile over positions
  double top1_agreement = 0;           // share of positions where the most probable token is the base model's
  std::vector<double> kld_of_chunk;    // mean of each chunk
  std::vector<float> kld_of_position;  // in the order of the text
  double seconds = 0;                  // spent in llama.cpp for this model
};

struct Evaluation {
  std::size_t tokens = 0;  // of the text
  std::size_t chunks = 0;  // scored
  std::size_t positions = 0;
  ModelScore base;
  std::vector<ModelScore> candidates;  // in the order given
};

// How two candidates differ, chunk paired with chunk.
struct PairedDifference {
  double difference = 0;  // mean KLD of a minus mean KLD of b
  double difference_error = 0;
  double ratio = 0;        // mean KLD of a over mean KLD of b
  double ratio_error = 0;  // first order, from the spread of a_i - ratio * b_i over chunks
};
[[nodiscard]] PairedDifference paired_difference(const ModelScore& a, const ModelScore& b);

// Errors of LlamaModel::open for any of the models; InvalidArgument when the text is shorter than a
// chunk or a candidate's vocabulary has another size than the base model's; Malformed when a
// model's logits are not finite.
[[nodiscard]] Result<Evaluation> evaluate(const std::filesystem::path& base,
                                          std::span<const std::filesystem::path> candidates,
                                          std::string_view text, const EvaluationOptions& options);

}  // namespace quantfit::test
