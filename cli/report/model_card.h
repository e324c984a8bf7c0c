// What a folder of published files says about itself: a model card in Markdown.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "cli/report/plan_report.h"

namespace quantfit::cli {

struct PublishedFile {
  std::string name;  // of the file: "Model-Q4_K_M.gguf"; of several the first, in a folder of their own
  std::vector<std::string> parts;  // all files: `name` alone, or all that it is the first of
  std::string label;               // "Q4_K_M", "4.50bpw"
  PlanReport answer;
  std::uint64_t file_bytes = 0;
  std::vector<std::string> sha256;         // of the parts
  bool kept = false;                       // it was there already
  std::optional<double> divergence;        // mean KL divergence from the original, nats
  std::optional<double> divergence_error;  // its standard error over chunks
  std::optional<double> same_top;          // share of positions with the same most probable token
};

struct ModelCard {
  std::string model;     // base name of the files
  std::string original;  // the file that they were made from
  std::string architecture;
  std::uint64_t elements = 0;
  std::string importance;    // file name of the importance matrix in the folder; empty: none
  std::string evaluated_on;  // name of the text; empty: divergences were not measured
  std::uint64_t chunks = 0, context = 0;
  std::string picture;  // file name of the curve; empty: none
  std::string command;
  std::vector<PublishedFile> files;  // largest first
};

// A line of every card's head, by which its folder is known as one of this program's.
inline constexpr std::string_view kCardTag = "- quantfit\n";

// Names of files stand as code, with what Markdown obeys taken out.
[[nodiscard]] std::string to_markdown(const ModelCard& card);

// In a few words what a file is good for: by its divergence where that was measured, otherwise beside the
// mixture that is nearest in predicted error.
[[nodiscard]] std::string use_of(const PublishedFile& file);

}  // namespace quantfit::cli
