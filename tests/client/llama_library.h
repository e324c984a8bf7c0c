// llama.cpp itself, through the C interface of the prebuilt shared libraries that scripts/setup-client
// installs: a model loads, a text becomes tokens, tokens become logits. For tests and evaluation only.
#pragma once

#include <array>
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

// The shared libraries, loaded once per process with the fastest CPU backend this machine can run, or with
// that of the kind of CPU that the environment variable QUANTFIT_REFERENCE_CPU names ("haswell"): they round
// activations in different ways.
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

// One array of llama.cpp's graph, in its memory: size[0] values lie one after another (F32, F16 or 32-bit
// integers, by ggml's number of the type), the other dimensions `stride` bytes apart.
struct ClientTensor {
  std::string_view name;  // as llama.cpp calls it: "l_out-3"; of weights, the name in the file
  int type = 0;
  std::array<std::int64_t, 4> size{};
  std::array<std::size_t, 4> stride{};
  const std::byte* data = nullptr;

  [[nodiscard]] std::size_t rows() const { return static_cast<std::size_t>(size[1] * size[2] * size[3]); }
  // Row `index` of rows(), dimensions 1, 2, 3 in turn.
  template <class T>
  [[nodiscard]] std::span<const T> row(std::size_t index) const {
    const auto second = static_cast<std::size_t>(size[1]), third = static_cast<std::size_t>(size[2]);
    const std::byte* at = data + index % second * stride[1] + index / second % third * stride[2] +
                          index / second / third * stride[3];
    return {reinterpret_cast<const T*>(at), static_cast<std::size_t>(size[0])};
  }
};

// What llama.cpp computed, and from what: a product's sources are weights, activations and, of experts, the
// choice of every token.
struct ClientNode {
  std::string_view operation;  // by ggml's name: "MUL_MAT"
  ClientTensor result;
  std::vector<ClientTensor> sources;
};

// Looks on while llama.cpp computes: wants() before a node is, computed() for those wanted, its arrays valid
// during the call. The results are those without an observer.
class ClientObserver {
 public:
  virtual ~ClientObserver() = default;
  [[nodiscard]] virtual bool wants(const ClientNode& node) = 0;
  virtual void computed(const ClientNode& node) = 0;
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
  // pool. `observer`, or null: of this context alone, and must outlive it. Malformed when llama.cpp refuses
  // the file; the message holds its own warnings and errors.
  [[nodiscard]] static Result<LlamaModel> open(const std::filesystem::path& path,
                                               std::uint32_t context_tokens, int threads,
                                               ClientPrecision precision = ClientPrecision::Default,
                                               ClientObserver* observer = nullptr);
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
