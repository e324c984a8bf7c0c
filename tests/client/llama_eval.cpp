// llama_eval: perplexity and KL divergence of quantized models against their source, measured by llama.cpp.
#include <fmt/format.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "tests/client/evaluation.h"
#include "tests/client/llama_library.h"

namespace {

using namespace quantfit;
using namespace quantfit::test;

nlohmann::json to_json(const ModelScore& score, bool base) {
  nlohmann::json json = {{"path", score.path.string()},
                         {"description", score.description},
                         {"file_bytes", score.file_bytes},
                         {"perplexity", score.perplexity},
                         {"perplexity_error", score.perplexity_error},
                         {"seconds", score.seconds}};
  if (base) return json;
  json["kld"] = score.kld;
  json["kld_error_tokens"] = score.kld_error_tokens;
  json["kld_error_chunks"] = score.kld_error_chunks;
  json["kld_max"] = score.kld_max;
  json["kld_q99"] = score.kld_q99;
  json["top1_agreement"] = score.top1_agreement;
  json["kld_of_chunk"] = score.kld_of_chunk;
  return json;
}

// Which candidates are compared with each other, as indices.
std::vector<std::pair<std::size_t, std::size_t>> pairs_of(const std::string& kind, std::size_t count) {
  std::vector<std::pair<std::size_t, std::size_t>> pairs;
  if (kind == "first") {
    for (std::size_t i = 1; i < count; ++i) pairs.emplace_back(0, i);
  } else if (kind == "adjacent") {
    for (std::size_t i = 1; i < count; i += 2) pairs.emplace_back(i - 1, i);
  } else if (kind == "threes") {
    for (std::size_t i = 0; i + 1 < count; i += 3) {
      pairs.emplace_back(i, i + 1);
      if (i + 2 == count) break;
      pairs.emplace_back(i, i + 2);
      pairs.emplace_back(i + 1, i + 2);
    }
  } else if (kind == "all") {
    for (std::size_t i = 0; i < count; ++i)
      for (std::size_t j = i + 1; j < count; ++j) pairs.emplace_back(i, j);
  }
  return pairs;
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app(
      "Perplexity and KL divergence of quantized models against their source, measured by llama.cpp");
  std::filesystem::path base;
  std::vector<std::filesystem::path> candidates;
  std::filesystem::path text_file;
  EvaluationOptions options;
  std::string pairs = "first";
  bool json = false, quiet = false;
  app.add_option("base", base, "Model that candidates are compared with, usually F16")->required();
  app.add_option("candidates", candidates, "Quantized models; none for the base's perplexity alone");
  app.add_option("-f,--file", text_file, "Text to score")->required();
  app.add_option("-c,--ctx-size", options.context, "Tokens per chunk")->capture_default_str();
  app.add_option("-n,--chunks", options.chunks, "First chunks of the text; 0 for all")->capture_default_str();
  app.add_option("-j,--workers", options.workers, "Chunks that run at the same time")
      ->capture_default_str()
      ->check(CLI::Range(1, 256));
  app.add_option("-t,--threads", options.threads, "Threads of llama.cpp for each of them")
      ->capture_default_str()
      ->check(CLI::Range(1, 512));
  app.add_option(
         "--pairs", pairs,
         "Candidates compared with each other: every one with the first, 1-2 3-4 ..., among 1-3 4-6 ..., or "
         "all")
      ->capture_default_str()
      ->check(CLI::IsMember({"first", "adjacent", "threes", "all", "none"}));
  app.add_flag("--json", json, "One JSON document instead of tables");
  app.add_flag("-q,--quiet", quiet, "No progress");
  app.footer("Exit codes: 0 done; 1 failure; 2 wrong usage; 77 the llama.cpp libraries are not installed");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }

  const auto library = LlamaLibrary::load();
  if (!library) {
    fmt::print(stderr, "llama_eval: {}\n", library.error().message);
    return 77;
  }
  std::ifstream in(text_file, std::ios::binary);
  if (!in) {
    fmt::print(stderr, "llama_eval: cannot read {}\n", text_file.string());
    return 1;
  }
  const std::string text{std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
  if (!quiet && isatty(STDERR_FILENO) != 0) {
    options.progress = [](std::size_t done, std::size_t all) {
      fmt::print(stderr, "\rchunk {} of {}{}", done, all, done == all ? "\n" : "");
    };
  }
  const auto evaluated = evaluate(base, candidates, text, options);
  if (!evaluated) {
    fmt::print(stderr, "llama_eval: {}\n", evaluated.error().message);
    return 1;
  }
  const Evaluation& result = evaluated.value();

  if (json) {
    nlohmann::json document = {{"llama_cpp", library.value()->version()},
                               {"text", text_file.string()},
                               {"context", options.context},
                               {"tokens", result.tokens},
                               {"chunks", result.chunks},
                               {"positions", result.positions},
                               {"base", to_json(result.base, true)},
                               {"candidates", nlohmann::json::array()},
                               {"pairs", nlohmann::json::array()}};
    for (const ModelScore& score : result.candidates) document["candidates"].push_back(to_json(score, false));
    for (const auto& [a, b] : pairs_of(pairs, result.candidates.size())) {
      const PairedDifference difference = paired_difference(result.candidates[a], result.candidates[b]);
      document["pairs"].push_back({{"a", result.candidates[a].path.string()},
                                   {"b", result.candidates[b].path.string()},
                                   {"kld_difference", difference.difference},
                                   {"kld_difference_error", difference.difference_error},
                                   {"kld_ratio", difference.ratio},
                                   {"kld_ratio_error", difference.ratio_error}});
    }
    fmt::print("{}\n", document.dump(1));
    return 0;
  }

  fmt::print("llama.cpp {}, {}: {} tokens, {} chunks of {}, {} positions\n", library.value()->version(),
             text_file.filename().string(), result.tokens, result.chunks, options.context, result.positions);
  fmt::print("base {} ({}): PPL {:.4f} +/- {:.4f}, {:.1f} s\n", result.base.path.filename().string(),
             result.base.description, result.base.perplexity, result.base.perplexity_error,
             result.base.seconds);
  if (!result.candidates.empty()) {
    fmt::print("\n{:<36} {:>12} {:>9} {:>11} {:>9} {:>9} {:>9} {:>9} {:>7} {:>6}\n", "candidate", "bytes",
               "PPL", "mean KLD", "se token", "se chunk", "99 %", "max", "top-1 %", "s");
    for (const ModelScore& score : result.candidates) {
      fmt::print("{:<36} {:>12} {:>9.4f} {:>11.7f} {:>9.7f} {:>9.7f} {:>9.5f} {:>9.5f} {:>7.3f} {:>6.1f}\n",
                 score.path.filename().string(), score.file_bytes, score.perplexity, score.kld,
                 score.kld_error_tokens, score.kld_error_chunks, score.kld_q99, score.kld_max,
                 100 * score.top1_agreement, score.seconds);
    }
  }
  const auto compared = pairs_of(pairs, result.candidates.size());
  if (!compared.empty()) fmt::print("\npaired by chunk: mean KLD of a minus b, and a over b\n");
  for (const auto& [a, b] : compared) {
    const PairedDifference difference = paired_difference(result.candidates[a], result.candidates[b]);
    fmt::print("{} - {}: {:+.7f} +/- {:.7f}, ratio {:.4f} +/- {:.4f}\n",
               result.candidates[a].path.filename().string(), result.candidates[b].path.filename().string(),
               difference.difference, difference.difference_error, difference.ratio, difference.ratio_error);
  }
  return 0;
}
