// Text to token ids, the calibration text that ships with the program, one thread: ours beside the real
// client. Names: encode/<pre-tokenizer or model>/<ours|client>. bytes_per_second counts bytes of text.
// Vocabularies are generated (3000 merges, or 8000 scored tokens), and those of GGUF files that
// QUANTFIT_VOCABULARIES lists, separated by colons. Without the client's libraries (scripts/setup-client)
// only ours is timed.

#include <benchmark/benchmark.h>
#include <fmt/format.h>

#include <cstdlib>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "core/calibration_text/default_calibration_text.h"
#include "core/model.h"
#include "core/tokenizer/tokenizer.h"
#include "tests/client/llama_library.h"
#include "tests/support/generated_vocabulary.h"

namespace quantfit::test {
namespace {

void encode_ours(benchmark::State& state, const Tokenizer* tokenizer, std::string_view text) {
  std::size_t tokens = 0;
  for (auto _ : state) {
    const auto ids = tokenizer->encode(text);
    if (!ids) return state.SkipWithError(ids.error().message.c_str());
    tokens = ids.value().size();
    benchmark::DoNotOptimize(ids.value().data());
  }
  state.counters["tokens"] = static_cast<double>(tokens);
  state.SetBytesProcessed(static_cast<std::int64_t>(state.iterations() * text.size()));
}

void encode_client(benchmark::State& state, const LlamaVocabulary* client, std::string_view text) {
  std::size_t tokens = 0;
  for (auto _ : state) {
    const auto ids = client->tokenize(text, false, false);
    if (!ids) return state.SkipWithError(ids.error().message.c_str());
    tokens = ids.value().size();
    benchmark::DoNotOptimize(ids.value().data());
  }
  state.counters["tokens"] = static_cast<double>(tokens);
  state.SetBytesProcessed(static_cast<std::int64_t>(state.iterations() * text.size()));
}

void add(const std::string& name, const GgufMetadata& metadata) {
  // Benchmarks run after main() has begun and use these until the end.
  auto tokenizer = Tokenizer::from_metadata(metadata, name);
  if (!tokenizer) {
    fmt::print(stderr, "{}\n", tokenizer.error().message);
    return;
  }
  const auto* ours = new Tokenizer(std::move(tokenizer).value());
  benchmark::RegisterBenchmark(("encode/" + name + "/ours").c_str(), encode_ours, ours,
                               default_calibration_text());
  auto client = LlamaVocabulary::of(metadata);
  if (!client) {
    fmt::print(stderr, "{}\n", client.error().message);
    return;
  }
  const auto* theirs = new LlamaVocabulary(std::move(client).value());
  benchmark::RegisterBenchmark(("encode/" + name + "/client").c_str(), encode_client, theirs,
                               default_calibration_text());
}

[[maybe_unused]] const bool kRegistered = [] {
  const std::string_view text = default_calibration_text();
  GgufMetadata bytes = byte_pair_vocabulary("gpt-2", text, 3000);
  for (const char* pre : {"gpt-2", "default", "llama3", "qwen2", "gpt-4o", "deepseek-v3", "deepseek-llm",
                          "tekken", "kimi-k2", "superbpe"}) {
    bytes.set(GgufKeyValue::of_string("tokenizer.ggml.pre", pre));
    add(pre, bytes);
  }
  add("gemma4", byte_pair_vocabulary("gemma4", text, 3000, {}, false));
  add("llama", scored_vocabulary("llama", text, 8000));
  add("t5", scored_vocabulary("t5", text, 8000));
  std::string_view files =
      std::getenv("QUANTFIT_VOCABULARIES") == nullptr ? "" : std::getenv("QUANTFIT_VOCABULARIES");
  while (!files.empty()) {
    const std::string_view path = files.substr(0, files.find(':'));
    files.remove_prefix(std::min(files.size(), path.size() + 1));
    const auto model = Model::open(path, OpenMode::MetadataOnly);
    if (model)
      add(std::filesystem::path(path).filename().string(), model.value().metadata());
    else
      fmt::print(stderr, "{}\n", model.error().message);
  }
  return true;
}();

}  // namespace
}  // namespace quantfit::test
