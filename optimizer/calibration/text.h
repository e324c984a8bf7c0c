// Texts as windows of tokens: what calibration and evaluation run a model on.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/error.h"
#include "core/model.h"
#include "core/tokenizer/token_windows.h"
#include "optimizer/engine/forward.h"

namespace quantfit::calibration {

// What the tools of the field use.
inline constexpr std::uint32_t kDefaultContext = 512;

struct TextRequest {
  std::vector<std::filesystem::path> texts;  // one after another; none and no ids: the text that ships
  std::filesystem::path token_ids;           // in place of texts, for models whose tokenizer is not known
  std::uint32_t context = kDefaultContext;   // tokens per window
  std::uint32_t skip = 0;                    // windows left out at the beginning
  std::optional<std::uint32_t> most;         // windows used after these
};

struct Text {
  TokenWindows windows;
  std::vector<std::string> names;  // of the texts, for people
  // Digest of the tokens that the model reads and of those that it is to predict, window by window: texts
  // with equal fingerprints are the same work for a model.
  std::string fingerprint;

  // Windows first .. first + count - 1 as the engine takes them.
  [[nodiscard]] engine::TokenWindows inputs(std::size_t first, std::size_t count) const;
  [[nodiscard]] engine::TokenWindows inputs() const { return inputs(0, windows.count()); }
  // `count` windows, at most all, spread evenly.
  [[nodiscard]] engine::TokenWindows spread(std::size_t count) const;
  [[nodiscard]] std::uint64_t tokens() const { return windows.count() * windows.window_tokens(); }
};

// Reads, tokenizes as the model's metadata says, and cuts. Every text of its own is tokenized for itself; the
// windows are cut from all of them together. Errors of the tokenizer (its model is not known: Unsupported,
// with a hint at token ids), of the files and of TokenWindows::cut; Malformed when the vocabulary is larger
// than the token embedding.
[[nodiscard]] Result<Text> read_text(const Model& model, const TextRequest& request);

// The same windows of another model, after checking that it would read the same tokens. ShapeMismatch when
// its vocabulary is another one.
[[nodiscard]] Result<void> check_same_tokens(const Model& base, const Model& candidate);

}  // namespace quantfit::calibration
