// Options about a text that goes through the model.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "cli/option_table.h"
#include "cli/output_files.h"
#include "core/error.h"
#include "optimizer/calibration/text.h"

namespace quantfit::cli {

struct TextOptions {
  std::vector<std::string> texts;
  std::string token_ids;
  std::uint32_t context = calibration::kDefaultContext;
  std::uint32_t skip_chunks = 0;
  std::optional<std::uint32_t> chunks;
  std::string memory;
  std::string scratch;

  [[nodiscard]] bool given() const { return !texts.empty() || !token_ids.empty(); }
};

// `purpose`: what --text is, as a sentence.
void add_text_options(OptionTable& table, TextOptions& options, std::string purpose);

// Adds the files that the text is read from.
void guard_text(const TextOptions& options, std::vector<GuardedFile>& guarded);

// InvalidArgument, naming the option, when a value has no meaning.
[[nodiscard]] Result<calibration::TextRequest> make_text_request(const TextOptions& options);
[[nodiscard]] Result<engine::RunOptions> make_run_options(const TextOptions& options, unsigned threads);

}  // namespace quantfit::cli
