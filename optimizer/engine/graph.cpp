#include "optimizer/engine/graph.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numbers>
#include <string_view>
#include <unordered_map>
#include <unordered_set>

namespace quantfit::engine {
namespace {

// Bounds that keep every later product of a few of these numbers inside 64 bits; real models stay far below.
constexpr std::uint64_t kMaxDimension = 1U << 24;
constexpr std::uint64_t kMaxBlocks = 1U << 16;
constexpr std::uint64_t kMaxHeads = 1U << 16;

enum class Need { Required, Optional };

// Reads keys and tensors; the first thing that is wrong stays in error(), and
// everything after it yields nothing.
class Resolver {
 public:
  Resolver(const Model& model, const ArchitectureTraits& traits)
      : model_(model), traits_(traits), prefix_(std::string(traits.name) + ".") {}

  Result<ModelGraph> run();

 private:
  // Keys.
  // Parameters of xIELU are the only keys of models without the family's prefix.
  const GgufKeyValue* key(std::string_view suffix) const {
    return model_.metadata().find(suffix.starts_with("xielu.") ? std::string(suffix)
                                                               : prefix_ + std::string(suffix));
  }
  std::uint64_t uint_or(std::string_view suffix, std::uint64_t fallback, std::uint64_t most = kMaxDimension);
  std::uint64_t require_uint(std::string_view suffix, std::uint64_t most = kMaxDimension);
  // Of a layer: a scalar serves all, an array has one entry per block.
  std::uint64_t layer_uint(std::string_view suffix, std::uint32_t layer, std::uint64_t fallback);
  // The number that all entries are; some files spell one that is the same for all layers as an array.
  std::optional<std::uint64_t> uniform(const GgufKeyValue& array);
  double number_or(std::string_view suffix, double fallback);
  double layer_number(std::string_view suffix, std::uint32_t layer, double fallback);
  bool bool_or(std::string_view suffix, bool fallback);
  std::string string_or(std::string_view suffix, std::string_view fallback) const;
  std::optional<std::vector<std::int64_t>> int_array(std::string_view suffix) const;

  // Tensors. Names without suffix are accepted where the one with suffix is absent.
  const TensorInfo* find(const std::string& name, std::string_view suffix, Need need);
  const TensorInfo* vector(const std::string& name, std::string_view suffix, std::uint64_t size, Need need);
  Matrix matrix(const std::string& name, std::uint64_t columns, std::uint64_t rows, std::uint64_t count,
                Need need);
  Norm norm(const std::string& name, std::uint64_t size, Need need, std::uint64_t weight_rows = 1);
  bool exists(const std::string& name) const {
    return model_.find(name + ".weight") != nullptr || model_.find(name) != nullptr;
  }
  std::string block(std::string_view name) const { return fmt::format("blk.{}.{}", layer_, name); }

  void stop(Error error) {
    if (!error_) error_ = std::move(error);
  }
  template <class... Args>
  void stop(ErrorCode code, fmt::format_string<Args...> format, Args&&... args) {
    stop(Error{code, fmt::format("{}: {}", file(), fmt::format(format, std::forward<Args>(args)...))});
  }
  std::string file() const {
    return model_.shards().empty() ? "model" : model_.shards().front().path.string();
  }

  void globals();
  void windows();
  LayerGraph layer();
  Mixer mixer_of_layer();
  void attention(LayerGraph& out);
  void latent(LayerGraph& out);
  void gated_delta(LayerGraph& out);
  void key_delta(LayerGraph& out);
  void mamba2(LayerGraph& out);
  void short_convolution(LayerGraph& out);
  FfnGraph ffn(std::string_view stem, std::uint64_t columns, std::uint64_t count, double limit, Need need);
  void experts(LayerGraph& out);
  bool rope_in_layer() const;
  std::uint32_t rope_spec(std::uint64_t dims, bool windowed, std::uint64_t head_dim);
  void refuse_unknown_tensors();

  const Model& model_;
  const ArchitectureTraits& traits_;
  std::string prefix_;
  std::optional<Error> error_;
  std::unordered_set<const TensorInfo*> used_;
  std::unordered_map<const GgufKeyValue*, std::optional<std::uint64_t>> uniform_;

  ModelGraph graph_;
  std::uint32_t blocks_ = 0;  // block_count, draft heads included
  std::uint32_t layer_ = 0;
  float epsilon_ = 0;
  float rms_epsilon_ = 0;  // of L2 and unweighted norms
  NormKind norm_kind_ = NormKind::Rms;
  std::uint64_t heads_default_ = 0;
  std::vector<bool> windowed_;
  std::uint64_t window_tokens_ = 0;
  std::vector<std::uint32_t> layer_tensor_begin_;
};

std::uint64_t Resolver::uint_or(std::string_view suffix, std::uint64_t fallback, std::uint64_t most) {
  const GgufKeyValue* value = key(suffix);
  if (value == nullptr) return fallback;
  std::optional<std::uint64_t> number = value->as_uint();
  if (!number && value->type == GgufType::Array) number = uniform(*value);
  if (!number || *number > most) {
    stop(ErrorCode::Malformed, "key '{}' is not a number from 0 to {}", value->key, most);
    return fallback;
  }
  return *number;
}

std::optional<std::uint64_t> Resolver::uniform(const GgufKeyValue& array) {
  const auto [seen, first_time] = uniform_.try_emplace(&array);
  if (first_time && array.count != 0 && array.count <= kMaxBlocks) {
    const auto first = array.int_at(0);
    bool same = first && *first >= 0;
    for (std::uint64_t i = 1; same && i < array.count; ++i) same = array.int_at(i) == first;
    if (same) seen->second = static_cast<std::uint64_t>(*first);
  }
  return seen->second;
}

std::uint64_t Resolver::require_uint(std::string_view suffix, std::uint64_t most) {
  if (key(suffix) == nullptr) stop(ErrorCode::Malformed, "key '{}{}' is missing", prefix_, suffix);
  return uint_or(suffix, 0, most);
}

std::uint64_t Resolver::layer_uint(std::string_view suffix, std::uint32_t layer, std::uint64_t fallback) {
  const GgufKeyValue* value = key(suffix);
  if (value == nullptr || value->type != GgufType::Array) return uint_or(suffix, fallback);
  const std::optional<std::int64_t> entry = value->int_at(layer);
  if (!entry || *entry < 0 || static_cast<std::uint64_t>(*entry) > kMaxDimension) {
    stop(ErrorCode::Malformed, "array '{}' has no usable entry for block {}", value->key, layer);
    return fallback;
  }
  return static_cast<std::uint64_t>(*entry);
}

double Resolver::number_or(std::string_view suffix, double fallback) {
  const GgufKeyValue* value = key(suffix);
  if (value == nullptr) return fallback;
  const auto number = value->as_double();
  if (!number || !std::isfinite(*number)) {
    stop(ErrorCode::Malformed, "key '{}' is not a finite number", value->key);
    return fallback;
  }
  return *number;
}

double Resolver::layer_number(std::string_view suffix, std::uint32_t layer, double fallback) {
  const GgufKeyValue* value = key(suffix);
  if (value == nullptr || value->type != GgufType::Array) return number_or(suffix, fallback);
  if (value->element_type != GgufType::Float32 || !value->consistent() || layer >= value->count) {
    stop(ErrorCode::Malformed, "array '{}' has no usable entry for block {}", value->key, layer);
    return fallback;
  }
  float number = 0;
  std::memcpy(&number, value->bytes.data() + std::size_t{layer} * sizeof(float), sizeof(float));
  if (!std::isfinite(number))
    stop(ErrorCode::Malformed, "array '{}' is not finite at block {}", value->key, layer);
  return number;
}

bool Resolver::bool_or(std::string_view suffix, bool fallback) {
  const GgufKeyValue* value = key(suffix);
  if (value == nullptr) return fallback;
  const auto truth = value->as_bool();
  if (!truth) stop(ErrorCode::Malformed, "key '{}' is neither true nor false", value->key);
  return truth.value_or(fallback);
}

std::string Resolver::string_or(std::string_view suffix, std::string_view fallback) const {
  const GgufKeyValue* value = key(suffix);
  const auto text = value == nullptr ? std::nullopt : value->as_string();
  return std::string(text.value_or(fallback));
}

std::optional<std::vector<std::int64_t>> Resolver::int_array(std::string_view suffix) const {
  const GgufKeyValue* value = key(suffix);
  return value == nullptr || value->type != GgufType::Array ? std::nullopt : value->as_int_array();
}

const TensorInfo* Resolver::find(const std::string& name, std::string_view suffix, Need need) {
  if (error_) return nullptr;
  const TensorInfo* tensor = model_.find(name + std::string(suffix));
  if (tensor == nullptr) tensor = model_.find(name);
  if (tensor == nullptr && need == Need::Required)
    stop(ErrorCode::Malformed, "tensor '{}{}' is missing", name, suffix);
  if (tensor != nullptr && traits(tensor->format).kind == FormatKind::Integer) {
    stop(ErrorCode::Unsupported, "tensor '{}' has format {}, which is not one of weights", tensor->name,
         name_of(tensor->format));
    return nullptr;
  }
  if (tensor != nullptr) used_.insert(tensor);
  return tensor;
}

const TensorInfo* Resolver::vector(const std::string& name, std::string_view suffix, std::uint64_t size,
                                   Need need) {
  const TensorInfo* tensor = find(name, suffix, need);
  if (tensor == nullptr) return nullptr;
  if (tensor->elements() != size) {
    stop(ErrorCode::ShapeMismatch, "tensor '{}' has {} values, not {}", tensor->name, tensor->elements(),
         size);
    return nullptr;
  }
  return tensor;
}

Matrix Resolver::matrix(const std::string& name, std::uint64_t columns, std::uint64_t rows,
                        std::uint64_t count, Need need) {
  Matrix out;
  const TensorInfo* tensor = find(name, ".weight", need);
  if (tensor == nullptr) return out;
  // A matrix of one row may be stored as a vector, and dimensions of 1 may stand between.
  if (tensor->ne[0] != columns || tensor->rows() != rows * count ||
      (count > 1 && rows > 1 && tensor->ne[1] != rows)) {
    stop(ErrorCode::ShapeMismatch, "tensor '{}' has the shape [{}, {}, {}], not [{}, {}, {}]", tensor->name,
         tensor->ne[0], tensor->ne[1], tensor->matrices(), columns, rows, count);
    return out;
  }
  out.tensor = tensor;
  out.columns = static_cast<std::uint32_t>(columns);
  out.rows = static_cast<std::uint32_t>(rows);
  out.count = static_cast<std::uint32_t>(count);
  if (model_.find(name + ".bias") != nullptr) out.bias = vector(name, ".bias", rows * count, Need::Required);
  if (const TensorInfo* scale = model_.find(name + ".scale")) {
    if (scale->elements() != 1 && scale->elements() != count) {
      stop(ErrorCode::ShapeMismatch, "tensor '{}' has {} values, not {}", scale->name, scale->elements(),
           count);
    }
    used_.insert(scale);
    out.scale = scale;
  }
  return out;
}

Norm Resolver::norm(const std::string& name, std::uint64_t size, Need need, std::uint64_t weight_rows) {
  Norm out;
  out.kind = norm_kind_ == NormKind::Rms ? NormKind::Rms : NormKind::Layer;
  out.epsilon = epsilon_;
  if (norm_kind_ == NormKind::LayerWithoutWeights) {
    out.size = static_cast<std::uint32_t>(size);
    return out;
  }
  const TensorInfo* tensor = find(name, ".weight", need);
  if (tensor == nullptr) return out;
  // Heads may share their weights or have a row each.
  if (tensor->elements() == size) weight_rows = 1;
  if (tensor->elements() != size * weight_rows) {
    stop(ErrorCode::ShapeMismatch, "tensor '{}' has {} values, not {}", tensor->name, tensor->elements(),
         size * weight_rows);
    return out;
  }
  out.size = static_cast<std::uint32_t>(size);
  out.weight_rows = static_cast<std::uint32_t>(weight_rows);
  out.weight = tensor;
  if (model_.find(name + ".bias") != nullptr)
    out.bias = vector(name, ".bias", size * weight_rows, Need::Required);
  return out;
}

void Resolver::globals() {
  blocks_ = static_cast<std::uint32_t>(require_uint("block_count", kMaxBlocks));
  const std::uint64_t drafts = uint_or("nextn_predict_layers", 0, 1U << 16);
  graph_.width = static_cast<std::uint32_t>(require_uint("embedding_length"));
  graph_.context = static_cast<std::uint32_t>(uint_or("context_length", 0, 1U << 31));
  if (error_) return;
  if (drafts > blocks_ || blocks_ - drafts == 0 || graph_.width == 0) {
    return stop(ErrorCode::Malformed, "{} blocks of which {} are draft heads, width {}", blocks_, drafts,
                graph_.width);
  }
  blocks_ -= static_cast<std::uint32_t>(drafts);

  norm_kind_ = traits_.norm;
  const bool rms_key = key("attention.layer_norm_rms_epsilon") != nullptr;
  if (norm_kind_ == NormKind::RmsOrLayer)
    norm_kind_ = key("attention.layer_norm_epsilon") == nullptr && rms_key ? NormKind::Rms : NormKind::Layer;
  const std::string_view epsilon_key =
      norm_kind_ == NormKind::Rms ? "attention.layer_norm_rms_epsilon" : "attention.layer_norm_epsilon";
  if (key(epsilon_key) == nullptr)
    return stop(ErrorCode::Malformed, "key '{}{}' is missing", prefix_, epsilon_key);
  epsilon_ = static_cast<float>(number_or(epsilon_key, 0));
  rms_epsilon_ = rms_key ? static_cast<float>(number_or("attention.layer_norm_rms_epsilon", 0)) : epsilon_;
  if (epsilon_ < 0 || rms_epsilon_ < 0) return stop(ErrorCode::Malformed, "the norms' epsilon is negative");
  if (!bool_or("attention.causal", true))
    return stop(ErrorCode::Unsupported, "the model is not causal (key '{}attention.causal')", prefix_);

  graph_.embedding = find("token_embd", ".weight", Need::Required);
  if (error_) return;
  if (graph_.embedding->ne[0] != graph_.width || graph_.embedding->rows() == 0 ||
      graph_.embedding->rows() > (1U << 30)) {
    return stop(ErrorCode::ShapeMismatch, "tensor '{}' has rows of {}, the model is {} wide",
                graph_.embedding->name, graph_.embedding->ne[0], graph_.width);
  }
  graph_.vocabulary = static_cast<std::uint32_t>(graph_.embedding->rows());
  std::uint64_t tokens = uint_or("vocab_size", 0, 1U << 30);
  if (const GgufKeyValue* list = model_.metadata().find("tokenizer.ggml.tokens");
      list != nullptr && list->type == GgufType::Array) {
    tokens = std::max(tokens, list->count);
  }
  if (tokens > graph_.vocabulary) {
    return stop(ErrorCode::ShapeMismatch, "the vocabulary has {} tokens, but tensor '{}' only {} rows",
                tokens, graph_.embedding->name, graph_.vocabulary);
  }

  switch (traits_.embedding_scale) {
    case EmbeddingScale::None:
      break;
    case EmbeddingScale::SqrtWidth:
      graph_.embedding_scale = std::sqrt(static_cast<float>(graph_.width));
      break;
    case EmbeddingScale::ByKey: {
      const double scale = number_or("embedding_scale", traits_.default_embedding_scale);
      if (scale != 0) graph_.embedding_scale = static_cast<float>(scale);
      break;
    }
  }
  if (traits_.embedding_norm) graph_.embedding_norm = norm("token_embd_norm", graph_.width, Need::Required);
  if (traits_.position_embedding) {
    graph_.position_embedding = find("position_embd", ".weight", Need::Required);
    if (error_) return;
    if (graph_.position_embedding->ne[0] != graph_.width || graph_.position_embedding->rows() > (1U << 30))
      return stop(ErrorCode::ShapeMismatch, "tensor '{}' has rows of {}, the model is {} wide",
                  graph_.position_embedding->name, graph_.position_embedding->ne[0], graph_.width);
    graph_.positions = static_cast<std::uint32_t>(graph_.position_embedding->rows());
  }

  graph_.output_norm = norm(std::string(traits_.output_norm), graph_.width, Need::Required);
  graph_.output = matrix("output", graph_.width, graph_.vocabulary, 1, Need::Optional);
  if (!graph_.output && !error_) {
    graph_.tied = true;
    graph_.output = Matrix{.tensor = graph_.embedding, .columns = graph_.width, .rows = graph_.vocabulary};
    if (model_.find("output.bias") != nullptr)
      graph_.output.bias = vector("output", ".bias", graph_.vocabulary, Need::Required);
  }
  if (traits_.logit_scale != ValueScale::None) {
    double fallback = traits_.default_logit_scale;
    if (traits_.minicpm_scales) fallback = 256.0 / graph_.width;
    const double scale = number_or("logit_scale", fallback);
    if (scale != 0)
      graph_.logit_factor =
          static_cast<float>(traits_.logit_scale == ValueScale::Divide ? 1.0 / scale : scale);
  }
  if (traits_.final_softcap != 0) {
    graph_.final_softcap =
        static_cast<float>(number_or("final_logit_softcapping", std::max(0.0F, traits_.final_softcap)));
  }

  if (traits_.per_layer_embedding) {
    graph_.layer_embedding_width = static_cast<std::uint32_t>(uint_or("embedding_length_per_layer_input", 0));
    if (graph_.layer_embedding_width != 0) {
      const std::uint64_t all = std::uint64_t{graph_.layer_embedding_width} * blocks_;
      graph_.layer_embedding = find("per_layer_token_embd", ".weight", Need::Required);
      if (!error_ &&
          (graph_.layer_embedding->ne[0] != all || graph_.layer_embedding->rows() < graph_.vocabulary)) {
        stop(ErrorCode::ShapeMismatch, "tensor '{}' has the shape [{}, {}], not [{}, {}]",
             graph_.layer_embedding->name, graph_.layer_embedding->ne[0], graph_.layer_embedding->rows(), all,
             graph_.vocabulary);
      }
      graph_.layer_embedding_projection =
          matrix("per_layer_model_proj", graph_.width, all, 1, Need::Required);
      graph_.layer_embedding_norm = norm("per_layer_proj_norm", graph_.layer_embedding_width, Need::Required);
    }
  }
  heads_default_ = 0;
}

// Which layers see only a part, and how much.
void Resolver::windows() {
  const WindowTraits& w = traits_.window;
  windowed_.assign(blocks_, false);
  const auto array = int_array("attention.sliding_window_pattern");
  const bool by_array = w.layers_from_array && array.has_value();
  if (w.period == 0 && !by_array) return;
  if (w.only_layers != 0 && w.only_layers != blocks_) return;
  const bool has_key = key("attention.sliding_window") != nullptr;
  window_tokens_ = uint_or("attention.sliding_window", w.default_tokens, 1U << 31);
  if (w.forced_tokens != 0) {
    const bool llama4 = w.shape == WindowShape::Chunked;
    if ((!has_key && llama4) || window_tokens_ != 0) window_tokens_ = w.forced_tokens;
  }
  if (window_tokens_ == 0) return;
  std::uint64_t period = w.period;
  if (w.period_from_key && !array) period = uint_or("attention.sliding_window_pattern", period);
  if (by_array && array->size() < blocks_) {
    return stop(ErrorCode::Malformed,
                "array '{}attention.sliding_window_pattern' has {} entries for {} blocks", prefix_,
                array->size(), blocks_);
  }
  for (std::uint32_t il = 0; il < blocks_; ++il) {
    if (by_array)
      windowed_[il] = (*array)[il] != 0;
    else if (period <= 1)
      windowed_[il] = true;
    else
      windowed_[il] = w.dense_first ? il % period != 0 : il % period < period - 1;
  }
}

Mixer Resolver::mixer_of_layer() {
  const std::uint64_t ffn_width = layer_uint("feed_forward_length", layer_, 0);
  if (traits_.residual == Residual::OneBranch && ffn_width > 0) return Mixer::None;
  switch (traits_.recurrent) {
    case RecurrentLayers::None:
      return traits_.mixer;
    case RecurrentLayers::All:
      return traits_.recurrent_mixer;
    case RecurrentLayers::NoKvHeads:
      return layer_uint("attention.head_count_kv", layer_, 0) == 0 ? traits_.recurrent_mixer : traits_.mixer;
    case RecurrentLayers::ByInterval: {
      if (key("attention.recurrent_layers") != nullptr)
        return layer_uint("attention.recurrent_layers", layer_, 0) != 0 ? traits_.recurrent_mixer
                                                                        : traits_.mixer;
      const std::uint64_t interval = uint_or("full_attention_interval", 4);
      return interval != 0 && (layer_ + 1) % interval == 0 ? traits_.mixer : traits_.recurrent_mixer;
    }
  }
  return traits_.mixer;
}

bool Resolver::rope_in_layer() const {
  const bool any_window = window_tokens_ != 0 && std::ranges::find(windowed_, true) != windowed_.end();
  switch (traits_.rope_layers) {
    case RopeLayers::All:
      return true;
    case RopeLayers::NotEveryFourth:
      return (traits_.window.shape == WindowShape::Chunked && window_tokens_ == 0) || (layer_ + 1) % 4 != 0;
    case RopeLayers::NotFirstOfFour:
      return window_tokens_ == 0 || blocks_ == 4 || layer_ % 4 != 0;
    case RopeLayers::WindowOnly:
      return windowed_[layer_];
    case RopeLayers::WindowIfAny:
      return !any_window || windowed_[layer_];
    case RopeLayers::WindowAndLeading:
      return windowed_[layer_] || model_.find(block("ffn_gate_inp.weight")) == nullptr;
  }
  return true;
}

// The rotation of a layer, entered into the graph's list (architectures.md, rope).
std::uint32_t Resolver::rope_spec(std::uint64_t dims, bool windowed, std::uint64_t head_dim) {
  RopeSpec spec;
  const WindowTraits& w = traits_.window;
  double base = number_or("rope.freq_base", 10000);
  const std::string type = string_or("rope.scaling.type", "linear");
  double factor = number_or("rope.scaling.factor", number_or("rope.scale_linear", 0));
  if (type == "none") factor = 0;
  bool yarn = type == "yarn";
  double attention_factor = number_or("rope.scaling.attn_factor", 1);
  if (windowed) {
    base = number_or("rope.freq_base_swa", w.own_rope_base ? 10000 : base);
    if (w.own_rope_base || w.rope_unscaled) factor = 0, yarn = false;
    if (w.rope_unscaled) attention_factor = 1;
  }
  if (traits_.ntk_alpha && head_dim > 2) {
    const double alpha = number_or("rope.scaling.alpha", 0);
    if (alpha > 0) base *= std::pow(alpha, static_cast<double>(head_dim) / static_cast<double>(head_dim - 2));
  }
  if (!(base > 0) || factor < 0)
    stop(ErrorCode::Malformed, "the rope base {} or scaling factor {} is out of range", base, factor);
  if (error_) return 0;
  if (dims == 0 || dims % 2 != 0) {
    stop(ErrorCode::Malformed, "block {} rotates {} dimensions, an even number is needed", layer_, dims);
    return 0;
  }
  spec.dims = static_cast<std::uint32_t>(dims);
  spec.base = base;
  spec.frequency_scale = factor == 0 ? 1.0F : static_cast<float>(1.0 / factor);
  spec.magnitude = static_cast<float>(attention_factor);
  const std::uint64_t original = uint_or("rope.scaling.original_context_length", graph_.context, 1U << 31);
  double extrapolation = yarn ? 1 : 0;
  double beta_fast = traits_.yarn_beta_fast;
  double beta_slow = 1;
  if (traits_.yarn_keys) {
    const double by_key = number_or("rope.scaling.yarn_ext_factor", -1);
    if (by_key >= 0) extrapolation = by_key;
    attention_factor *= number_or("rope.scaling.yarn_attn_factor", 1);
    beta_fast = number_or("rope.scaling.yarn_beta_fast", beta_fast);
    beta_slow = number_or("rope.scaling.yarn_beta_slow", beta_slow);
  }
  if (windowed && (w.own_rope_base || w.rope_unscaled)) extrapolation = 0;
  if (extrapolation != 0) {
    const double s = factor == 0 ? 1 : factor;
    double grow = 1;
    if (s > 1) {
      const double lambda = number_or("rope.scaling.yarn_log_multiplier", 0);
      // With latent attention both magnitudes of the original's scheme cancel (and the
      // scale of the scores grows).
      if (lambda == 0)
        grow = 1 + 0.1 * std::log(s);
      else if (traits_.mixer != Mixer::LatentAttention)
        grow = (1 + 0.1 * std::log(s)) / (1 + 0.1 * lambda * std::log(s));
    }
    spec.magnitude = static_cast<float>(attention_factor * grow);
    const auto corrected = [&](double beta) {
      return static_cast<double>(dims) *
             std::log(static_cast<double>(original) / (beta * 2 * std::numbers::pi)) / (2 * std::log(base));
    };
    if (original == 0 || !(beta_fast > 0) || !(beta_slow > 0) || base == 1)
      stop(ErrorCode::Malformed, "yarn needs an original context length, and betas above 0");
    spec.extrapolation = static_cast<float>(extrapolation);
    spec.ramp_low = std::max(0.0F, std::floor(static_cast<float>(corrected(beta_fast))));
    spec.ramp_high =
        std::min(static_cast<float>(dims - 1), std::ceil(static_cast<float>(corrected(beta_slow))));
  }
  if (traits_.rope_factors && !(traits_.rope_factors_full_only && windowed)) {
    spec.factors = vector("rope_freqs", ".weight", dims / 2, Need::Optional);
    if (spec.factors == nullptr && !error_) {
      spec.factors = vector("rope_factors_short", ".weight", dims / 2, Need::Optional);
      spec.factors_long = vector("rope_factors_long", ".weight", dims / 2, Need::Optional);
      spec.long_context = static_cast<std::uint32_t>(original);
    }
  }
  for (std::uint32_t i = 0; i < graph_.ropes.size(); ++i)
    if (graph_.ropes[i] == spec) return i;
  graph_.ropes.push_back(spec);
  return static_cast<std::uint32_t>(graph_.ropes.size() - 1);
}

void Resolver::attention(LayerGraph& out) {
  AttentionGraph& a = out.attention;
  const bool windowed = windowed_[layer_];
  const std::uint64_t heads = layer_uint("attention.head_count", layer_, 0);
  const std::uint64_t kv_heads = layer_uint("attention.head_count_kv", layer_, heads);
  if (error_) return;
  if (heads == 0 || heads > kMaxHeads || kv_heads == 0 || heads % kv_heads != 0) {
    return stop(ErrorCode::Malformed, "block {} has {} heads and {} heads of keys and values", layer_, heads,
                kv_heads);
  }
  const std::uint64_t even = graph_.width / heads;
  std::uint64_t key_dim = uint_or("attention.key_length", even);
  std::uint64_t value_dim = uint_or("attention.value_length", even);
  std::uint64_t rope_dims = uint_or("rope.dimension_count", key_dim);
  if (windowed) {
    rope_dims = uint_or("rope.dimension_count_swa", uint_or("attention.key_length_swa", rope_dims));
    key_dim = uint_or("attention.key_length_swa", key_dim);
    value_dim = uint_or("attention.value_length_swa", value_dim);
  } else if (traits_.half_rope_on_full) {
    rope_dims /= 2;
  }
  if (error_) return;
  if (key_dim == 0 || value_dim == 0)
    return stop(ErrorCode::Malformed, "block {} has heads of size 0", layer_);
  a.heads = static_cast<std::uint32_t>(heads);
  a.kv_heads = static_cast<std::uint32_t>(kv_heads);
  a.key_dim = static_cast<std::uint32_t>(key_dim);
  a.value_dim = static_cast<std::uint32_t>(value_dim);
  if (windowed) {
    a.window = static_cast<std::uint32_t>(window_tokens_);
    a.window_shape = traits_.window.shape;
  }

  const std::uint64_t q_width = heads * key_dim * (traits_.gate == AttentionGate::InQuery ? 2 : 1);
  const std::uint64_t k_width = kv_heads * key_dim;
  const std::uint64_t v_width = kv_heads * value_dim;
  a.query_head_stride = static_cast<std::uint32_t>(q_width / heads);
  a.key_offset = static_cast<std::uint32_t>(q_width);
  a.value_offset = static_cast<std::uint32_t>(q_width + k_width);
  a.row_width = static_cast<std::uint32_t>(q_width + k_width + v_width);

  const std::uint64_t shared = traits_.shared_kv ? uint_or("attention.shared_kv_layers", 0) : 0;
  if (shared > blocks_)
    return stop(ErrorCode::Malformed, "{} layers share keys, the model has {}", shared, blocks_);
  const std::uint64_t own = blocks_ - shared;
  if (shared != 0 && layer_ >= own) {
    const std::uint64_t back = windowed ? 2 : 1;
    if (own < back) return stop(ErrorCode::Malformed, "block {} shares keys of no layer", layer_);
    a.kv_layer = static_cast<std::uint32_t>(own - back);
    const AttentionGraph& source = graph_.layers[*a.kv_layer].attention;
    if (source.kv_heads != a.kv_heads || source.key_dim != a.key_dim || source.value_dim != a.value_dim) {
      return stop(ErrorCode::ShapeMismatch, "block {} shares keys of block {}, whose heads differ", layer_,
                  *a.kv_layer);
    }
  }

  if (exists(block("attn_qkv")) && !a.kv_layer) {
    a.qkv.push_back({matrix(block("attn_qkv"), graph_.width, a.row_width, 1, Need::Required), 0});
  } else {
    a.qkv.push_back({matrix(block("attn_q"), graph_.width, q_width, 1, Need::Required), 0});
    if (!a.kv_layer) {
      a.qkv.push_back({matrix(block("attn_k"), graph_.width, k_width, 1, Need::Required), a.key_offset});
      if (traits_.value_from_key && !exists(block("attn_v")) && key_dim == value_dim)
        a.value_is_key = true;
      else
        a.qkv.push_back({matrix(block("attn_v"), graph_.width, v_width, 1, Need::Required), a.value_offset});
    }
  }
  if (traits_.clamp_qkv) a.clamp = static_cast<float>(std::max(0.0, number_or("attention.clamp_kqv", 0)));
  a.output = matrix(block("attn_output"), heads * value_dim, graph_.width, 1, Need::Required);

  const bool alibi =
      traits_.alibi_bias != 0 && (traits_.alibi_layers == 0 || traits_.alibi_layers == blocks_);
  if (alibi) a.alibi_bias = static_cast<float>(number_or("attention.max_alibi_bias", traits_.alibi_bias));
  bool rotated = traits_.rope != Rope::None && !alibi && rope_in_layer();
  if (traits_.rope_off_by_finetuned && !bool_or("rope.scaling.finetuned", true)) rotated = false;
  if (rotated) {
    a.rope = traits_.rope;
    if (rope_dims > key_dim) {
      return stop(ErrorCode::Malformed, "block {} rotates {} of {} dimensions", layer_, rope_dims, key_dim);
    }
    a.rope_index = rope_spec(rope_dims, windowed, key_dim);
  }

  a.qk_norm = traits_.qk_norm;
  if (a.qk_norm == QkNorm::UnweightedAfterRope) {
    const bool on = rotated && uint_or("expert_count", 0) != 128;
    a.qk_norm = on ? QkNorm::PerHeadAfterRope : QkNorm::None;
    if (on) {
      a.q_norm = Norm{.kind = NormKind::Rms, .epsilon = rms_epsilon_, .size = a.key_dim};
      a.k_norm = a.q_norm;
    }
  } else if (a.qk_norm != QkNorm::None) {
    const bool whole = a.qk_norm == QkNorm::WholeRow;
    const Need need = traits_.qk_norm_optional ? Need::Optional : Need::Required;
    a.q_norm = norm(block("attn_q_norm"), whole ? heads * key_dim : key_dim, need, whole ? 1 : heads);
    if (!a.kv_layer)
      a.k_norm = norm(block("attn_k_norm"), whole ? kv_heads * key_dim : key_dim, need, whole ? 1 : kv_heads);
    if (!a.q_norm && !a.k_norm) a.qk_norm = QkNorm::None;
    // apertus: the files have biases that the model does not apply.
    if (traits_.activation == Activation::Xielu) a.q_norm.bias = a.k_norm.bias = nullptr;
  }
  a.value_norm = traits_.value_norm && !a.kv_layer;
  a.value_norm_epsilon = rms_epsilon_;

  switch (traits_.attention_scale) {
    case AttentionScale::KeyDim:
      a.scale = 1 / std::sqrt(static_cast<float>(key_dim));
      break;
    case AttentionScale::One:
      a.scale = 1;
      break;
    case AttentionScale::ByKey: {
      const double scale = number_or("attention.scale", 0);
      a.scale = scale != 0 ? static_cast<float>(scale) : 1 / std::sqrt(static_cast<float>(key_dim));
      break;
    }
    case AttentionScale::Gemma: {
      const std::uint64_t over = blocks_ == traits_.gemma_wide_layers ? even : key_dim;
      a.scale = 1 / std::sqrt(static_cast<float>(over));
      break;
    }
    case AttentionScale::RopeDims:
      a.scale = 1 / std::sqrt(static_cast<float>(rope_dims));
      break;
    case AttentionScale::Grok:
      a.scale = static_cast<float>(number_or("attention.output_scale", 0.08838834764831845));
      break;
  }
  if (traits_.attention_softcap != 0) {
    a.softcap =
        static_cast<float>(number_or("attn_logit_softcapping", std::max(0.0F, traits_.attention_softcap)));
  }
  if (traits_.value_scale) {
    const double scale = number_or("attention.value_scale", 0);
    if (scale != 0) a.value_scale = static_cast<float>(scale);
  }
  switch (traits_.temperature) {
    case Temperature::None:
      break;
    case Temperature::NoRopeLayers:
      if (!rotated) a.temperature_scale = 0.1F, a.temperature_offset = 1, a.temperature_length = 8192;
      break;
    case Temperature::OriginalContext:
    case Temperature::ByKey: {
      const bool by_key = traits_.temperature == Temperature::ByKey;
      a.temperature_scale = static_cast<float>(number_or("attention.temperature_scale", 0));
      const std::uint64_t length =
          by_key ? uint_or("attention.temperature_length", 0, 1U << 31)
                 : uint_or("rope.scaling.original_context_length", graph_.context, 1U << 31);
      if (a.temperature_scale != 0 && length == 0)
        stop(ErrorCode::Malformed, "the queries' temperature has no length");
      a.temperature_length = static_cast<std::uint32_t>(std::max<std::uint64_t>(1, length));
      break;
    }
  }
  if (traits_.sinks) a.sinks = vector(block("attn_sinks"), ".weight", heads, Need::Optional);
  a.gate = traits_.gate;
  if (a.gate == AttentionGate::Sigmoid || a.gate == AttentionGate::Softplus) {
    const TensorInfo* stored = model_.find(block("attn_gate.weight"));
    const std::uint64_t rows = stored != nullptr && stored->rows() == heads ? heads : heads * value_dim;
    a.gate_matrix = matrix(block("attn_gate"), graph_.width, rows, 1, Need::Required);
  }
  if (a.gate == AttentionGate::InQuery && value_dim != key_dim)
    stop(ErrorCode::ShapeMismatch, "block {} gates {} values per head with {} numbers", layer_, value_dim,
         key_dim);
}

void Resolver::latent(LayerGraph& out) {
  LatentGraph& a = out.latent;
  const std::uint64_t heads = layer_uint("attention.head_count", layer_, 0);
  const std::uint64_t r = require_uint("attention.kv_lora_rank");
  const bool absorbed =
      key("attention.key_length_mla") != nullptr && key("attention.value_length_mla") != nullptr;
  const std::uint64_t key_dim =
      absorbed ? uint_or("attention.key_length_mla", 0) : require_uint("attention.key_length");
  const std::uint64_t value_dim =
      absorbed ? uint_or("attention.value_length_mla", 0) : require_uint("attention.value_length");
  const std::uint64_t rope_dims = require_uint("rope.dimension_count");
  if (error_) return;
  if (heads == 0 || heads > kMaxHeads || r == 0 || value_dim == 0 || rope_dims == 0 || rope_dims >= key_dim) {
    return stop(ErrorCode::Malformed,
                "block {}: latent attention of {} heads, rank {}, keys {}, values {}, rope {}", layer_, heads,
                r, key_dim, value_dim, rope_dims);
  }
  a.heads = static_cast<std::uint32_t>(heads);
  a.latent = static_cast<std::uint32_t>(r);
  a.rope_dims = static_cast<std::uint32_t>(rope_dims);
  a.nope_dims = static_cast<std::uint32_t>(key_dim - rope_dims);
  a.value_dim = static_cast<std::uint32_t>(value_dim);
  if (exists(block("attn_q_a"))) {
    const TensorInfo* q_a = find(block("attn_q_a"), ".weight", Need::Required);
    const std::uint64_t rank = q_a == nullptr ? 0 : q_a->rows();
    if (rank > kMaxDimension)
      return stop(ErrorCode::ShapeMismatch, "tensor '{}' has {} rows", q_a->name, rank);
    a.q_a = matrix(block("attn_q_a"), graph_.width, rank, 1, Need::Required);
    a.q_a_norm = norm(block("attn_q_a_norm"), rank, Need::Required);
    a.q_b = matrix(block("attn_q_b"), rank, heads * key_dim, 1, Need::Required);
  } else {
    a.q = matrix(block("attn_q"), graph_.width, heads * key_dim, 1, Need::Required);
  }
  a.kv_a = matrix(block("attn_kv_a_mqa"), graph_.width, r + rope_dims, 1, Need::Required);
  a.kv_a_norm = norm(block("attn_kv_a_norm"), r, Need::Required);
  if (absorbed) {
    a.k_b = matrix(block("attn_k_b"), a.nope_dims, r, heads, Need::Required);
    a.v_b = matrix(block("attn_v_b"), r, value_dim, heads, Need::Required);
  } else if (traits_.rope == Rope::None) {
    return stop(ErrorCode::Unsupported,
                "block {} has the older form of latent attention (attn_kv_b), which is defined "
                "for this family in no consistent way; convert the model again",
                layer_);
  } else {
    a.kv_b = matrix(block("attn_kv_b"), r, heads * (a.nope_dims + value_dim), 1, Need::Required);
  }
  a.output = matrix(block("attn_output"), heads * value_dim, graph_.width, 1, Need::Required);
  a.scale = 1 / std::sqrt(static_cast<float>(key_dim));
  a.rope = traits_.rope;
  if (a.rope != Rope::None) {
    a.rope_index = rope_spec(rope_dims, false, key_dim);
    const double factor = number_or("rope.scaling.factor", 0);
    const double lambda = number_or("rope.scaling.yarn_log_multiplier", 0) / 0.1;
    if (string_or("rope.scaling.type", "linear") == "yarn" && factor > 1) {
      const double grow = lambda == 0 ? 1 + 0.1 * std::log(factor) : 1;
      const double magnitude = grow * (1 + 0.1 * lambda * std::log(factor));
      a.scale = static_cast<float>(magnitude * magnitude / std::sqrt(static_cast<double>(key_dim)));
    }
  }
  if (traits_.temperature == Temperature::ByKey) {
    a.temperature_scale = static_cast<float>(number_or("attention.temperature_scale", 0));
    const std::uint64_t length = uint_or("attention.temperature_length", 0, 1U << 31);
    if (a.temperature_scale != 0 && length == 0)
      stop(ErrorCode::Malformed, "the queries' temperature has no length");
    a.temperature_length = static_cast<std::uint32_t>(std::max<std::uint64_t>(1, length));
  }
}

void Resolver::gated_delta(LayerGraph& out) {
  GatedDeltaGraph& d = out.gated_delta;
  const std::uint64_t head_dim = require_uint("ssm.state_size");
  const std::uint64_t key_heads = require_uint("ssm.group_count", kMaxHeads);
  const std::uint64_t value_heads = require_uint("ssm.time_step_rank", kMaxHeads);
  const std::uint64_t inner = require_uint("ssm.inner_size");
  const std::uint64_t kernel = require_uint("ssm.conv_kernel", 64);
  if (error_) return;
  if (head_dim == 0 || key_heads == 0 || kernel == 0 || value_heads % key_heads != 0 ||
      value_heads * head_dim != inner) {
    return stop(ErrorCode::Malformed,
                "block {}: a delta net of {} key heads, {} value heads of {}, inner size {}", layer_,
                key_heads, value_heads, head_dim, inner);
  }
  d.key_heads = static_cast<std::uint32_t>(key_heads);
  d.value_heads = static_cast<std::uint32_t>(value_heads);
  d.head_dim = static_cast<std::uint32_t>(head_dim);
  d.kernel = static_cast<std::uint32_t>(kernel);
  d.grouped = traits_.delta_heads_grouped;
  d.epsilon = rms_epsilon_;
  const std::uint64_t channels = 2 * key_heads * head_dim + inner;
  if (!exists(block("attn_qkv")) && exists(block("ssm_in"))) {
    return stop(ErrorCode::Unsupported,
                "block {} keeps the delta net's inputs in one tensor 'ssm_in'; convert the model "
                "again to get attn_qkv and attn_gate",
                layer_);
  }
  d.qkv = matrix(block("attn_qkv"), graph_.width, channels, 1, Need::Required);
  d.z = matrix(block("attn_gate"), graph_.width, inner, 1, Need::Required);
  if (exists(block("ssm_ba"))) {
    d.beta_alpha = matrix(block("ssm_ba"), graph_.width, 2 * value_heads, 1, Need::Required);
  } else {
    d.beta = matrix(block("ssm_beta"), graph_.width, value_heads, 1, Need::Required);
    d.alpha = matrix(block("ssm_alpha"), graph_.width, value_heads, 1, Need::Required);
  }
  d.convolution = vector(block("ssm_conv1d"), ".weight", kernel * channels, Need::Required);
  d.a = vector(block("ssm_a"), "", value_heads, Need::Required);
  d.dt_bias = vector(block("ssm_dt"), ".bias", value_heads, Need::Required);
  d.norm = norm(block("ssm_norm"), head_dim, Need::Required);
  d.output = matrix(block("ssm_out"), inner, graph_.width, 1, Need::Required);
}

void Resolver::key_delta(LayerGraph& out) {
  KeyDeltaGraph& d = out.key_delta;
  const std::uint64_t heads = layer_uint("attention.head_count", layer_, 0);
  const std::uint64_t head_dim = require_uint("kda.head_dim");
  const std::uint64_t kernel = require_uint("ssm.conv_kernel", 64);
  if (error_) return;
  if (heads == 0 || heads > kMaxHeads || head_dim == 0 || kernel == 0)
    return stop(ErrorCode::Malformed, "block {}: a delta net of {} heads of {}", layer_, heads, head_dim);
  const std::uint64_t inner = heads * head_dim;
  d.heads = static_cast<std::uint32_t>(heads);
  d.head_dim = static_cast<std::uint32_t>(head_dim);
  d.kernel = static_cast<std::uint32_t>(kernel);
  d.epsilon = rms_epsilon_;
  d.q = matrix(block("attn_q"), graph_.width, inner, 1, Need::Required);
  d.k = matrix(block("attn_k"), graph_.width, inner, 1, Need::Required);
  d.v = matrix(block("attn_v"), graph_.width, inner, 1, Need::Required);
  d.convolution_q = vector(block("ssm_conv1d_q"), ".weight", kernel * inner, Need::Required);
  d.convolution_k = vector(block("ssm_conv1d_k"), ".weight", kernel * inner, Need::Required);
  d.convolution_v = vector(block("ssm_conv1d_v"), ".weight", kernel * inner, Need::Required);
  const TensorInfo* f_a = find(block("ssm_f_a"), ".weight", Need::Required);
  const TensorInfo* g_a = find(block("ssm_g_a"), ".weight", Need::Required);
  if (error_) return;
  if (f_a->rows() > kMaxDimension || g_a->rows() > kMaxDimension)
    return stop(ErrorCode::ShapeMismatch, "tensor '{}' has {} rows", f_a->name, f_a->rows());
  d.f_a = matrix(block("ssm_f_a"), graph_.width, f_a->rows(), 1, Need::Required);
  d.f_b = matrix(block("ssm_f_b"), f_a->rows(), inner, 1, Need::Required);
  d.g_a = matrix(block("ssm_g_a"), graph_.width, g_a->rows(), 1, Need::Required);
  d.g_b = matrix(block("ssm_g_b"), g_a->rows(), inner, 1, Need::Required);
  d.beta = matrix(block("ssm_beta"), graph_.width, heads, 1, Need::Required);
  d.a = vector(block("ssm_a"), "", heads, Need::Required);
  d.dt_bias = vector(block("ssm_dt"), ".bias", inner, Need::Required);
  d.norm = norm(block("ssm_norm"), head_dim, Need::Required);
  d.output = matrix(block("attn_output"), inner, graph_.width, 1, Need::Required);
}

void Resolver::mamba2(LayerGraph& out) {
  Mamba2Graph& m = out.mamba2;
  const std::uint64_t inner = require_uint("ssm.inner_size");
  const std::uint64_t heads = require_uint("ssm.time_step_rank", kMaxHeads);
  const std::uint64_t state = require_uint("ssm.state_size");
  const std::uint64_t groups = uint_or("ssm.group_count", 1, kMaxHeads);
  const std::uint64_t kernel = require_uint("ssm.conv_kernel", 64);
  if (error_) return;
  if (inner == 0 || heads == 0 || state == 0 || groups == 0 || kernel == 0 || inner % heads != 0 ||
      heads % groups != 0) {
    return stop(ErrorCode::Malformed,
                "block {}: a state space of {} heads, {} groups, inner size {}, state {}", layer_, heads,
                groups, inner, state);
  }
  m.heads = static_cast<std::uint32_t>(heads);
  m.head_dim = static_cast<std::uint32_t>(inner / heads);
  m.state = static_cast<std::uint32_t>(state);
  m.groups = static_cast<std::uint32_t>(groups);
  m.kernel = static_cast<std::uint32_t>(kernel);
  const std::uint64_t channels = inner + 2 * groups * state;
  m.input = matrix(block("ssm_in"), graph_.width, inner + channels + heads, 1, Need::Required);
  m.convolution = vector(block("ssm_conv1d"), ".weight", kernel * channels, Need::Required);
  if (model_.find(block("ssm_conv1d.bias")) != nullptr)
    m.convolution_bias = vector(block("ssm_conv1d"), ".bias", channels, Need::Required);
  m.dt_bias = vector(block("ssm_dt"), ".bias", heads, Need::Required);
  m.a = vector(block("ssm_a"), "", heads, Need::Required);
  m.d = vector(block("ssm_d"), "", heads, Need::Required);
  m.norm = norm(block("ssm_norm"), inner / groups, Need::Optional, groups);
  m.output = matrix(block("ssm_out"), inner, graph_.width, 1, Need::Required);
}

void Resolver::short_convolution(LayerGraph& out) {
  ShortConvolutionGraph& s = out.short_convolution;
  const std::uint64_t kernel = require_uint("shortconv.l_cache", 64);
  if (error_) return;
  if (kernel == 0) return stop(ErrorCode::Malformed, "block {} has a convolution of length 0", layer_);
  s.kernel = static_cast<std::uint32_t>(kernel);
  s.input =
      matrix(block("shortconv.in_proj"), graph_.width, std::uint64_t{3} * graph_.width, 1, Need::Required);
  s.convolution = vector(block("shortconv.conv"), ".weight", kernel * graph_.width, Need::Required);
  s.output = matrix(block("shortconv.out_proj"), graph_.width, graph_.width, 1, Need::Required);
}

// The tensors ffn_gate{stem}, ffn_up{stem}, ffn_down{stem}; the width is what the last one says.
FfnGraph Resolver::ffn(std::string_view stem, std::uint64_t columns, std::uint64_t count, double limit,
                       Need need) {
  FfnGraph out;
  const auto name = [&](std::string_view which) { return block(fmt::format("ffn_{}{}", which, stem)); };
  const TensorInfo* down = find(name("down"), ".weight", need);
  if (down == nullptr) return out;
  const std::uint64_t width = down->ne[0];
  if (width == 0 || width > kMaxDimension) {
    stop(ErrorCode::ShapeMismatch, "tensor '{}' has rows of {}", down->name, width);
    return out;
  }
  out.width = static_cast<std::uint32_t>(width);
  out.activation = traits_.activation;
  out.gated = traits_.gated;
  out.limit = static_cast<float>(limit);
  if (out.activation == Activation::Xielu) {
    out.xielu = {static_cast<float>(layer_number("xielu.alpha_n", layer_, 0)),
                 static_cast<float>(layer_number("xielu.alpha_p", layer_, 0)),
                 static_cast<float>(layer_number("xielu.beta", layer_, 0)),
                 static_cast<float>(layer_number("xielu.eps", layer_, 0))};
    for (const std::string_view suffix : {"xielu.alpha_n", "xielu.alpha_p", "xielu.beta", "xielu.eps"})
      if (key(suffix) == nullptr) stop(ErrorCode::Malformed, "key '{}' is missing", suffix);
  }
  if (!out.gated) {
    out.gate_up.push_back({matrix(name("up"), columns, width, count, Need::Required), 0});
  } else if (exists(name("gate_up"))) {
    out.gate_up.push_back({matrix(name("gate_up"), columns, 2 * width, count, Need::Required), 0});
  } else if (exists(name("gate"))) {
    out.gate_up.push_back({matrix(name("gate"), columns, width, count, Need::Required), 0});
    out.gate_up.push_back({matrix(name("up"), columns, width, count, Need::Required), out.width});
  } else if (const TensorInfo* up = model_.find(name("up") + ".weight");
             up != nullptr && up->ne[1] == 2 * width) {
    out.gate_up.push_back({matrix(name("up"), columns, 2 * width, count, Need::Required), 0});
  } else {
    find(name("gate"), ".weight", Need::Required);
  }
  // Experts of a latent size come back to it, everything else to the model's width.
  out.down = matrix(name("down"), width, columns, count, Need::Required);
  return out;
}

void Resolver::experts(LayerGraph& out) {
  const ExpertTraits& t = traits_.experts;
  ExpertsGraph& e = out.experts;
  const std::uint64_t count = require_uint("expert_count", 1U << 16);
  const std::uint64_t used = require_uint("expert_used_count", 1U << 16);
  if (error_) return;
  if (count == 0 || used == 0 || used > count) {
    return stop(ErrorCode::Malformed, "block {} uses {} of {} experts", layer_, used, count);
  }
  e.count = static_cast<std::uint32_t>(count);
  e.used = static_cast<std::uint32_t>(used);
  switch (t.gate) {
    case RouterGate::Softmax:
      e.score = RouterScore::Softmax;
      break;
    case RouterGate::Sigmoid:
      e.score = RouterScore::Sigmoid;
      break;
    case RouterGate::SoftmaxOfSelected:
      e.score = RouterScore::SoftmaxOfSelected;
      break;
  }
  if (t.gate_by_key) {
    std::uint64_t by_key = uint_or("expert_gating_func", 0);
    // GLM-4.7-Flash files lack the key and mean sigmoid; they are known by their size.
    if (by_key == 0 && traits_.mixer == Mixer::LatentAttention && graph_.vocabulary == 154880 &&
        (blocks_ == 47 || blocks_ == 48)) {
      by_key = 2;
    }
    switch (by_key) {
      case 0:
        break;
      case 1:
        e.score = RouterScore::Softmax;
        break;
      case 2:
        e.score = RouterScore::Sigmoid;
        break;
      case 3:
        e.score = RouterScore::SoftmaxOfSelected;
        break;
      case 4:
        e.score = RouterScore::SqrtSoftplus;
        break;
      default:
        return stop(ErrorCode::Unsupported, "key '{}expert_gating_func' is {}, an unknown kind", prefix_,
                    by_key);
    }
  }
  e.normalize =
      t.normalize == When::Always || (t.normalize == When::ByKey && bool_or("expert_weights_norm", false));
  if (t.scale_by_key) {
    const double scale = number_or("expert_weights_scale", 0);
    if (scale != 0) e.weight_scale = static_cast<float>(scale);
  }
  if (t.groups) {
    const std::uint64_t groups = std::max<std::uint64_t>(1, uint_or("expert_group_count", 1, 1U << 16));
    if (groups > 1) {
      const std::uint64_t groups_used = uint_or("expert_group_used_count", 0, 1U << 16);
      if (count % groups != 0 || groups_used == 0 || groups_used > groups ||
          count / groups * groups_used < used) {
        return stop(ErrorCode::Malformed, "{} experts in {} groups, {} of them used for {} experts", count,
                    groups, groups_used, used);
      }
      e.groups = static_cast<std::uint32_t>(groups);
      e.groups_used = static_cast<std::uint32_t>(groups_used);
    }
  }
  e.choose_by_logits = e.weigh_input = t.weigh_input;
  e.router_reads_layer_input = t.router_reads_layer_input;
  // gemma4 has a tensor ffn_gate_inp.scale that is no factor of the product.
  e.router = Matrix{};
  const TensorInfo* router_scale = model_.find(block("ffn_gate_inp.scale"));
  e.router = matrix(block("ffn_gate_inp"), graph_.width, count, 1, Need::Required);
  if (error_) {
    if (!traits_.dual_ffn || router_scale == nullptr || router_scale->elements() != graph_.width) return;
    error_.reset();
    e.router = Matrix{.tensor = find(block("ffn_gate_inp"), ".weight", Need::Required),
                      .columns = graph_.width,
                      .rows = e.count};
  }
  if (traits_.dual_ffn) {
    e.router.scale = nullptr;
    e.router_input_scale = vector(block("ffn_gate_inp"), ".scale", graph_.width, Need::Required);
    e.router_norm_epsilon = rms_epsilon_;
    e.pre_norm = norm(block("pre_ffw_norm_2"), graph_.width, Need::Required);
    e.post_norm = norm(block("post_ffw_norm_2"), graph_.width, Need::Required);
    e.dense_post_norm = norm(block("post_ffw_norm_1"), graph_.width, Need::Required);
  }
  if (t.bias) e.choice_bias = vector(block("exp_probs_b"), ".bias", count, Need::Optional);
  std::uint64_t expert_columns = graph_.width;
  if (t.latent && exists(block("ffn_latent_down"))) {
    const TensorInfo* latent = find(block("ffn_latent_down"), ".weight", Need::Required);
    if (latent == nullptr || latent->rows() > kMaxDimension)
      return stop(ErrorCode::ShapeMismatch, "block {}: the experts' latent size is out of range", layer_);
    expert_columns = latent->rows();
    e.latent_down = matrix(block("ffn_latent_down"), graph_.width, expert_columns, 1, Need::Required);
    e.latent_up = matrix(block("ffn_latent_up"), expert_columns, graph_.width, 1, Need::Required);
  }
  const auto limit = [&](std::string_view suffix) {
    const double value = traits_.clamped_by_layer ? layer_number(suffix, layer_, 0) : 0;
    return value > 1e-6 ? value : 0.0;
  };
  e.experts = ffn("_exps", expert_columns, count, limit("swiglu_clamp_exp"), Need::Required);
  e.shared = ffn("_shexp", graph_.width, 1, limit("swiglu_clamp_shexp"), Need::Optional);
  if (t.shared_gate && e.shared)
    e.shared_gate = matrix(block("ffn_gate_inp_shexp"), graph_.width, 1, 1, Need::Required);
  e.sum_scale = e.shared ? t.shared_sum_scale : 1;
}

LayerGraph Resolver::layer() {
  LayerGraph out;
  out.index = layer_;
  out.mixer = mixer_of_layer();
  if (error_) return out;

  const auto optional_norm = [&](std::string_view name, Need need) {
    return name.empty() ? Norm{} : norm(block(name), graph_.width, need);
  };
  out.attn_norm = optional_norm(traits_.attn_norm, Need::Required);
  if (traits_.two_attention_norms) out.mixer_norm = norm(block("attn_norm_2"), graph_.width, Need::Optional);
  out.post_attn_norm = optional_norm(traits_.post_attn_norm, Need::Required);
  switch (traits_.residual) {
    case Residual::Sequential:
      break;
    case Residual::Parallel:
      out.parallel = true;
      break;
    case Residual::ParallelByKey:
      out.parallel = bool_or("use_parallel_residual", true);
      break;
    case Residual::ParallelWithoutFfnNorm:
      out.parallel = !exists(block(traits_.ffn_norm));
      break;
    case Residual::OneBranch:
      break;
  }
  if (out.parallel && traits_.residual == Residual::ParallelWithoutFfnNorm)
    out.ffn_norm = Norm{};
  else
    out.ffn_norm = optional_norm(traits_.ffn_norm, Need::Required);
  if (!traits_.post_ffn_norm.empty()) {
    const bool other = !exists(block(traits_.post_ffn_norm)) && !traits_.post_ffn_norm_alternative.empty();
    out.post_ffn_norm = norm(block(other ? traits_.post_ffn_norm_alternative : traits_.post_ffn_norm),
                             graph_.width, Need::Required);
  }
  if (traits_.residual_scale) {
    const double fallback = traits_.minicpm_scales ? 1.4 / std::sqrt(static_cast<double>(blocks_)) : 0;
    const double scale = number_or("residual_scale", fallback);
    if (scale != 0) out.residual_scale = static_cast<float>(scale);
  }

  switch (out.mixer) {
    case Mixer::Attention:
      attention(out);
      break;
    case Mixer::LatentAttention:
      latent(out);
      break;
    case Mixer::GatedDelta:
      gated_delta(out);
      break;
    case Mixer::KeyDelta:
      key_delta(out);
      break;
    case Mixer::Mamba2:
      mamba2(out);
      break;
    case Mixer::ShortConvolution:
      short_convolution(out);
      break;
    case Mixer::AttentionAndMamba2:
      attention(out);
      mamba2(out);
      break;
    case Mixer::None:
      break;
  }
  if (error_) return out;

  const bool has_ffn = traits_.residual == Residual::OneBranch
                           ? out.mixer == Mixer::None
                           : out.mixer != Mixer::Mamba2 || !traits_.ffn_norm.empty();
  if (has_ffn) {
    const bool routed = traits_.experts.any && exists(block("ffn_gate_inp"));
    if (routed) experts(out);
    const bool both =
        routed && (traits_.dual_ffn || (traits_.experts.dense_sum_scale != 0 && exists(block("ffn_down"))));
    if (!routed || both) {
      const double limit = traits_.clamped_by_layer ? layer_number("swiglu_clamp_shexp", layer_, 0) : 0;
      out.ffn = ffn("", graph_.width, 1, limit > 1e-6 ? limit : 0, Need::Required);
    }
    if (both) {
      out.dual_ffn = traits_.dual_ffn;
      out.dense_sum_scale = traits_.dual_ffn ? 1 : traits_.experts.dense_sum_scale;
    }
  }
  if (traits_.per_layer_embedding && graph_.layer_embedding_width != 0) {
    const std::uint64_t n = graph_.layer_embedding_width;
    out.layer_embedding.gate = matrix(block("inp_gate"), graph_.width, n, 1, Need::Required);
    out.layer_embedding.projection = matrix(block("proj"), n, graph_.width, 1, Need::Required);
    out.layer_embedding.post_norm = norm(block("post_norm"), graph_.width, Need::Required);
  }
  if (traits_.layer_output_scale)
    out.output_scale = vector(block("layer_output_scale"), ".weight", 1, Need::Optional);
  return out;
}

// A tensor that nobody asked for would change the result in a way that the row does not know.
void Resolver::refuse_unknown_tensors() {
  for (const TensorInfo& tensor : model_.tensors()) {
    if (used_.contains(&tensor)) continue;
    std::string_view name = tensor.name;
    if (name.starts_with("blk.")) {
      name.remove_prefix(4);
      std::uint64_t index = 0;
      std::size_t digits = 0;
      while (digits < name.size() && digits < 9 && name[digits] >= '0' && name[digits] <= '9')
        index = index * 10 + static_cast<std::uint64_t>(name[digits++] - '0');
      if (digits == 0 || digits >= name.size() || name[digits] != '.')
        return stop(ErrorCode::Unsupported, "tensor '{}' belongs to no block", tensor.name);
      name.remove_prefix(digits + 1);
      if (index >= blocks_) continue;  // draft heads
      if (name.starts_with("nextn.")) continue;
    }
    // Factors of rope that the family does not use, and tables of angles in old files.
    if (name.starts_with("rope_") || name == "attn_rot_embd" || name.starts_with("attn_rot_embd.")) continue;
    return stop(ErrorCode::Unsupported,
                "tensor '{}' is not part of the architecture '{}' as this program knows it", tensor.name,
                traits_.name);
  }
}

Result<ModelGraph> Resolver::run() {
  globals();
  if (!error_) windows();
  for (layer_ = 0; layer_ < blocks_ && !error_; ++layer_) graph_.layers.push_back(layer());
  if (!error_) refuse_unknown_tensors();
  if (error_) return *error_;
  for (LayerGraph& out : graph_.layers) {
    const std::string prefix = fmt::format("blk.{}.", out.index);
    for (const TensorInfo& tensor : model_.tensors()) {
      if (!tensor.name.starts_with(prefix) || !used_.contains(&tensor)) continue;
      out.tensors.push_back(&tensor);
      out.weights += tensor.elements();
      out.bytes += tensor.bytes;
    }
  }
  return std::move(graph_);
}

}  // namespace

Result<ModelGraph> resolve(const Model& model) {
  const std::string_view name = model.architecture();
  const ArchitectureTraits* traits = find_architecture(name);
  if (traits == nullptr) {
    return fail(ErrorCode::Unsupported,
                "{}: the engine does not run the architecture '{}'; an importance matrix from a file does "
                "not need it. "
                "Known: {}",
                model.shards().empty() ? "model" : model.shards().front().path.string(), name,
                architecture_names());
  }
  return Resolver(model, *traits).run();
}

}  // namespace quantfit::engine
