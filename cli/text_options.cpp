#include "cli/text_options.h"

#include <utility>

#include "core/byte_size.h"

namespace quantfit::cli {
namespace {

// Longer than any model's context.
constexpr double kMostContext = 1 << 24;
// Less than this is a forgotten unit.
constexpr std::uint64_t kLeastMemory = 1'000'000;

}  // namespace

void add_text_options(OptionTable& table, TextOptions& o, std::string purpose) {
  table.add("--text", o.texts, "FILE", std::move(purpose)).file();
  table.add("--token-ids", o.token_ids, "FILE", "numbers of tokens in place of a text, separated by blanks")
      .not_with("--text")
      .file();
  table.add("--context", o.context, "N", "tokens of a chunk; chunks are read independently of one another")
      .in("tokens")
      .range(2, kMostContext);
  table.add("--chunks", o.chunks, "N", "read at most so many chunks")
      .range(1, 4294967295.0)
      .default_is("all");
  table.add("--skip-chunks", o.skip_chunks, "N", "leave out so many chunks at the beginning");
  table.add("--memory", o.memory, "SIZE", "memory that running the model may take beside its file")
      .in("bytes")
      .default_is("what makes it fast");
  table.add("--scratch", o.scratch, "FOLDER", "where states of the model go that do not fit into --memory")
      .default_is("the system's folder for temporary files")
      .folder();
}

void guard_text(const TextOptions& o, std::vector<GuardedFile>& guarded) {
  for (const std::string& text : o.texts) guarded.push_back({text, "the text"});
  guarded.push_back({o.token_ids, "the token ids"});
}

Result<calibration::TextRequest> make_text_request(const TextOptions& o) {
  calibration::TextRequest request;
  for (const std::string& text : o.texts) {
    if (text.empty()) return fail(ErrorCode::InvalidArgument, "--text: an empty name");
    request.texts.emplace_back(text);
  }
  request.token_ids = o.token_ids;
  request.context = o.context;
  request.skip = o.skip_chunks;
  request.most = o.chunks;
  return request;
}

Result<engine::RunOptions> make_run_options(const TextOptions& o, unsigned threads) {
  engine::RunOptions run;
  run.threads = threads;
  run.scratch_folder = o.scratch;
  if (!o.scratch.empty() && !std::filesystem::is_directory(run.scratch_folder))
    return fail(ErrorCode::InvalidArgument, "--scratch: {} is no folder", o.scratch);
  if (!o.memory.empty()) {
    auto bytes = parse_byte_size(o.memory);
    if (!bytes) return fail(bytes.error().code, "--memory: {}", bytes.error().message);
    if (bytes.value() < kLeastMemory)
      return fail(ErrorCode::InvalidArgument, "--memory: {} are {} bytes; is {}GiB meant?", o.memory,
                  bytes.value(), o.memory);
    run.memory_limit = bytes.value();
  }
  return run;
}

}  // namespace quantfit::cli
