#include "cli/job_options.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <initializer_list>
#include <utility>

#include "cli/suggest.h"
#include "core/byte_size.h"
#include "core/file_util.h"
#include "core/text.h"
#include "optimizer/job/preset.h"
#include "optimizer/job/sensitized.h"
#include "optimizer/llama_cpp/key_override.h"
#include "optimizer/llama_cpp/tensor_role.h"
#include "optimizer/output/recipe_io.h"

namespace quantfit::cli {
namespace {

// The same error with the option's name in front.
template <class T>
Result<T> named(std::string_view option, Result<T> result) {
  if (!result) return fail(result.error().code, "{}: {}", option, result.error().message);
  return result;
}

// More bits per weight than any source has.
constexpr double kMostBits = 16;
// Plain bytes below this are a size whose unit was forgotten.
constexpr std::uint64_t kSmallestPlainSize = 1'000'000;

Result<std::uint64_t> size_option(std::string_view option, const std::string& text) {
  if (text.find(',') != std::string::npos)
    return fail(ErrorCode::InvalidArgument, "{}: '{}': decimals are written with a point", option, text);
  QF_ASSIGN(const std::uint64_t bytes, named(option, parse_byte_size(text)));
  if (bytes != 0 && bytes < kSmallestPlainSize && text.find_first_not_of("0123456789. ") == std::string::npos)
    return fail(ErrorCode::InvalidArgument, "{}: {} without a unit are {} bytes; is {}GiB meant, or {}MiB?",
                option, text, bytes, text, text);
  return bytes;
}

Result<std::optional<std::uint64_t>> optional_size(std::string_view option, const std::string& text) {
  if (text.empty()) return std::optional<std::uint64_t>{};
  QF_ASSIGN(const std::uint64_t bytes, size_option(option, text));
  return std::optional<std::uint64_t>(bytes);
}

// In most of the world 3,5MiB is three and a half; here a comma stands between two values.
Result<void> look_for_decimal_commas(std::string_view option, std::string_view text, bool sizes) {
  const auto has_unit = [](std::string_view piece) {
    return piece.find_first_not_of("0123456789. ") != std::string_view::npos;
  };
  std::string_view rest = text;
  std::string_view before;
  while (true) {
    const std::size_t comma = rest.find(',');
    const std::string_view piece = rest.substr(0, comma);
    // Sizes: only the last has a unit. Rates: nothing has more bits than a double.
    const bool forgotten = sizes ? !before.empty() && !has_unit(before) && has_unit(piece)
                                 : !before.empty() && std::atof(std::string(before).c_str()) <= kMostBits &&
                                       std::atof(std::string(piece).c_str()) > kMostBits;
    if (forgotten)
      return fail(
          ErrorCode::InvalidArgument,
          "{}: '{}' has a comma, which separates two values; decimals are written with a point: {}.{}",
          option, text, before, piece);
    if (comma == std::string_view::npos) return outcome::success();
    before = piece;
    rest.remove_prefix(comma + 1);
  }
}

Error no_format(std::string_view option, const std::string& text) {
  const std::vector<std::string_view> names = format_names();
  const std::string meant = suggestion(text, names);
  return fail(ErrorCode::InvalidArgument, "{}: there is no format {}{}", option, printable(text),
              meant.empty() ? fmt::format("; there are {}", fmt::join(names, ", ")) : meant);
}

Result<Format> format_option(std::string_view option, const std::string& text) {
  const std::optional<Format> format = parse_format(text);
  if (!format) return no_format(option, text);
  return *format;
}

// Formats separated by commas.
Result<std::vector<Format>> format_list(std::string_view option, const std::string& text) {
  for (std::string_view rest = text; !rest.empty();) {
    const std::size_t comma = std::min(rest.find(','), rest.size());
    const std::string one(rest.substr(0, comma));
    if (!one.empty() && !parse_format(one)) return no_format(option, one);
    rest.remove_prefix(std::min(comma + 1, rest.size()));
  }
  return named(option, optimizer::parse_format_list(text));
}

Result<std::vector<optimizer::FormatPin>> pins(std::string_view option,
                                               const std::vector<std::string>& texts) {
  std::vector<optimizer::FormatPin> result;
  for (const std::string& text : texts) {
    // The pattern may hold '=': the format stands behind the last one.
    const std::string type = text.substr(std::min(text.rfind('='), text.size() - 1) + 1);
    auto pin = named(option, optimizer::parse_format_pin(text));
    if (!pin)
      return fail(pin.error().code, "{}{}", pin.error().message,
                  parse_format(type) ? "" : suggestion(type, format_names()));
    result.push_back(std::move(pin).value());
  }
  return result;
}

Result<optimizer::ConstraintRules> constraint_rules(const JobOptions& o) {
  optimizer::ConstraintRules rules;
  if (!o.formats.empty()) {
    QF_ASSIGN(rules.pool, format_list("--formats", o.formats));
  }
  if (!o.exclude_formats.empty()) {
    QF_ASSIGN(rules.excluded, format_list("--exclude-formats", o.exclude_formats));
  }
  if (!o.runtime.empty()) {
    rules.runtime = optimizer::parse_runtime(o.runtime);
    if (!rules.runtime)
      return fail(ErrorCode::InvalidArgument, "--runtime: '{}' is none of cpu, cuda, metal, vulkan{}",
                  o.runtime,
                  suggestion(o.runtime, std::vector<std::string_view>{"cpu", "cuda", "metal", "vulkan"}));
  }
  QF_ASSIGN(rules.pins, pins("--tensor-type", o.tensor_type));
  if (!o.tensor_type_file.empty()) {
    QF_ASSIGN(const std::string text, read_text_file(o.tensor_type_file, optimizer::kMaxRecipeBytes));
    QF_ASSIGN(auto more, named(o.tensor_type_file, optimizer::parse_format_pins(text)));
    for (optimizer::FormatPin& pin : more) pin.given_as = o.tensor_type_file;
    std::ranges::move(more, std::back_inserter(rules.pins));
  }
  if (!o.output_tensor_type.empty()) {
    QF_ASSIGN(rules.output_format, format_option("--output-tensor-type", o.output_tensor_type));
  }
  if (!o.token_embedding_type.empty()) {
    QF_ASSIGN(rules.embedding_format, format_option("--token-embedding-type", o.token_embedding_type));
  }
  rules.leave_output_tensor = o.leave_output_tensor;
  QF_ASSIGN(rules.floors, pins("--min-type", o.min_type));
  QF_ASSIGN(rules.ceilings, pins("--max-type", o.max_type));
  for (const std::string& text : o.tie) {
    QF_ASSIGN(optimizer::Pattern pattern, named("--tie", optimizer::Pattern::compile(text)));
    rules.ties.push_back(std::move(pattern));
  }
  rules.low_bits_without_importance = o.force_without_importance;
  rules.raise_state_space = o.raise_state_space;
  rules.names = {.pin = "--tensor-type",
                 .output_format = "--output-tensor-type",
                 .embedding_format = "--token-embedding-type",
                 .leave_output_tensor = "--leave-output-tensor",
                 .floor = "--min-type",
                 .ceiling = "--max-type",
                 .pool = "--formats",
                 .excluded = "--exclude-formats",
                 .runtime = "--runtime",
                 .tie = "--tie",
                 .low_bits = "--force-low-bits",
                 .raise_state_space = "--raise-ssm",
                 .speed_weight = "--speed-weight",
                 .min_fill = "--min-fill"};
  return rules;
}

// Options that say how the model will run, and mean nothing without the memory that they are about.
Result<void> check_memory_options(const JobOptions& o) {
  const auto first = [](std::initializer_list<std::pair<bool, std::string_view>> options) {
    for (const auto& [given, name] : options)
      if (given) return name;
    return std::string_view{};
  };
  const std::string_view placing = first({{!o.vram_margin.empty(), "--vram-margin"},
                                          {o.cpu_moe, "--cpu-moe"},
                                          {o.n_cpu_moe != 0, "--n-cpu-moe"},
                                          {!o.override_tensor.empty(), "--override-tensor"},
                                          {o.gpu_layers.has_value(), "--gpu-layers"}});
  if (!placing.empty() && o.target_vram.empty())
    return fail(ErrorCode::InvalidArgument, "{} says what is on the GPU: it needs --target-vram", placing);
  const std::string_view running = first({{o.ctx_size != 0, "--ctx-size"},
                                          {o.cache_type_k.has_value(), "--cache-type-k"},
                                          {o.cache_type_v.has_value(), "--cache-type-v"},
                                          {o.parallel.has_value(), "--parallel"},
                                          {o.ubatch.has_value(), "--ubatch"},
                                          {o.swa_full, "--swa-full"}});
  if (!running.empty() && o.target_vram.empty() && o.target_ram.empty())
    return fail(ErrorCode::InvalidArgument, "{} matters to --target-vram and --target-ram only", running);
  return outcome::success();
}

// No target twice: the second file would replace the first.
Result<void> check_distinct(std::string_view option, std::vector<std::string> texts) {
  std::ranges::sort(texts);
  const auto twice = std::ranges::adjacent_find(texts);
  if (twice == texts.end()) return outcome::success();
  return fail(ErrorCode::InvalidArgument, "{}: {} is given twice", option, *twice);
}

bool wants_memory(const JobOptions& o) {
  return !o.target_vram.empty() || !o.target_ram.empty();
}

Result<optimizer::MemoryRequest> memory_request(const JobOptions& o) {
  optimizer::MemoryRequest request;
  QF_ASSIGN(request.vram_bytes, optional_size("--target-vram", o.target_vram));
  QF_ASSIGN(request.ram_bytes, optional_size("--target-ram", o.target_ram));
  request.ctx_size = o.ctx_size;
  if (o.cache_type_k) {
    QF_ASSIGN(request.cache_type_k, format_option("--cache-type-k", *o.cache_type_k));
  }
  if (o.cache_type_v) {
    QF_ASSIGN(request.cache_type_v, format_option("--cache-type-v", *o.cache_type_v));
  }
  if (o.parallel) request.parallel = *o.parallel;
  if (o.ubatch) request.ubatch = *o.ubatch;
  request.swa_full = o.swa_full;
  request.names = {"--override-tensor", "--cpu-moe", "--n-cpu-moe"};
  request.cpu_moe = o.cpu_moe;
  request.n_cpu_moe = o.n_cpu_moe;
  request.gpu_layers = o.gpu_layers;
  for (const std::string& text : o.override_tensor) {
    QF_ASSIGN(auto rules, named("--override-tensor", optimizer::parse_placement_rules(text)));
    std::ranges::move(rules, std::back_inserter(request.overrides));
  }
  QF_ASSIGN(const auto margin, optional_size("--vram-margin", o.vram_margin));
  if (margin) {
    request.margin_bytes = *margin;
    request.runtime_overhead_bytes = 0;  // the margin is then all that is kept free
  }
  return request;
}

}  // namespace

std::vector<std::string_view> preset_names() {
  std::vector<std::string_view> names;
  for (const optimizer::Preset& preset : optimizer::all_presets()) names.push_back(preset.name);
  return names;
}

std::vector<std::string_view> format_names() {
  std::vector<std::string_view> names;
  for (const FormatTraits& format : all_formats())
    if (format.kind == FormatKind::Float || format.kind == FormatKind::Quantized)
      names.push_back(format.name);
  return names;
}

namespace {
std::vector<std::string> texts_of(const std::vector<std::string_view>& names) {
  return {names.begin(), names.end()};
}
}  // namespace

void add_input_options(OptionTable& table, JobOptions& o) {
  table.add("model", o.model, "MODEL.gguf", "GGUF model to start from (the first file, when it is sharded)")
      .needed()
      .file();
  table
      .add(
          "--imatrix", o.importance, "FILE",
          "importance matrix of this model (GGUF or legacy format); without one it is made by running a text "
          "through the model (--text); none: do without, and without formats below 3 bits")
      .file();
  table
      .add("--prune-layers", o.prune_layers, "LIST",
           "leave these layers out of the model, counted from 0 and separated by commas; those behind them "
           "move up, and what is measured and compared is what is left")
      .split_at_commas();
  table
      .add("--state", o.state, "FILE",
           "file that remembers every measurement: an interrupted run continues, another target starts at "
           "once")
      .alias("--state-file")
      .file();
}

void add_calibration_options(OptionTable& table, JobOptions& o) {
  table.group("Calibration", "the model runs on a text; what comes of it is kept beside the state file");
  add_text_options(table, o.text,
                   "text to run through the model, for an importance matrix where none is given and for "
                   "gradients; may be given several times. Without one: a text that ships with quantfit");
  table
      .add("--error-feedback", o.error_feedback, "HOW",
           "encoders make up for the error of a weight in the weights behind it, by how inputs vary "
           "together: on, "
           "off; auto, where the text is long enough to tell")
      .one_of({"auto", "on", "off"});
  table
      .add("--save-imatrix", o.save_imatrix, "FILE",
           "write the importance matrix here too, for other programs; .dat: in the legacy format")
      .not_with("--imatrix")
      .file();
}

void add_objective_options(OptionTable& table, JobOptions& o) {
  table
      .add("--objective", o.objective, "NAME",
           "what an error in each tensor costs: measured, by gradients of the model, in nats of KL "
           "divergence; "
           "prior, by what other models taught; auto, measured where the model can be run")
      .one_of({"auto", "measured", "prior"});
  table.add("--gradient-tokens", o.gradient_tokens, "N", "tokens of the text that gradients are taken from")
      .in("tokens")
      .range(2, 1 << 30)
      .default_is(fmt::format("{}, more for many experts", optimizer::SensitivityRequest::kTokens));
}

void add_candidates_option(OptionTable& table, JobOptions& o) {
  table
      .add("--candidates", o.candidates, "K",
           "write up to K recipes by different rules to a temporary place (--scratch, else beside the "
           "output), run "
           "them on the last eighth of the text, which nothing else is then measured on, and keep the one "
           "that is "
           "nearest to the original; 1: what is predicted decides")
      .in("recipes")
      .range(1, 6);
}

void add_target_options(OptionTable& table, JobOptions& o) {
  table.group("Target", "how large the result may be; never exceeded");
  table
      .add("--target-bpw", o.target_bpw, "BPW",
           "bits per weight over all tensors, for example 4.5 or 4.5678; several, separated by commas, make "
           "several files from one measurement")
      .in("bits per weight")
      .split_at_commas()
      .check([](std::string_view text) { return look_for_decimal_commas("--target-bpw", text, false); });
  table
      .add("--target-size", o.target_size, "SIZE",
           "size of the whole file: 23.5GiB, 24GB, 24G (= 24 * 10^9 bytes) or plain bytes")
      .in("bytes")
      .split_at_commas()
      .check([](std::string_view text) { return look_for_decimal_commas("--target-size", text, true); });
  table
      .add("--target-vram", o.target_vram, "SIZE",
           "memory of the GPU that model, cache and buffers must fit into together")
      .in("bytes");
  table.add("--target-ram", o.target_ram, "SIZE", "likewise for what stays in RAM; a second budget")
      .in("bytes");
  table
      .add("--min-fill", o.min_fill, "SHARE",
           "use at least this share of the budget, for example 99.99%, at the least rise of predicted error; "
           "where no recipe does, what may stay unused is doubled until one fits, with a warning. With "
           "--target-vram and --target-ram: of what each has left for weights")
      .default_is("the lowest error, whatever it leaves unused");
  table
      .add("--preset", o.preset, "NAME", "llama.cpp's named mixture instead of a search: Q4_K_M, IQ2_XS, ...")
      .offer(texts_of(preset_names()));
  table.add("--recipe", o.recipe, "FILE", "formats from a recipe file instead of a search").file();

  table.group("Memory", "how the model will run, for --target-vram and --target-ram");
  table.add("--ctx-size", o.ctx_size, "N", "context in tokens, of all sequences together")
      .alias("-c")
      .in("tokens")
      .default_is("what the model was trained with");
  table.add("--cache-type-k", o.cache_type_k, "FORMAT", "format of the cached keys")
      .alias("-ctk")
      .default_is("f16");
  table.add("--cache-type-v", o.cache_type_v, "FORMAT", "format of the cached values")
      .alias("-ctv")
      .default_is("f16");
  table.add("--parallel", o.parallel, "N", "sequences at a time")
      .alias("-np")
      .range(1, optimizer::kMaxParallel)
      .default_is(std::to_string(optimizer::MemoryRequest{}.parallel));
  table.add("--ubatch", o.ubatch, "N", "tokens computed at a time")
      .alias("-ub")
      .alias("--ubatch-size")
      .in("tokens")
      .range(1, 1 << 20)
      .default_is(std::to_string(optimizer::MemoryRequest{}.ubatch));
  table.add("--vram-margin", o.vram_margin, "SIZE", "memory of the GPU to keep free")
      .in("bytes")
      .default_is("512 MiB for the driver and 512 MiB to spare");
  table.flag("--cpu-moe", o.cpu_moe, "routed experts stay in RAM").alias("-cmoe");
  table.add("--n-cpu-moe", o.n_cpu_moe, "N", "routed experts of the first N layers stay in RAM")
      .alias("-ncmoe")
      .in("layers")
      .default_is("none");
  table.add("--override-tensor", o.override_tensor, "REGEX=CPU", "tensors that stay in RAM").alias("-ot");
  table.add("--gpu-layers", o.gpu_layers, "N", "only the last N layers are on the GPU")
      .alias("-ngl")
      .alias("--n-gpu-layers")
      .in("layers")
      .default_is("all");
  table.flag("--swa-full", o.swa_full, "layers with a sliding window cache the whole context");
}

void add_search_options(OptionTable& table, JobOptions& o) {
  table.group("Formats", "what tensors may be stored as");
  table.add("--formats", o.formats, "LIST", "only these, separated by commas")
      .default_is("all but experimental ones");
  table.add("--exclude-formats", o.exclude_formats, "LIST", "all but these");
  table.add("--runtime", o.runtime, "NAME", "leave out formats that are slow on cpu, cuda, metal or vulkan")
      .offer({"cpu", "cuda", "metal", "vulkan"});
  table.add("--tensor-type", o.tensor_type, "REGEX=TYPE", "pin tensors whose name the pattern is found in");
  table.add("--tensor-type-file", o.tensor_type_file, "FILE", "such pins from a file").file();
  table.add("--output-tensor-type", o.output_tensor_type, "TYPE", "pin the output head")
      .offer(texts_of(format_names()));
  table.add("--token-embedding-type", o.token_embedding_type, "TYPE", "pin the token embedding")
      .offer(texts_of(format_names()));
  table.flag("--raise-ssm", o.raise_state_space,
             "hybrid models: ssm_alpha, ssm_beta and ssm_ba stay as they are, ssm_out gets Q8_0");
  table.flag("--leave-output-tensor", o.leave_output_tensor, "keep the output head as it is");
  table.add("--min-type", o.min_type, "REGEX=TYPE", "at least as many bits per weight as TYPE");
  table.add("--max-type", o.max_type, "REGEX=TYPE", "at most as many bits per weight as TYPE");
  table.add("--tie", o.tie, "REGEX",
            "tensors of a layer that the pattern is found in get one format, for example 'ffn_(gate|up)'");
  table.add("--role-weight", o.role_weight, "REGEX=X",
            "how much the relative error of matching tensors counts (a layer's matrix: about 1)");
  table
      .add("--max-error", o.max_error, "X",
           "leave out formats with a larger relative error unless the budget forces them; 0: never")
      .range(0, 1e9);
  table
      .add("--speed-weight", o.speed_weight, "X",
           "predicted error that one unit of decoding time (a model all in Q8_0) is worth; 0: size and "
           "quality "
           "alone decide")
      .range(0, 1e9);
  table.flag("--allow-requantize", o.allow_requantize, "accept a source that is quantized already");
  table.flag("--force-low-bits", o.force_without_importance,
             "use formats that need an importance matrix without one");

  table.flag("--allow-unmatched", o.allow_unmatched, "accept patterns that are found in no tensor's name");

  table.group("Work", "how hard to try");
  table.add("--effort", o.effort, "NAME", "how long the encoders search").one_of({"fast", "default", "max"});
  table
      .add("--sample-precision", o.sample_precision, "X",
           "rows are measured until the standard error of each error is below this share of it")
      .range(0.0001, 1);
  table.add("--sample-rows", o.sample_rows, "N", "measure at least this many rows of a tensor")
      .in("rows")
      .range(1, 1 << 20);
  table.add("--seed", o.seed, "N", "chooses other rows");
  table
      .add("--kappa", o.kappa, "X",
           "how much more an error along a row's own direction costs (1: as much as any other)")
      .range(1, 100)
      .default_is(fmt::format("{}, and {} for attn_v, ffn_up and ffn_gate", optimizer::ErrorModel::kKappa,
                              optimizer::ErrorModel::kAveragedKappa));
  add_threads_option(table, o.threads).alias("--nthreads");
}

Option& add_threads_option(OptionTable& table, unsigned& threads, std::string sentence) {
  return table.add("--threads", threads, "N", std::move(sentence))
      .alias("-t")
      .range(1, kMaxThreads)
      .default_is("all cores");
}

void add_override_option(OptionTable& table, JobOptions& o) {
  table.add("--override-kv", o.override_kv, "KEY=TYPE:VALUE",
            "the written file has this metadata instead of the model's; TYPE is int, float, bool or str");
}

Result<std::vector<GgufKeyValue>> make_overrides(const JobOptions& o, const GgufMetadata& source) {
  std::vector<GgufKeyValue> overrides;
  for (const std::string& text : o.override_kv) {
    QF_ASSIGN(GgufKeyValue value, named("--override-kv", optimizer::parse_key_override(text, source)));
    for (const GgufKeyValue& other : overrides)
      if (other.key == value.key)
        return fail(ErrorCode::InvalidArgument, "--override-kv: {} is given twice", printable(value.key));
    overrides.push_back(std::move(value));
  }
  return overrides;
}

void add_reuse_options(OptionTable& table, JobOptions& o) {
  table
      .add("--reuse", o.reuse, "FILE.gguf",
           "take tensors from a file that quantfit wrote earlier (the first, when it is sharded) wherever "
           "encoding anew would give the same bytes; may be given several times")
      .file();
  table
      .add("--cache", o.cache, "FOLDER",
           "keep encoded tensors in this folder, and take them from there as with --reuse; several programs "
           "may share it")
      .folder();
  table.add("--cache-size", o.cache_size, "SIZE", "most bytes in it; what was used longest ago goes first")
      .in("bytes")
      .default_is("50GB");
}

Result<optimizer::JobRequest> make_request(const JobOptions& o) {
  optimizer::JobRequest request;
  if (o.objective == "prior") request.objective = optimizer::Objective::Prior;
  if (o.objective == "measured" && !o.role_weight.empty())
    return fail(ErrorCode::InvalidArgument,
                "--role-weight speaks the prior's language: it cannot go with --objective measured");
  if (o.importance == kNoImportance && !o.save_imatrix.empty())
    return fail(ErrorCode::InvalidArgument, "--imatrix none and --save-imatrix exclude one another");
  request.paths = {o.model, o.importance == kNoImportance ? "" : o.importance, o.state, o.prune_layers};
  QF_ASSIGN(request.policy.rules, constraint_rules(o));
  request.policy.allow_requantize = o.allow_requantize;
  for (const std::string& text : o.role_weight) {
    QF_ASSIGN(optimizer::RoleWeight weight, named("--role-weight", optimizer::parse_role_weight(text)));
    weight.given_as = "--role-weight";
    request.role_weights.push_back(std::move(weight));
  }
  if (!o.split_max_size.empty()) {
    QF_ASSIGN(request.split.max_bytes, size_option("--split-max-size", o.split_max_size));
    if (request.split.max_bytes == 0)
      return fail(ErrorCode::InvalidArgument, "--split-max-size: a file of 0 bytes holds nothing");
  }
  request.split.max_tensors = o.split_max_tensors;
  if (o.keep_split && request.split.any())
    return fail(ErrorCode::InvalidArgument,
                "--keep-split cuts as the source is cut: it cannot go with --split-max-size and "
                "--split-max-tensors");
  request.split.as_source = o.keep_split;
  for (const std::string& path : o.reuse) request.reuse.files.emplace_back(path);
  request.reuse.cache = o.cache;
  if (!o.cache_size.empty()) {
    if (o.cache.empty())
      return fail(ErrorCode::InvalidArgument, "--cache-size is about the folder that --cache names");
    QF_ASSIGN(request.reuse.cache_bytes, size_option("--cache-size", o.cache_size));
  }
  request.max_nmse = o.max_error;
  request.speed_weight = o.speed_weight;
  if (o.min_fill) {
    QF_ASSIGN(const Decimal share, named("--min-fill", parse_share(*o.min_fill)));
    request.min_fill = optimizer::FillShare{*o.min_fill, share};
  }
  request.sampler.sampling.precision = o.sample_precision;
  request.sampler.sampling.min_rows = o.sample_rows;
  request.sampler.sampling.seed = o.seed;
  if (o.kappa) request.sampler.error_model.kappa = static_cast<float>(*o.kappa);
  const auto effort = kernels::parse_effort(o.effort);
  if (!effort)
    return fail(ErrorCode::InvalidArgument, "--effort: '{}' is none of fast, default, max", o.effort);
  request.sampler.effort = *effort;
  request.sampler.threads = o.threads;
  request.candidates = o.candidates;
  request.program_version = QUANTFIT_VERSION;
  return request;
}

Result<void> check_patterns(const JobOptions& options, const optimizer::JobRequest& request,
                            std::span<const TensorInfo> tensors) {
  if (options.allow_unmatched) return outcome::success();
  const auto check = [&](std::string_view option, const optimizer::Pattern& pattern) -> Result<void> {
    std::vector<std::string_view> roles;
    for (const TensorInfo& tensor : tensors) {
      if (pattern.found_in(tensor.name)) return outcome::success();
      const std::string_view role = optimizer::tensor_role(tensor.name);
      if (std::ranges::find(roles, role) == roles.end()) roles.push_back(role);
    }
    const std::string meant = suggestion(pattern.text(), roles);
    if (!meant.empty())
      return fail(ErrorCode::InvalidArgument,
                  "{}: '{}' is found in no tensor's name{} (--allow-unmatched accepts that)", option,
                  pattern.text(), meant);
    return fail(ErrorCode::InvalidArgument,
                "{}: '{}' is found in no tensor's name (such as '{}'); --allow-unmatched accepts that",
                option, pattern.text(), tensors.empty() ? "" : tensors[tensors.size() / 2].name);
  };
  const optimizer::ConstraintRules& rules = request.policy.rules;
  // Pins of a file come after those of the command line, and may be meant for many models.
  for (std::size_t i = 0; i < options.tensor_type.size(); ++i)
    QF_TRY(check("--tensor-type", rules.pins[i].pattern));
  for (const optimizer::FormatPin& rule : rules.floors) QF_TRY(check("--min-type", rule.pattern));
  for (const optimizer::FormatPin& rule : rules.ceilings) QF_TRY(check("--max-type", rule.pattern));
  for (const optimizer::Pattern& pattern : rules.ties) QF_TRY(check("--tie", pattern));
  for (const optimizer::RoleWeight& role : request.role_weights) QF_TRY(check("--role-weight", role.pattern));
  if (wants_memory(options)) {
    QF_ASSIGN(const optimizer::MemoryRequest memory, memory_request(options));
    for (const optimizer::PlacementRule& rule : memory.overrides)
      QF_TRY(check("--override-tensor", rule.pattern));
  }
  return outcome::success();
}

Result<void> check_targets(const JobOptions& o) {
  const int kinds = (o.target_bpw.empty() ? 0 : 1) + (o.target_size.empty() ? 0 : 1) +
                    (wants_memory(o) ? 1 : 0) + (o.preset.empty() ? 0 : 1) + (o.recipe.empty() ? 0 : 1);
  if (kinds == 0)
    return fail(ErrorCode::InvalidArgument,
                "a target is needed: --target-bpw, --target-size, --target-vram, --preset or --recipe");
  if (kinds > 1)
    return fail(ErrorCode::InvalidArgument,
                "only one kind of target at a time: --target-bpw, --target-size, --target-vram, --preset or "
                "--recipe");
  if (o.min_fill && (!o.preset.empty() || !o.recipe.empty()))
    return fail(ErrorCode::InvalidArgument,
                "--min-fill: {} gives every format already; there is no budget to fill",
                o.preset.empty() ? "--recipe" : "--preset");
  for (const std::string& text : o.target_bpw) {
    QF_TRY(named("--target-bpw", budget_for_bpw(8, text)));
  }
  std::vector<std::string> sizes;
  for (const std::string& text : o.target_size) {
    QF_ASSIGN(const std::uint64_t bytes, size_option("--target-size", text));
    sizes.push_back(fmt::format("{} bytes", bytes));
  }
  QF_TRY(check_distinct("--target-bpw", o.target_bpw));
  QF_TRY(check_distinct("--target-size", std::move(sizes)));
  QF_TRY(check_memory_options(o));
  QF_TRY(memory_request(o));
  if (!o.preset.empty() && optimizer::find_preset(o.preset) == nullptr)
    return fail(ErrorCode::InvalidArgument, "--preset: llama.cpp has no mixture {}{}; there are {}",
                printable(o.preset), suggestion(o.preset, preset_names()), fmt::join(preset_names(), ", "));
  return outcome::success();
}

Result<std::vector<optimizer::Target>> make_targets(const JobOptions& o, const optimizer::JobRequest& request,
                                                    optimizer::JobInputs& inputs) {
  QF_TRY(check_targets(o));
  std::vector<optimizer::Target> targets;
  for (const std::string& text : o.target_bpw) targets.emplace_back(optimizer::BpwTarget{text});
  for (const std::string& text : o.target_size) {
    QF_ASSIGN(const std::uint64_t bytes, parse_byte_size(text));
    targets.emplace_back(optimizer::FileSizeTarget{bytes});
  }
  if (wants_memory(o)) {
    QF_ASSIGN(optimizer::MemoryRequest memory, memory_request(o));
    targets.emplace_back(optimizer::MemoryTarget{std::move(memory)});
  }
  const auto add_recipe = [&](optimizer::GivenRecipe given) {
    std::ranges::move(given.notes, std::back_inserter(inputs.warnings));
    targets.emplace_back(std::move(given.target));
  };
  if (!o.preset.empty()) {
    QF_ASSIGN(auto given, named("--preset", optimizer::preset_recipe(inputs, request, o.preset)));
    add_recipe(std::move(given));
  }
  if (!o.recipe.empty()) {
    QF_ASSIGN(const std::string text, read_text_file(o.recipe, optimizer::kMaxRecipeBytes));
    QF_ASSIGN(const optimizer::RecipeText parsed, named(o.recipe, optimizer::parse_recipe_text(text)));
    QF_ASSIGN(auto given, named("--recipe", optimizer::file_recipe(inputs, request, o.recipe, parsed)));
    add_recipe(std::move(given));
  }
  return targets;
}

}  // namespace quantfit::cli
