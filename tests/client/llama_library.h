// llama.cpp itself, through the C interface of the prebuilt shared libraries that scripts/setup-client
// installs: a model loads, a text becomes tokens, tokens become logits. For tests and evaluation only.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/error.h"
#include "core/gguf_value.h"

namespace quantfit::test {

using Token = std::int32_t;

// The shared libraries, loaded once per process with the fastest CPU backend this machine can run.
class LlamaLibrary {
 public:
  // Unsupported when the libraries are not installed, lack a symbol, or lay out their parameters otherwise
  // than this interface expects (checked, not assumed).
  [[nodiscard]] static Result<const LlamaLibrary*> load();

  // The release of llama.cpp that the libraries were built from.
  [[nodiscard]] std::string version() const;

  struct Functions;
  [[nodiscard]] const Functions& functions() const { return *functions_; }

 private:
  explicit LlamaLibrary(std::shared_ptr<const Functions> functions) : functions_(std::move(functions)) {}
  std::shared_ptr<const Functions> functions_;
};

// What llama.cpp keeps between layers and tokens.
enum class ClientPrecision {
  Default,  // as its programs: keys and values in F16, flash attention where it can
  Float32,  // keys and values in F32, no flash attention: for comparisons with exact arithmetic
};

// A vocabulary alone: of any GGUF file, tensors are not needed. Any number of threads.
class LlamaVocabulary {
 public:
  // Malformed when llama.cpp refuses the file; the message holds its own warnings and errors. A file that
  // breaks rules that llama.cpp only asserts (repeated tokens) ends the process.
  [[nodiscard]] static Result<LlamaVocabulary> open(const std::filesystem::path& path);
  // The same of metadata that was made, not read: through a temporary file.
  [[nodiscard]] static Result<LlamaVocabulary> of(const GgufMetadata& metadata);

  [[nodiscard]] std::size_t size() const;
  // `text` must spell no number above U+10FFFF, at which llama.cpp ends the process.
  [[nodiscard]] Result<std::vector<Token>> tokenize(std::string_view text, bool add_special,
                                                    bool parse_special) const;

 private:
  LlamaVocabulary() = default;
  const LlamaLibrary::Functions* f_ = nullptr;
  std::shared_ptr<void> model_;
};

// A loaded model with one context. One thread at a time; contexts of the same model are independent.
class LlamaModel {
 public:
  // `context_tokens`: tokens per sequence, which decode() accepts at once. `threads`: of llama.cpp's own
  // pool. Malformed when llama.cpp refuses the file; the message holds its own warnings and errors.
  [[nodiscard]] static Result<LlamaModel> open(const std::filesystem::path& path,
                                               std::uint32_t context_tokens, int threads,
                                               ClientPrecision precision = ClientPrecision::Default);
  // A second context on the same weights, for another thread.
  [[nodiscard]] Result<LlamaModel> another_context() const;
  LlamaModel(LlamaModel&&) noexcept;
  LlamaModel& operator=(LlamaModel&&) noexcept;
  ~LlamaModel();

  [[nodiscard]] std::size_t vocabulary_size() const;
  [[nodiscard]] std::string description() const;  // architecture, size and type as llama.cpp names them
  // The token to put in front of every chunk, or nothing when the model does not want one.
  [[nodiscard]] std::optional<Token> beginning_token() const;

  // Tokens of `text`; a beginning token is added when the model asks for one.
  [[nodiscard]] Result<std::vector<Token>> tokenize(std::string_view text) const;

  // Runs `tokens` as one fresh sequence and leaves the logits of positions `first` .. tokens.size() - 1 in
  // logits(). At most the context's tokens.
  [[nodiscard]] Result<void> decode(std::span<const Token> tokens, std::size_t first);

  // Row `index` belongs to position `first` + `index` of the last decode(); vocabulary_size() floats that
  // live until the next decode().
  [[nodiscard]] std::span<const float> logits(std::size_t index) const;

 private:
  struct State;
  explicit LlamaModel(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace quantfit::test
