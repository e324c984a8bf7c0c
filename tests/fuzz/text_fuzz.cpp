// Texts that people and files give: recipes, pins, patterns, lists of formats, sizes, shares, numbers.

#include <cstdint>

#include "core/byte_size.h"
#include "optimizer/llama_cpp/format_pin.h"
#include "optimizer/llama_cpp/pattern.h"
#include "optimizer/output/recipe_io.h"
#include "tests/fuzz/input.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

namespace quantfit {
namespace {

void read_recipe(std::string_view text) {
  const auto recipe = optimizer::parse_recipe_text(text);
  if (!recipe) return;
  std::vector<TensorInfo> tensors(3);
  const char* const names[] = {"token_embd.weight", "blk.0.ffn_down.weight", "blk.1.attn_q.weight"};
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    tensors[i].name = names[i];
    tensors[i].n_dims = 2;
    tensors[i].ne = {256, 4, 1, 1};
    tensors[i].format = Format::F16;
    tensors[i].bytes = 2048;
  }
  const auto applied = optimizer::apply_recipe_text(recipe.value(), tensors, Format::Q8_0);
  if (!applied) return;
  fuzz::expect(applied.value().recipe.entries.size() == tensors.size(), "one entry per tensor");
  // What is written can be read, and means the same.
  const auto written = optimizer::to_recipe_text(applied.value().recipe, tensors);
  if (!written) return;
  const auto again = optimizer::parse_recipe_text(written.value());
  fuzz::expect(again.has_value(), "a written recipe can be read");
  const auto same = optimizer::apply_recipe_text(again.value(), tensors);
  fuzz::expect(same.has_value(), "a written recipe can be applied");
  fuzz::expect(optimizer::diff_recipes(applied.value().recipe, same.value().recipe).changes.empty(),
               "a written recipe is the recipe");
}

void read_numbers(std::string_view text) {
  if (const auto bytes = parse_byte_size(text)) (void)format_bytes(bytes.value());
  (void)parse_decimal(text);
  if (const auto share = parse_share(text))
    fuzz::expect(share_of(1'000'000'007, share.value()) <= 1'000'000'007,
                 "a share is no more than the whole");
  (void)budget_for_bpw(6'819'840, text);
}

void read_patterns(std::string_view text) {
  (void)optimizer::parse_format_pin(text);
  (void)optimizer::parse_format_pins(text);
  (void)optimizer::parse_format_list(text);
  if (const auto pattern = optimizer::Pattern::compile(text)) {
    (void)pattern.value().found_in("blk.17.ffn_down_exps.weight");
    (void)pattern.value().found_in("aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa!");
  }
  const auto escaped = optimizer::Pattern::compile(optimizer::escape_pattern(text));
  if (text.size() * 2 <= optimizer::Pattern::kMaxPatternBytes && escaped)
    fuzz::expect(text.empty() || escaped.value().found_in(text), "an escaped text finds itself");
}

}  // namespace
}  // namespace quantfit

// The first byte chooses the reader.
int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  const std::string_view text = quantfit::fuzz::text_of(data + 1, size - 1);
  switch (data[0]) {
    case 'r':
      quantfit::read_recipe(text);
      break;
    case 'n':
      quantfit::read_numbers(text);
      break;
    case 'p':
      quantfit::read_patterns(text);
      break;
    default:
      break;
  }
  return 0;
}
