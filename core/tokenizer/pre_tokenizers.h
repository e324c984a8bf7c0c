// The named pre-tokenizers of GGUF files (`tokenizer.ggml.pre`): how each cuts a text into words before
// merging.
#pragma once

#include <span>
#include <string_view>

namespace quantfit {

// One pass over all pieces of a text. Threes are counted from the end of a match: as patterns they would look
// at the rest of a run from each of its digits.
struct SplitPass {
  enum class Kind {
    Matches,            // each match becomes a piece, and each gap between matches
    Triples,            // each match is cut into threes, and each gap becomes a piece
    CutsBeforeTriples,  // there is a cut before each three, and no other
  };
  Kind kind = Kind::Matches;
  std::string_view pattern;  // in the notation of byte_pattern.h
};

struct PreTokenizer {
  std::string_view name;
  std::span<const SplitPass> passes;
  bool ignore_merges = false;   // a word that is a token as a whole is not merged
  bool adds_bos = false;        // unless the file says otherwise
  bool has_default_bos = true;  // token 11 is the beginning token unless the file names another
  bool byte_level = true;       // words are merged as bytes; otherwise as characters
  bool visible_spaces = false;  // spaces are written as U+2581 before anything else
  bool newline_words = false;   // a word of line feeds that is a token as a whole is not merged
};

// By name; an empty name is "default". Null for names that are not known.
[[nodiscard]] const PreTokenizer* find_pre_tokenizer(std::string_view name);

[[nodiscard]] std::span<const PreTokenizer> all_pre_tokenizers();

}  // namespace quantfit
