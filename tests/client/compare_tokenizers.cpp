#include "tests/client/compare_tokenizers.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/text.h"
#include "core/tokenizer/pre_tokenizers.h"
#include "core/tokenizer/tokenizer.h"
#include "tests/client/llama_library.h"
#include "tests/support/generated_vocabulary.h"

namespace quantfit::test {
namespace {

// The bytes that our tokens up to `count` stand for, and some of what follows.
std::string around(const Tokenizer& tokenizer, std::span<const TokenId> tokens, std::size_t count) {
  const std::size_t first = count > 8 ? count - 8 : 0;
  const auto part = tokens.subspan(first, std::min<std::size_t>(tokens.size() - first, 16));
  const auto text = tokenizer.decode(part);
  return text ? escaped(text.value()) : text.error().message;
}

}  // namespace

Result<TokenizerComparison> compare_tokenizers(const GgufMetadata& metadata, std::string_view text) {
  QF_ASSIGN(const Tokenizer tokenizer, Tokenizer::from_metadata(metadata, "generated"));
  QF_ASSIGN(const LlamaVocabulary client, LlamaVocabulary::of(metadata));
  TokenizerComparison result;
  for (const bool add_special : {false, true}) {
    for (const bool parse_special : {false, true}) {
      QF_ASSIGN(const auto ours,
                tokenizer.encode(text, {.add_special = add_special, .parse_special = parse_special}));
      QF_ASSIGN(const auto theirs, client.tokenize(text, add_special, parse_special));
      result.tokens += ours.size();
      const auto [a, b] = std::mismatch(ours.begin(), ours.end(), theirs.begin(), theirs.end(),
                                        [](TokenId x, Token y) { return x == static_cast<TokenId>(y); });
      if (a == ours.end() && b == theirs.end()) continue;
      const auto at = static_cast<std::size_t>(a - ours.begin());
      const std::vector<TokenId> client_ids(theirs.begin(), theirs.end());
      result.difference = fmt::format(
          "add_special {}, parse_special {}: token {} of {} (client: {}) differs; ours: \"{}\", client's: "
          "\"{}\"",
          add_special, parse_special, at, ours.size(), theirs.size(), around(tokenizer, ours, at),
          around(tokenizer, client_ids, at));
      return result;
    }
  }
  return result;
}

std::vector<NamedVocabulary> vocabularies_of_every_kind(std::string_view training) {
  const std::vector<ExtraToken> extra = {{"<|im_start|>", 3}, {"<|im_end|>", 3}, {"<tool>", 4},  {"{{", 4},
                                         {"  \n", 4},         {"[unknown]", 2},  {"[unused]", 5}};
  constexpr std::size_t kMerges = 600;
  std::vector<NamedVocabulary> result;
  // Merges depend on the training text alone: those of one vocabulary serve all of its kind.
  GgufMetadata bytes = byte_pair_vocabulary("default", training, kMerges, extra);
  GgufMetadata characters = byte_pair_vocabulary("gemma4", training, kMerges, extra, false);
  for (GgufMetadata* metadata : {&bytes, &characters}) {
    metadata->set(GgufKeyValue::of_uint32("tokenizer.ggml.bos_token_id", 300));
    metadata->set(GgufKeyValue::of_uint32("tokenizer.ggml.eos_token_id", 301));
  }
  for (const PreTokenizer& pre : all_pre_tokenizers()) {
    if (pre.name == "whitespace") continue;  // the client ends the process where two spaces stand together
    GgufMetadata metadata = pre.byte_level ? bytes : characters;
    metadata.set(GgufKeyValue::of_string("tokenizer.ggml.pre", pre.name));
    result.push_back({std::string(pre.name), std::move(metadata)});
  }
  GgufMetadata gemma = characters;
  gemma.set(GgufKeyValue::of_string("tokenizer.ggml.model", "gemma4"));
  gemma.set(GgufKeyValue::of_bool("tokenizer.ggml.add_eos_token", true));
  result.push_back({"model gemma4", std::move(gemma)});

  // The client refuses files named phi-3 without this token.
  std::vector<ExtraToken> with_end_of_text = extra;
  with_end_of_text.push_back({"<|endoftext|>", 3});
  GgufMetadata llama = scored_vocabulary("llama", training, 2000, with_end_of_text);
  result.push_back({"model llama", llama});
  llama.set(GgufKeyValue::of_bool("tokenizer.ggml.add_space_prefix", false));
  llama.set(GgufKeyValue::of_bool("tokenizer.ggml.add_eos_token", true));
  result.push_back({"model llama without prefix", llama});
  llama.set(GgufKeyValue::of_string("general.name", "Phi-3 mini"));
  result.push_back({"model llama named phi-3", std::move(llama)});

  GgufMetadata t5 = scored_vocabulary("t5", training, 2000, extra);
  result.push_back({"model t5", t5});
  t5.set(GgufKeyValue::of_bool("tokenizer.ggml.add_space_prefix", true));
  result.push_back({"model t5 with prefix", t5});
  t5.set(GgufKeyValue::of_bool("tokenizer.ggml.remove_extra_whitespaces", true));
  result.push_back({"model t5 with prefix, without extra spaces", t5});
  t5.set(GgufKeyValue::of_bool("tokenizer.ggml.add_space_prefix", false));
  result.push_back({"model t5 without extra spaces", std::move(t5)});
  return result;
}

}  // namespace quantfit::test
