// Cutting a text into the words that are merged on their own.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "core/error.h"
#include "core/tokenizer/pre_tokenizers.h"

namespace quantfit {

// The passes of one pre-tokenizer, compiled. Immutable: any number of threads may split at once.
class Splitter {
 public:
  enum class Engine {
    Fastest,      // compiled to machine code where the system allows that
    Interpreted,  // for tests: both must agree
  };
  // Internal when a pattern does not compile.
  [[nodiscard]] static Result<Splitter> create(std::span<const SplitPass> passes,
                                               Engine engine = Engine::Fastest);
  Splitter(Splitter&&) noexcept;
  Splitter& operator=(Splitter&&) noexcept;
  ~Splitter();

  // Lengths of the pieces of `text`, in code points, in order; none is 0, their sum is text.size(). Time and
  // memory are linear in the text. Internal when the regex library gives up, which no text is known to do.
  [[nodiscard]] Result<std::vector<std::uint32_t>> split(std::u32string_view text) const;

 private:
  struct Pass;
  explicit Splitter(std::vector<Pass> passes);
  std::vector<Pass> passes_;
};

}  // namespace quantfit
