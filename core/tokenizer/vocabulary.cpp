#include "core/tokenizer/vocabulary.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <initializer_list>
#include <limits>
#include <utility>

#include "core/text.h"

namespace quantfit {
namespace {

constexpr std::string_view kKeys = "tokenizer.ggml.";

// Texts that end a generation: such tokens are control tokens whatever the file says of them.
constexpr std::array<std::string_view, 22> kEndOfGeneration = {"<|eot_id|>",
                                                               "<|im_end|>",
                                                               "<|end|>",
                                                               "<|return|>",
                                                               "<|call|>",
                                                               "<|flush|>",
                                                               "<|calls|>",
                                                               "<end_of_turn>",
                                                               "<|endoftext|>",
                                                               "</s>",
                                                               "<|eom_id|>",
                                                               "<EOT>",
                                                               "_<EOT>",
                                                               "[EOT]",
                                                               "[EOS]",
                                                               "<|end_of_text|>",
                                                               "<end_of_utterance>",
                                                               "<eos>",
                                                               "<turn|>",
                                                               "<|tool_response>",
                                                               "<｜end▁of▁sentence｜>",
                                                               "[e~["};

// Spellings of the tokens for filling in the middle. The first that a vocabulary has is a control token,
// unless the file names one under the key.
struct FillInToken {
  std::string_view key;
  std::array<std::string_view, 8> spellings;
};
constexpr std::array<FillInToken, 6> kFillIn = {{
    {"fim_pre_token_id",
     {"<|fim_prefix|>", "<fim-prefix>", "<fim_prefix>", "<｜fim▁begin｜>", "<PRE>", "▁<PRE>",
      "<|code_prefix|>", "<|prefix|>"}},
    {"fim_suf_token_id",
     {"<|fim_suffix|>", "<fim-suffix>", "<fim_suffix>", "<｜fim▁hole｜>", "<SUF>", "▁<SUF>",
      "<|code_suffix|>", "<|suffix|>"}},
    {"fim_mid_token_id",
     {"<|fim_middle|>", "<fim-middle>", "<fim_middle>", "<｜fim▁end｜>", "<MID>", "▁<MID>", "<|code_middle|>",
      "<|middle|>"}},
    {"fim_pad_token_id", {"<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]"}},
    {"fim_rep_token_id", {"<|fim_repo|>", "<fim-repo>", "<REPO>", "<|repo_name|>", "<reponame>"}},
    {"fim_sep_token_id", {"<|file_sep|>"}},
}};

}  // namespace

std::string_view to_string(TokenizerModel model) {
  switch (model) {
    case TokenizerModel::BytePair:
      return "gpt2";
    case TokenizerModel::SentencePiece:
      return "llama";
    case TokenizerModel::Gemma4:
      return "gemma4";
    case TokenizerModel::Unigram:
      return "t5";
  }
  return "?";
}

// Fills one Vocabulary from the metadata, step by step.
class VocabularyReader {
 public:
  VocabularyReader(const GgufMetadata& metadata, std::string_view file) : metadata_(metadata), file_(file) {}

  [[nodiscard]] Result<Vocabulary> read() {
    QF_TRY(read_model());
    QF_TRY(read_tokens());
    QF_TRY(read_types());
    if (v_.model_ == TokenizerModel::SentencePiece || v_.model_ == TokenizerModel::Unigram)
      QF_TRY(read_scores());
    else
      QF_TRY(read_merges());
    if (v_.model_ == TokenizerModel::Unigram) QF_TRY(read_character_map());
    QF_TRY(read_rules());
    QF_TRY(correct_traits());
    return std::move(v_);
  }

 private:
  template <class... Args>
  [[nodiscard]] Error error(ErrorCode code, std::string_view key, fmt::format_string<Args...> format,
                            Args&&... args) const {
    return fail(code, "{}: {}{}: {}", file_, kKeys, key, fmt::format(format, std::forward<Args>(args)...));
  }
  template <class... Args>
  [[nodiscard]] Error malformed(std::string_view key, fmt::format_string<Args...> format,
                                Args&&... args) const {
    return error(ErrorCode::Malformed, key, format, std::forward<Args>(args)...);
  }
  template <class... Args>
  void warn(fmt::format_string<Args...> format, Args&&... args) {
    v_.warnings_.push_back(fmt::format(format, std::forward<Args>(args)...));
  }

  [[nodiscard]] const GgufKeyValue* find(std::string_view key) const {
    return metadata_.find(std::string(kKeys) + std::string(key));
  }
  // An optional string, "" when absent.
  [[nodiscard]] Result<std::string_view> text(std::string_view key) const {
    const GgufKeyValue* value = find(key);
    if (value == nullptr) return std::string_view();
    const auto read = value->as_string();
    if (!read) return malformed(key, "not a string");
    return *read;
  }
  [[nodiscard]] Result<bool> flag(std::string_view key, bool otherwise) const {
    const GgufKeyValue* value = find(key);
    if (value == nullptr) return otherwise;
    const auto read = value->as_bool();
    if (!read) return malformed(key, "not a boolean");
    return *read;
  }
  // A token id, `otherwise` when absent or outside of the vocabulary.
  [[nodiscard]] Result<std::optional<TokenId>> token(std::string_view key, std::optional<TokenId> otherwise) {
    if (otherwise && *otherwise >= v_.size()) otherwise.reset();
    const GgufKeyValue* value = find(key);
    if (value == nullptr) return otherwise;
    const auto read = value->as_int();
    if (!read) return malformed(key, "not an integer");
    if (*read < 0 || static_cast<std::uint64_t>(*read) >= v_.size()) {
      warn("{}{} is {}, but there are {} tokens: ignored", kKeys, key, *read, v_.size());
      return otherwise;
    }
    return std::optional(static_cast<TokenId>(*read));
  }
  [[nodiscard]] Result<std::vector<std::string>> strings(std::string_view key, const char* what) const {
    const GgufKeyValue* value = find(key);
    if (value == nullptr) return malformed(key, "missing: there are no {}", what);
    auto read = value->as_string_array();
    if (!read) return malformed(key, "not an array of strings");
    if (read->size() > std::size_t{std::numeric_limits<std::int32_t>::max()})
      return error(ErrorCode::Unsupported, key, "{} entries, at most 2^31 - 1 are handled", read->size());
    return std::move(*read);
  }

  [[nodiscard]] Result<void> read_model() {
    QF_ASSIGN(const std::string_view model, text("model"));
    if (model.empty()) return malformed("model", "missing: the file names no tokenizer");
    if (model == "none" || model == "no_vocab")
      return error(ErrorCode::Unsupported, "model",
                   "the file has no vocabulary; give token ids instead of text");
    QF_ASSIGN(const std::string_view pre, text("pre"));
    if (model == "llama") {
      v_.model_ = TokenizerModel::SentencePiece;
    } else if (model == "t5") {
      v_.model_ = TokenizerModel::Unigram;
    } else if (model == "gemma4") {
      v_.model_ = TokenizerModel::Gemma4;
      v_.pre_tokenizer_ = find_pre_tokenizer("gemma4");
    } else if (model == "gpt2") {
      v_.model_ = TokenizerModel::BytePair;
      v_.pre_tokenizer_ = find_pre_tokenizer(pre);
      if (v_.pre_tokenizer_ == nullptr)
        return error(
            ErrorCode::Unsupported, "pre",
            "pre-tokenizer {} is not known here, and guessing would give wrong tokens; give token ids "
            "instead of text",
            printable(pre));
    } else {
      return error(
          ErrorCode::Unsupported, "model",
          "tokenizer {} is not known here (gpt2, llama, gemma4 and t5 are); give token ids instead of "
          "text",
          printable(model));
    }
    return outcome::success();
  }

  [[nodiscard]] Result<void> read_tokens() {
    QF_ASSIGN(v_.texts_, strings("tokens", "tokens"));
    if (v_.texts_.empty()) return malformed("tokens", "no tokens");
    v_.ids_.reserve(v_.texts_.size());
    for (std::size_t i = 0; i < v_.texts_.size(); ++i) {
      if (v_.texts_[i].empty()) v_.texts_[i] = fmt::format("[EMPTY_{}]", i);
      const auto [known, is_new] = v_.ids_.emplace(v_.texts_[i], static_cast<TokenId>(i));
      if (!is_new)
        return malformed("tokens", "tokens {} and {} are both {}", known->second, i, printable(v_.texts_[i]));
    }
    return outcome::success();
  }

  [[nodiscard]] Result<void> read_types() {
    v_.traits_.resize(v_.size());
    const GgufKeyValue* value = find("token_type");
    if (value == nullptr) {
      for (TokenTraits& traits : v_.traits_) traits.normal = true;
      return outcome::success();
    }
    const auto types = value->as_int_array();
    if (!types) return malformed("token_type", "not an array of integers");
    if (types->size() < v_.size())
      return malformed("token_type", "{} entries for {} tokens", types->size(), v_.size());
    for (std::size_t i = 0; i < v_.size(); ++i) {
      TokenTraits& traits = v_.traits_[i];
      switch ((*types)[i]) {
        case 1:
          traits.normal = true;
          break;
        case 2:
          traits.unknown = true;
          break;
        case 3:
          traits.control = true;
          break;
        case 4:
          traits.user_defined = true;
          break;
        case 5:
          traits.unused = true;
          break;
        case 6:
          traits.byte = true;
          break;
        default:
          break;
      }
    }
    return outcome::success();
  }

  [[nodiscard]] Result<void> read_scores() {
    const GgufKeyValue* value = find("scores");
    if (value == nullptr) return outcome::success();
    std::vector<float> scores;
    if (value->type == GgufType::Array && value->element_type == GgufType::Float32 && value->consistent()) {
      scores.resize(value->count);
      if (!scores.empty()) std::memcpy(scores.data(), value->bytes.data(), value->bytes.size());
    } else {
      const auto integers = value->as_int_array();
      if (!integers) return malformed("scores", "not an array of numbers");
      scores.assign(integers->begin(), integers->end());
    }
    if (scores.size() < v_.size())
      return malformed("scores", "{} entries for {} tokens", scores.size(), v_.size());
    const auto bad =
        std::find_if(scores.begin(), scores.end(), [](float score) { return !std::isfinite(score); });
    if (bad != scores.end())
      return malformed("scores", "score {} is not a finite number", bad - scores.begin());
    v_.scores_ = std::move(scores);
    return outcome::success();
  }

  [[nodiscard]] Result<void> read_merges() {
    QF_ASSIGN(auto merges, strings("merges", "merges"));
    v_.merges_.reserve(merges.size());
    std::size_t strangers = 0;
    for (std::size_t i = 0; i < merges.size(); ++i) {
      // The left part may itself begin with a space.
      const std::size_t space = merges[i].find(' ', 1);
      if (space == std::string::npos)
        return malformed("merges", "merge {} is {}, not two parts with a space between", i,
                         printable(merges[i]));
      v_.merges_.push_back({std::move(merges[i]), space});
      const auto [left, right] = v_.merge(i);
      if (!v_.find(std::string(left) + std::string(right))) ++strangers;
    }
    if (strangers != 0) warn("{} of {} merges make texts that are no tokens", strangers, v_.merges_.size());
    return outcome::success();
  }

  [[nodiscard]] Result<void> read_character_map() {
    const GgufKeyValue* value = find("precompiled_charsmap");
    if (value == nullptr) return outcome::success();
    const bool bytes = value->type == GgufType::Array &&
                       (value->element_type == GgufType::Int8 || value->element_type == GgufType::UInt8) &&
                       value->consistent();
    if (!bytes) return malformed("precompiled_charsmap", "not an array of bytes");
    v_.character_map_.assign(reinterpret_cast<const char*>(value->bytes.data()), value->bytes.size());
    return outcome::success();
  }

  [[nodiscard]] Result<void> read_rules() {
    std::optional<TokenId> beginning, end, unknown;
    bool adds_beginning = false, adds_end = false, prefix = false;
    switch (v_.model_) {
      case TokenizerModel::SentencePiece:
        beginning = 1;
        end = 2;
        unknown = 0;
        adds_beginning = prefix = true;
        break;
      case TokenizerModel::BytePair:
        if (v_.pre_tokenizer_->has_default_bos) beginning = 11;
        end = 11;
        adds_beginning = v_.pre_tokenizer_->adds_bos;
        break;
      case TokenizerModel::Unigram:
        end = 1;
        unknown = 2;
        adds_end = true;
        break;
      case TokenizerModel::Gemma4:
        break;
    }
    QF_ASSIGN(v_.beginning_, token("bos_token_id", beginning));
    QF_ASSIGN(v_.end_, token("eos_token_id", end));
    QF_ASSIGN(v_.unknown_, token("unknown_token_id", unknown));
    QF_ASSIGN(v_.adds_beginning_, flag("add_bos_token", adds_beginning));
    QF_ASSIGN(v_.adds_end_, flag("add_eos_token", adds_end));
    QF_ASSIGN(v_.adds_space_prefix_, flag("add_space_prefix", prefix));
    QF_ASSIGN(v_.removes_extra_spaces_, flag("remove_extra_whitespaces", false));
    // The family that splits at line feeds begins with its token whatever the file says.
    if (v_.pre_tokenizer_ != nullptr && v_.pre_tokenizer_->newline_words) v_.adds_beginning_ = true;
    return outcome::success();
  }

  // Calls `use` with the traits of those of `texts` that are tokens.
  template <class Use>
  void each(std::initializer_list<std::string_view> texts, Use use) {
    for (const std::string_view text : texts)
      if (const auto id = v_.find(text)) use(v_.traits_[*id]);
  }

  // What a token is called says more about some than their type in the file: converters were careless.
  [[nodiscard]] Result<void> correct_traits() {
    const auto has = [&](std::string_view text) { return v_.find(text).has_value(); };
    for (const FillInToken& fill_in : kFillIn) {
      QF_ASSIGN(const auto given, token(fill_in.key, std::nullopt));
      if (given) continue;
      std::optional<TokenId> first;
      for (const std::string_view spelling : fill_in.spellings)
        if (const auto id = v_.find(spelling)) first = std::min(*id, first.value_or(*id));
      if (first) v_.traits_[*first].control = true;
    }
    for (const std::string_view text : kEndOfGeneration)
      if (const auto id = v_.find(text)) v_.traits_[*id].control = true;
    constexpr TokenTraits kUserDefined{.user_defined = true};
    each({"<|channel|>", "<|message|>", "<|start|>", "<|constrain|>"},
         [&](TokenTraits& traits) { traits = kUserDefined; });
    if ((has("<|return|>") && has("<|call|>")) || (has("<|calls|>") && has("<|flush|>")))
      each({"<|end|>"}, [&](TokenTraits& traits) { traits = kUserDefined; });
    if (has("<|tool_response>")) each({"</s>"}, [](TokenTraits& traits) { traits = {.normal = true}; });

    const std::string name = to_lower(metadata_.string("general.name").value_or(""));
    if (name.find("phi-3") != std::string::npos || name.find("phi3") != std::string::npos) {
      for (TokenTraits& traits : v_.traits_)
        if (traits.special()) traits.strips_right = true;
      each({"</s>"}, [](TokenTraits& traits) { traits.strips_right = true; });
      each({"<unk>", "<s>", "<|endoftext|>"}, [](TokenTraits& traits) { traits.strips_right = false; });
    }
    return outcome::success();
  }

  const GgufMetadata& metadata_;
  std::string_view file_;
  Vocabulary v_;
};

Result<Vocabulary> Vocabulary::from_metadata(const GgufMetadata& metadata, std::string_view file) {
  return VocabularyReader(metadata, file).read();
}

std::optional<TokenId> Vocabulary::find(std::string_view text) const {
  const auto found = ids_.find(text);
  if (found == ids_.end()) return std::nullopt;
  return found->second;
}

std::optional<TokenId> Vocabulary::byte_token(std::uint8_t byte) const {
  return find(fmt::format("<0x{:02X}>", byte));
}

}  // namespace quantfit
