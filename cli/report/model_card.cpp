#include "cli/report/model_card.h"

#include <fmt/format.h>

#include <array>
#include <cmath>
#include <utility>

#include "cli/console.h"
#include "core/byte_size.h"
#include "core/text.h"

namespace quantfit::cli {
namespace {

// Upper ends of mean KL divergence in nats. What the hubs' cards call Q6_K, Q5_K_M, Q4_K_M, Q3_K_M and IQ2 of
// 7B models lies about there.
constexpr std::array<std::pair<double, std::string_view>, 5> kWords = {{
    {0.003, "as good as the original"},
    {0.01, "hardly to be told from the original"},
    {0.03, "very good, the usual choice"},
    {0.1, "good where memory is short"},
    {0.3, "usable, with visible losses"},
}};

// Text inside `code`: a backtick would end it, a bar the cell of a table.
std::string code(std::string_view text) {
  std::string result = "`";
  for (const char letter : escaped(text)) result += letter == '`' || letter == '|' ? '_' : letter;
  return result + '`';
}

// Text in prose or a heading, with Markdown's own letters escaped.
std::string prose(std::string_view text) {
  constexpr std::string_view kOwn = "\\`*_{}[]()#+-!|~";
  std::string result;
  for (const char letter : escaped(text)) {
    if (letter == '<' || letter == '&') {
      result += letter == '<' ? "&lt;" : "&amp;";
      continue;
    }
    if (kOwn.find(letter) != std::string_view::npos) result += '\\';
    result += letter;
  }
  return result;
}

}  // namespace

std::string use_of(const PublishedFile& file) {
  if (file.divergence) {
    for (const auto& [most, words] : kWords)
      if (*file.divergence <= most) return std::string(words);
    return "only where nothing larger fits";
  }
  const auto& quality = file.answer.quality;
  if (!quality) return "";
  if (quality->like == file.label) return "llama.cpp's mixture of that name";
  if (!quality->ratio || std::abs(*quality->ratio - 1) <= kAboutTheSame)
    return fmt::format("about as near to the original as {}", quality->like);
  return fmt::format("{:.2f} times as far from the original as {}", *quality->ratio, quality->like);
}

std::string to_markdown(const ModelCard& card) {
  std::string text = fmt::format(
      "---\nlibrary_name: gguf\ntags:\n- gguf\n- quantized\n{}---\n\n# {}, quantized\n\nMade from "
      "{} ({}{} "
      "weights) by quantfit. Files named after a mixture of llama.cpp have its formats; in those named after "
      "a size "
      "every tensor has the format that costs least at that size.\n",
      kCardTag, prose(card.model), code(card.original),
      card.architecture.empty() ? "" : prose(card.architecture) + ", ", format_count(double(card.elements)));
  const bool measured = !card.evaluated_on.empty();
  text += fmt::format("\n| file | quant | bits per weight | size | {} | use |\n|---|---|---|---|---|---|\n",
                      measured ? "KL divergence | same top token" : "predicted error");
  if (measured) {
    const std::size_t rule = text.find("|---|---|---|---|---|---|\n");
    text.insert(rule, "|---");
  }
  for (const PublishedFile& file : card.files) {
    std::string quality = "not measured";
    if (measured)
      quality = file.divergence
                    ? fmt::format("{:.4f} ± {:.4f} | {:.1f} %", *file.divergence,
                                  file.divergence_error.value_or(0), 100 * file.same_top.value_or(0))
                    : "not measured | ";
    else if (file.answer.predicted_error)
      quality = fmt::format("{:.4g}", *file.answer.predicted_error);
    const std::string more =
        file.parts.size() > 1 ? fmt::format(" and {} more", file.parts.size() - 1) : std::string();
    text += fmt::format("| {}{} | {} | {:.3f} | {} | {} | {} |\n", code(file.name), more, prose(file.label),
                        file.answer.bpw, format_bytes(file.file_bytes), quality, use_of(file));
  }
  if (measured)
    text += fmt::format(
        "\nThe mean Kullback-Leibler divergence from the original, in nats per token, over {} chunks of {} "
        "tokens of "
        "{}; after ± one standard error.\n",
        card.chunks, card.context, code(card.evaluated_on));
  else
    text +=
        "\nThe predicted error is relative: ratios between files of this page mean something, the numbers "
        "alone "
        "do not.\n";
  if (!card.picture.empty()) text += fmt::format("\n![Size against predicted error]({})\n", card.picture);
  text += "\nRun one of them with llama.cpp:\n\n    llama-server -m " +
          (card.files.empty() ? std::string("FILE.gguf") : escaped(card.files.front().name)) + "\n";
  text += "\n`SHA256SUMS` holds checksums (`sha256sum -c SHA256SUMS`), `recipes/` the format of every tensor";
  text +=
      card.importance.empty() ? ".\n" : fmt::format(", {} the importance matrix.\n", code(card.importance));
  return text + fmt::format("\nMade with:\n\n    {}\n", escaped(card.command));
}

}  // namespace quantfit::cli
