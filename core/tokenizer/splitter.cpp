#include "core/tokenizer/splitter.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <algorithm>
#include <array>
#include <limits>
#include <string>
#include <utility>

#include "core/tokenizer/byte_pattern.h"

namespace quantfit {
namespace {

struct FreeCode {
  void operator()(pcre2_code* code) const { pcre2_code_free(code); }
};
struct FreeMatchData {
  void operator()(pcre2_match_data* data) const { pcre2_match_data_free(data); }
};
struct FreeMatchContext {
  void operator()(pcre2_match_context* context) const { pcre2_match_context_free(context); }
};

[[nodiscard]] std::string message_of(int code) {
  std::array<PCRE2_UCHAR, 256> text{};
  pcre2_get_error_message(code, text.data(), text.size());
  return reinterpret_cast<const char*>(text.data());
}

}  // namespace

struct Splitter::Pass {
  SplitPass::Kind kind = SplitPass::Kind::Matches;
  CharacterClasses classes;
  std::unique_ptr<pcre2_code, FreeCode> code;
  bool machine_code = false;

  // Appends the pieces of `subject`, one byte per character.
  [[nodiscard]] Result<void> split(std::string_view subject, pcre2_match_data* data,
                                   pcre2_match_context* context, std::vector<std::uint32_t>& lengths) const;
};

Splitter::Splitter(std::vector<Pass> passes) : passes_(std::move(passes)) {}
Splitter::Splitter(Splitter&&) noexcept = default;
Splitter& Splitter::operator=(Splitter&&) noexcept = default;
Splitter::~Splitter() = default;

Result<Splitter> Splitter::create(std::span<const SplitPass> passes, Engine engine) {
  std::vector<Pass> compiled;
  for (const SplitPass& pass : passes) {
    Pass& next = compiled.emplace_back();
    next.kind = pass.kind;
    QF_ASSIGN(BytePattern bytes, to_byte_pattern(pass.pattern));
    next.classes = std::move(bytes.classes);
    int error = 0;
    PCRE2_SIZE offset = 0;
    next.code.reset(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(bytes.pattern.data()), bytes.pattern.size(),
                                  PCRE2_NO_AUTO_CAPTURE | PCRE2_DOLLAR_ENDONLY | PCRE2_NEVER_UTF, &error,
                                  &offset, nullptr));
    if (next.code == nullptr)
      return fail(ErrorCode::Internal, "splitter pattern '{}', position {}: {}", bytes.pattern, offset,
                  message_of(error));
    next.machine_code =
        engine == Engine::Fastest && pcre2_jit_compile(next.code.get(), PCRE2_JIT_COMPLETE) == 0;
  }
  return Splitter(std::move(compiled));
}

Result<void> Splitter::Pass::split(std::string_view subject, pcre2_match_data* data,
                                   pcre2_match_context* context, std::vector<std::uint32_t>& lengths) const {
  const auto* text = reinterpret_cast<PCRE2_SPTR>(subject.data());
  const PCRE2_SIZE* bounds = pcre2_get_ovector_pointer(data);
  std::size_t begin = 0;  // of the next piece
  const auto cut = [&](std::size_t at) {
    if (at > begin) lengths.push_back(static_cast<std::uint32_t>(at - begin));
    begin = at;
  };
  for (std::size_t done = 0; done < subject.size(); done = bounds[1]) {
    const int status =
        machine_code ? pcre2_jit_match(code.get(), text, subject.size(), done, PCRE2_NOTEMPTY, data, context)
                     : pcre2_match(code.get(), text, subject.size(), done, PCRE2_NOTEMPTY, data, context);
    if (status == PCRE2_ERROR_NOMATCH) break;
    if (status < 0) return fail(ErrorCode::Internal, "splitting a text into words: {}", message_of(status));
    const auto [first, last] = std::pair(bounds[0], bounds[1]);
    if (kind != SplitPass::Kind::CutsBeforeTriples) cut(first);
    if (kind != SplitPass::Kind::Matches)
      for (std::size_t at = first + (last - first) % 3; at < last; at += 3) cut(at);
    if (kind != SplitPass::Kind::CutsBeforeTriples) cut(last);
  }
  cut(subject.size());
  return outcome::success();
}

Result<std::vector<std::uint32_t>> Splitter::split(std::u32string_view text) const {
  if (text.size() > std::numeric_limits<std::int32_t>::max())
    return fail(ErrorCode::InvalidArgument, "a text of {} characters is too long to split", text.size());
  std::vector<std::uint32_t> lengths;
  if (text.empty()) return lengths;
  const std::unique_ptr<pcre2_match_data, FreeMatchData> data(pcre2_match_data_create(1, nullptr));
  const std::unique_ptr<pcre2_match_context, FreeMatchContext> context(pcre2_match_context_create(nullptr));
  if (data == nullptr || context == nullptr) return fail(ErrorCode::Internal, "no memory for matching");
  // Patterns are linear: the library's own limits, made for patterns of strangers, would only bar long texts.
  pcre2_set_match_limit(context.get(), std::numeric_limits<std::uint32_t>::max());
  pcre2_set_depth_limit(context.get(), std::numeric_limits<std::uint32_t>::max());
  pcre2_set_heap_limit(context.get(), std::numeric_limits<std::uint32_t>::max());

  lengths.push_back(static_cast<std::uint32_t>(text.size()));
  std::vector<std::uint32_t> next;
  std::string subject(text.size(), '\0');
  for (const Pass& pass : passes_) {
    for (std::size_t i = 0; i < text.size(); ++i) subject[i] = static_cast<char>(pass.classes[text[i]]);
    next.clear();
    std::size_t at = 0;
    for (const std::uint32_t length : lengths) {
      const std::string_view piece = std::string_view(subject).substr(at, length);
      at += length;
      QF_TRY(pass.split(piece, data.get(), context.get(), next));
    }
    std::swap(lengths, next);
  }
  return lengths;
}

}  // namespace quantfit
