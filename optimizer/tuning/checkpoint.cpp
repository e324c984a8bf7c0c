#include "optimizer/tuning/checkpoint.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "core/digest.h"
#include "core/fingerprint.h"
#include "core/gguf_writer.h"

namespace quantfit::tuning {
namespace {

constexpr std::string_view kType = "quantfit.tuning";
constexpr std::string_view kIdentity = "tuning.identity", kDigest = "tuning.digest", kStep = "tuning.step";
constexpr std::string_view kQuestion = "tuning.question", kLevel = "tuning.level", kSteps = "tuning.steps",
                           kChunks = "tuning.chunks", kAllowed = "tuning.allowed_seconds",
                           kForeseen = "tuning.foreseen_seconds";

// Attempts as numbers, one after another.
std::vector<double> numbers_of(const std::vector<Attempt>& attempts) {
  std::vector<double> out;
  for (const Attempt& one : attempts) {
    for (const double number :
         {static_cast<double>(one.level), static_cast<double>(one.moments), one.rates,
          static_cast<double>(one.steps), static_cast<double>(one.best_step), one.gain.before, one.gain.after,
          one.gain.difference, one.gain.difference_error, static_cast<double>(one.codes),
          static_cast<double>(one.codes_moved), one.kept ? 1.0 : 0.0, one.given_up ? 1.0 : 0.0,
          static_cast<double>(one.looks.size())})
      out.push_back(number);
    for (const Look& look : one.looks) {
      out.push_back(look.step);
      out.push_back(look.divergence);
    }
  }
  return out;
}

// The same back; nothing where they are none.
std::vector<Attempt> attempts_of(std::span<const double> numbers) {
  constexpr double kMost = 9e15;  // whole numbers below it are exact
  std::vector<Attempt> out;
  std::size_t at = 0;
  bool sound = true;
  const auto next = [&] {
    sound = sound && at < numbers.size();
    return sound ? numbers[at++] : 0.0;
  };
  const auto whole = [&]() -> std::uint64_t {
    const double value = next();
    sound = sound && value >= 0 && value < kMost;
    return sound ? static_cast<std::uint64_t>(value) : 0;
  };
  while (sound && at < numbers.size()) {
    Attempt one;
    const std::uint64_t level = whole();
    sound = sound && level <= static_cast<std::uint64_t>(Level::Codes);
    one.level = static_cast<Level>(level);
    one.moments = whole() == 0 ? MomentForm::Whole : MomentForm::Bytes;
    one.rates = next();
    one.steps = static_cast<std::uint32_t>(whole());
    one.best_step = static_cast<std::uint32_t>(whole());
    one.gain.before = next();
    one.gain.after = next();
    one.gain.difference = next();
    one.gain.difference_error = next();
    one.codes = whole();
    one.codes_moved = whole();
    one.kept = whole() != 0;
    one.given_up = whole() != 0;
    for (std::uint64_t looks = whole(); sound && looks > 0; --looks) {
      const auto step = static_cast<std::uint32_t>(whole());
      one.looks.push_back({step, next()});
    }
    out.push_back(std::move(one));
  }
  return sound ? out : std::vector<Attempt>();
}

struct Part {
  std::string name;
  Format format = Format::I8;
  std::span<const std::byte> bytes;
};

std::span<const std::byte> bytes_of(const std::vector<double>& values) {
  return std::as_bytes(std::span(values));
}

std::string part_name(std::size_t parameter, std::size_t part) {
  return fmt::format("{}.{}", parameter, part);
}
std::string best_name(std::size_t parameter) {
  return fmt::format("{}.best", parameter);
}

std::vector<double> doubles_of(const Model& file, std::string_view name) {
  const TensorInfo* tensor = file.find(name);
  if (tensor == nullptr || tensor->format != Format::F64) return {};
  const auto data = file.data(*tensor);
  std::vector<double> out(data.size() / sizeof(double));
  if (!out.empty()) std::memcpy(out.data(), data.data(), out.size() * sizeof(double));
  return out;
}

// Changes whenever the same inputs give other bytes than before.
constexpr std::uint64_t kTuningVersion = 4;

}  // namespace

std::string tuning_identity(const Model& original, const Model& quantized, const calibration::Text& text,
                            const TuneOptions& options) {
  Digest digest;
  digest.number(kTuningVersion);
  digest.number(engine::kEngineVersion);
  digest.text(fingerprint(original));
  digest.text(fingerprint(quantized));
  digest.text(text.fingerprint);
  for (const std::uint64_t number :
       {std::uint64_t{options.level ? 1 + static_cast<std::uint64_t>(*options.level) : 0},
        std::uint64_t{options.moments ? 1 + static_cast<std::uint64_t>(*options.moments) : 0},
        std::uint64_t{static_cast<std::uint64_t>(options.form)}, std::uint64_t{options.steps},
        std::uint64_t{options.step_tokens}, std::uint64_t{options.seed}})
    digest.number(number);
  digest.values(
      std::vector<double>{options.value_rate, options.scale_rate, options.code_rate, options.spread});
  return digest.hex();
}

std::uint64_t checkpoint_bytes(Parameters& parameters) {
  std::uint64_t out = 0;
  for (Parameter& one : parameters.all()) {
    out += one.bytes.size();
    for (const auto part : one.state()) out += part.size();
  }
  return out;
}

Result<void> save_checkpoint(const std::filesystem::path& path, const std::string& identity,
                             const TimedChoice* choice, const Standing& standing, Parameters& parameters,
                             const TensorBytes& best_bytes) {
  const std::vector<double> history = numbers_of(standing.attempts);
  std::vector<Part> parts{{"history", Format::F64, bytes_of(history)},
                          {"before", Format::F64, bytes_of(standing.before)},
                          {"best", Format::F64, bytes_of(standing.best)}};
  for (std::size_t p = 0; p < parameters.all().size(); ++p) {
    const auto state = parameters.all()[p].state();
    for (std::size_t i = 0; i < state.size(); ++i)
      if (!state[i].empty()) parts.push_back({part_name(p, i), Format::I8, state[i]});
    parts.push_back({best_name(p), Format::I8, best_bytes[p]});
  }
  Digest digest;
  std::vector<TensorInfo> infos;
  for (const Part& part : parts) {
    digest.bytes(part.bytes);
    TensorInfo info;
    info.name = part.name;
    info.n_dims = 1;
    info.format = part.format;
    info.ne = {part.bytes.size() / (part.format == Format::F64 ? sizeof(double) : 1), 1, 1, 1};
    infos.push_back(std::move(info));
  }
  GgufMetadata metadata;
  metadata.add(GgufKeyValue::of_string("general.type", kType));
  metadata.add(GgufKeyValue::of_string(std::string(kIdentity), identity));
  metadata.add(GgufKeyValue::of_string(std::string(kDigest), digest.hex()));
  metadata.add(GgufKeyValue::of_uint32(std::string(kStep), standing.step));
  if (choice != nullptr) {
    metadata.add(GgufKeyValue::of_string(std::string(kQuestion), choice->question));
    metadata.add(GgufKeyValue::of_uint32(std::string(kLevel), static_cast<std::uint32_t>(choice->level)));
    metadata.add(GgufKeyValue::of_uint32(std::string(kSteps), choice->steps));
    metadata.add(GgufKeyValue::of_uint32(std::string(kChunks), choice->chunks));
    metadata.add(
        GgufKeyValue::of_float32(std::string(kAllowed), static_cast<float>(choice->allowed_seconds)));
    metadata.add(
        GgufKeyValue::of_float32(std::string(kForeseen), static_cast<float>(choice->foreseen_seconds)));
  }
  QF_ASSIGN(GgufWriter writer, GgufWriter::create(path, metadata, infos));
  for (const Part& part : parts) QF_TRY(writer.append(part.bytes));
  return writer.commit();
}

std::optional<TimedChoice> choice_of_checkpoint(const std::filesystem::path& path,
                                                const std::string& question) {
  std::error_code ignored;
  if (!std::filesystem::is_regular_file(path, ignored)) return std::nullopt;
  const auto file = Model::open(path);
  if (!file) return std::nullopt;
  const GgufMetadata& metadata = file.value().metadata();
  const auto level = metadata.uint(kLevel), steps = metadata.uint(kSteps), chunks = metadata.uint(kChunks);
  const auto allowed = metadata.number(kAllowed), foreseen = metadata.number(kForeseen);
  if (metadata.string("general.type") != kType || metadata.string(kQuestion) != question || !level ||
      *level > static_cast<std::uint64_t>(Level::Codes) || !steps || *steps == 0 || *steps > 0xFFFFFFFFU ||
      !chunks || *chunks == 0 || *chunks > 0xFFFFFFFFU || !allowed || !foreseen)
    return std::nullopt;
  return TimedChoice{static_cast<Level>(*level),
                     static_cast<std::uint32_t>(*steps),
                     static_cast<std::uint32_t>(*chunks),
                     *allowed,
                     *foreseen,
                     question};
}

bool Checkpoint::read(const std::string& identity) {
  const GgufMetadata& metadata = file_.metadata();
  const std::optional<std::uint64_t> step = metadata.uint(kStep);
  if (metadata.string(kIdentity) != identity || !step) return false;
  Digest digest;
  for (const TensorInfo& tensor : file_.tensors()) digest.bytes(file_.data(tensor));
  if (metadata.string(kDigest) != digest.hex()) return false;
  standing_.attempts = attempts_of(doubles_of(file_, "history"));
  standing_.before = doubles_of(file_, "before");
  standing_.best = doubles_of(file_, "best");
  standing_.step = static_cast<std::uint32_t>(*step);
  return !standing_.attempts.empty();
}

Result<std::optional<Checkpoint>> Checkpoint::open(const std::filesystem::path& path,
                                                   const std::string& identity) {
  std::error_code ignored;
  if (!std::filesystem::exists(path, ignored)) return std::nullopt;
  auto file = Model::open(path);
  if (!file || file.value().metadata().string("general.type") != kType)
    return fail(ErrorCode::InvalidArgument, "{}: is in the way of the tuning's checkpoint", path.string());
  {
    Checkpoint out(std::move(file).value());
    if (out.read(identity)) return out;
  }
  std::filesystem::remove(path, ignored);
  return std::nullopt;
}

bool Checkpoint::restore(Parameters& parameters, TensorBytes& best_bytes) const {
  std::vector<std::pair<std::span<const std::byte>, std::span<std::byte>>> copies;
  const auto add = [&](const std::string& name, std::span<std::byte> to) {
    const TensorInfo* tensor = file_.find(name);
    const auto from = tensor == nullptr ? std::span<const std::byte>() : file_.data(*tensor);
    copies.emplace_back(from, to);
    return from.size() == to.size();
  };
  for (std::size_t p = 0; p < parameters.all().size(); ++p) {
    const auto state = parameters.all()[p].state();
    for (std::size_t i = 0; i < state.size(); ++i)
      if (!add(part_name(p, i), state[i])) return false;
    if (!add(best_name(p), best_bytes[p])) return false;
  }
  for (const auto& [from, to] : copies) std::ranges::copy(from, to.begin());
  return true;
}

}  // namespace quantfit::tuning
