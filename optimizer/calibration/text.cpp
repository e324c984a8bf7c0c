#include "optimizer/calibration/text.h"

#include <algorithm>
#include <iterator>
#include <limits>
#include <utility>

#include "core/calibration_text/default_calibration_text.h"
#include "core/digest.h"
#include "core/file_util.h"
#include "core/tokenizer/token_ids_file.h"
#include "core/tokenizer/tokenizer.h"

namespace quantfit::calibration {
namespace {

constexpr std::uint64_t kMaxTextBytes = (std::uint64_t{1} << 31) - 1;

std::string path_of(const Model& model) {
  return model.shards()[0].path.string();
}

// What a window begins with when only the metadata, not the tokenizer, is understood.
std::optional<TokenId> beginning_of(const GgufMetadata& metadata) {
  const GgufKeyValue* wanted = metadata.find("tokenizer.ggml.add_bos_token");
  const GgufKeyValue* token = metadata.find("tokenizer.ggml.bos_token_id");
  if (wanted == nullptr || token == nullptr || !wanted->as_bool().value_or(false)) return std::nullopt;
  const std::optional<std::int64_t> id = token->as_int();
  if (!id || *id < 0 || *id > std::numeric_limits<TokenId>::max()) return std::nullopt;
  return static_cast<TokenId>(*id);
}

struct Tokens {
  std::vector<TokenId> ids;
  std::vector<std::string> names;
  std::optional<TokenId> beginning;
};

Result<Tokens> tokens_of_ids(const Model& model, const std::filesystem::path& path, std::uint64_t rows) {
  Tokens out;
  QF_ASSIGN(out.ids, read_token_ids(path, rows));
  out.names.push_back(path.filename().string());
  const auto tokenizer = Tokenizer::from_metadata(model.metadata(), path_of(model));
  out.beginning = tokenizer ? tokenizer.value().beginning_token() : beginning_of(model.metadata());
  return out;
}

Result<Tokens> tokens_of_texts(const Model& model, const std::vector<std::filesystem::path>& paths,
                               std::uint64_t rows) {
  auto made = Tokenizer::from_metadata(model.metadata(), path_of(model));
  if (!made) {
    Error error = std::move(made).error();
    if (error.code == ErrorCode::Unsupported)
      error.message += "; token ids made elsewhere can take the place of a text (--token-ids)";
    return error;
  }
  const Tokenizer& tokenizer = made.value();
  if (tokenizer.vocabulary_size() > rows)
    return fail(ErrorCode::Malformed, "{}: a vocabulary of {} tokens, but the embedding has {} rows",
                path_of(model), tokenizer.vocabulary_size(), rows);
  Tokens out;
  out.beginning = tokenizer.beginning_token();
  const auto add = [&](std::string_view text, std::string name) -> Result<void> {
    auto tokens = tokens_of_text(tokenizer, text);
    if (!tokens) return fail(tokens.error().code, "{}: {}", name, tokens.error().message);
    std::ranges::copy(tokens.value(), std::back_inserter(out.ids));
    out.names.push_back(std::move(name));
    return outcome::success();
  };
  if (paths.empty()) QF_TRY(add(default_calibration_text(), "the calibration text of quantfit"));
  for (const std::filesystem::path& path : paths) {
    QF_ASSIGN(const std::string text, read_text_file(path, kMaxTextBytes));
    if (text.empty()) return fail(ErrorCode::InvalidArgument, "{}: an empty text", path.string());
    QF_TRY(add(text, path.filename().string()));
  }
  return out;
}

}  // namespace

namespace {

// Windows index(0), index(1), ... as the model reads them.
template <class Index>
engine::TokenWindows picked(const TokenWindows& windows, std::size_t count, const Index& index) {
  engine::TokenWindows out;
  const std::size_t length = windows.window_tokens();
  out.tokens.resize(count * length);
  out.lengths.assign(count, static_cast<std::uint32_t>(length));
  std::vector<TokenId> window(length);
  for (std::size_t i = 0; i < count; ++i) {
    windows.inputs(index(i), window);
    std::ranges::copy(window, out.tokens.begin() + static_cast<std::ptrdiff_t>(i * length));
  }
  return out;
}

}  // namespace

engine::TokenWindows Text::inputs(std::size_t first, std::size_t count) const {
  return picked(windows, count, [&](std::size_t i) { return first + i; });
}

engine::TokenWindows Text::spread(std::size_t count) const {
  const std::size_t all = windows.count();
  count = std::min(count, all);
  return picked(windows, count, [&](std::size_t i) { return i * all / count; });
}

Result<Text> read_text(const Model& model, const TextRequest& request) {
  if (!request.token_ids.empty() && !request.texts.empty())
    return fail(ErrorCode::InvalidArgument, "token ids take the place of texts: give one of the two");
  const TensorInfo* embedding = model.find("token_embd.weight");
  if (embedding == nullptr)
    return fail(ErrorCode::Malformed, "{}: no tensor 'token_embd.weight': not a language model",
                path_of(model));
  const std::uint64_t rows = embedding->rows();
  auto read = request.token_ids.empty() ? tokens_of_texts(model, request.texts, rows)
                                        : tokens_of_ids(model, request.token_ids, rows);
  if (!read) return std::move(read).error();
  Tokens tokens = std::move(read).value();
  auto cut =
      TokenWindows::cut(std::move(tokens.ids), request.context, tokens.beginning, request.skip, request.most);
  if (!cut) {
    std::string names;
    for (const std::string& name : tokens.names) names += (names.empty() ? "" : ", ") + name;
    return fail(cut.error().code, "{}: {}", names, cut.error().message);
  }
  Text text{std::move(cut).value(), std::move(tokens.names), {}};
  Digest digest;
  digest.number(text.windows.window_tokens());
  std::vector<TokenId> inputs(text.windows.window_tokens());
  for (std::size_t i = 0; i < text.windows.count(); ++i) {
    text.windows.inputs(i, inputs);
    digest.values(inputs);
    digest.bytes(std::as_bytes(text.windows.text(i)));
  }
  text.fingerprint = digest.hex();
  return text;
}

Result<void> check_same_tokens(const Model& base, const Model& candidate) {
  constexpr std::string_view kKeys[] = {"tokenizer.ggml.model", "tokenizer.ggml.pre", "tokenizer.ggml.tokens",
                                        "tokenizer.ggml.token_type"};
  for (const std::string_view key : kKeys) {
    const GgufKeyValue* ours = base.metadata().find(key);
    const GgufKeyValue* theirs = candidate.metadata().find(key);
    if (ours == nullptr || theirs == nullptr) continue;
    if (ours->bytes != theirs->bytes)
      return fail(ErrorCode::ShapeMismatch,
                  "{} and {} have different vocabularies ({}): their predictions cannot be compared",
                  path_of(base), path_of(candidate), key);
  }
  const TensorInfo* ours = base.find("token_embd.weight");
  const TensorInfo* theirs = candidate.find("token_embd.weight");
  if (ours != nullptr && theirs != nullptr && ours->rows() != theirs->rows())
    return fail(ErrorCode::ShapeMismatch, "{} has {} tokens, {} has {}: their predictions cannot be compared",
                path_of(base), ours->rows(), path_of(candidate), theirs->rows());
  return outcome::success();
}

}  // namespace quantfit::calibration
