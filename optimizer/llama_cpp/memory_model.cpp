#include "optimizer/llama_cpp/memory_model.h"

#include <algorithm>
#include <array>
#include <set>

#include "core/checked.h"
#include "core/hyperparameters.h"
#include "core/text.h"
#include "optimizer/llama_cpp/tensor_role.h"

namespace quantfit::optimizer {
namespace {

// Metadata are hostile: every sum and product saturates, and a saturated total is refused.
std::uint64_t add(std::uint64_t a, std::uint64_t b) {
  return saturating_sum(a, b);
}
template <class... Factors>
std::uint64_t product(Factors... factors) {
  return saturating_product(factors...);
}

constexpr std::uint32_t kMaxLayers = 4096;
constexpr std::uint64_t kCachePadding = 256;  // the cache holds a multiple of this many tokens
// The backend aligns every tensor to at most 512 bytes and pads the last row of quantized matrices to 512
// weights (at most 544 bytes as Q8_0).
constexpr std::uint64_t kTensorSlack = 1056;

// Which layers of an architecture use a sliding window, where the file does not say: of every `period` layers
// one attends to everything, the last of them or (dense_first) the first.
struct WindowPattern {
  std::string_view architecture;
  std::uint32_t period;
  bool dense_first;
};
constexpr std::array kWindowPatterns = {
    WindowPattern{"gemma2", 2, false},          WindowPattern{"gemma3", 6, false},
    WindowPattern{"gemma3n", 5, false},         WindowPattern{"gpt-oss", 2, false},
    WindowPattern{"cohere2", 4, false},         WindowPattern{"exaone4", 4, false},
    WindowPattern{"llama4", 4, false},          WindowPattern{"smallthinker", 4, true},
    WindowPattern{"olmo2", 4, false},           WindowPattern{"afmoe", 4, false},
    WindowPattern{"gemma-embedding", 6, false},
};

// Back ends of llama.cpp whose buffers are in a GPU's memory, without the device number.
constexpr std::array<std::string_view, 11> kGpuBackEnds = {"CUDA",   "ROCm", "HIP",  "MUSA",   "Metal", "MTL",
                                                           "Vulkan", "SYCL", "CANN", "OpenCL", "GPU"};

constexpr std::array kCacheTypes = {Format::F32,  Format::F16,  Format::BF16, Format::Q8_0,  Format::Q4_0,
                                    Format::Q4_1, Format::Q5_0, Format::Q5_1, Format::IQ4_NL};

// What the tensor list says about one layer.
struct LayerTensors {
  bool any = false;
  bool recurrent = false;  // state-space, RWKV, gated delta net or short convolution
  bool attention = false;  // keys and values that a cache holds
};

std::vector<LayerTensors> layers_of(std::span<const TensorInfo> tensors, std::uint32_t count) {
  std::vector<LayerTensors> layers(count);
  std::vector<bool> fused(count, false);
  for (const TensorInfo& tensor : tensors) {
    const auto number = layer_of(tensor.name);
    if (!number || *number >= count) continue;
    LayerTensors& layer = layers[*number];
    layer.any = true;
    const std::string_view role = tensor_role(tensor.name);
    if (role.starts_with("ssm_") || role.starts_with("time_mix_") || role.starts_with("shortconv."))
      layer.recurrent = true;
    if (role == "attn_k" || role == "attn_kv_a_mqa" || role == "attn_kv_b" || role == "attn_k_b")
      layer.attention = true;
    if (role == "attn_qkv") fused[*number] = true;
  }
  // Recurrent layers have fused projections too, but cache nothing of them.
  for (std::uint32_t i = 0; i < count; ++i)
    if (fused[i] && !layers[i].recurrent) layers[i].attention = true;
  return layers;
}

// The memory that a buffer of llama.cpp is in, by its name; nothing for a name that no back end uses.
std::optional<Device> device_of_buffer(std::string_view name) {
  constexpr std::string_view kPinned = "_Host";
  const bool is_pinned =
      name.size() > kPinned.size() && equal_ignoring_case(name.substr(name.size() - kPinned.size()), kPinned);
  if (equal_ignoring_case(name, "CPU") || equal_ignoring_case(name.substr(0, 4), "CPU_") || is_pinned)
    return Device::Host;
  const std::string_view back_end = name.substr(0, name.find_last_not_of("0123456789") + 1);
  const auto is_it = [&](std::string_view known) { return equal_ignoring_case(back_end, known); };
  return std::ranges::any_of(kGpuBackEnds, is_it) ? std::optional(Device::Gpu) : std::nullopt;
}

// One model and one request; builds the estimate part by part.
class MemoryEstimator {
 public:
  MemoryEstimator(const GgufMetadata& metadata, std::span<const TensorInfo> tensors,
                  const MemoryRequest& request)
      : metadata_(metadata), h_(metadata), tensors_(tensors), request_(request) {}

  Result<MemoryEstimate> run() {
    QF_TRY(check_request());
    QF_TRY(read_shape());
    place_tensors();
    QF_TRY(add_cache());
    add_recurrent_state();
    add_compute_buffers();
    add_reserves();
    QF_TRY(h_.check());
    return finish();
  }

 private:
  Result<void> check_request() const {
    for (const Format type : {request_.cache_type_k, request_.cache_type_v})
      if (std::ranges::find(kCacheTypes, type) == kCacheTypes.end())
        return fail(ErrorCode::InvalidArgument,
                    "{} is no cache type; choose among f32, f16, bf16, q8_0, q5_1, q5_0, "
                    "q4_1, q4_0 and iq4_nl",
                    name_of(type));
    if (!request_.flash_attention && is_quantized(request_.cache_type_v))
      return fail(ErrorCode::InvalidArgument, "a quantized V cache ({}) needs flash attention",
                  name_of(request_.cache_type_v));
    if (request_.parallel == 0 || request_.parallel > kMaxParallel)
      return fail(ErrorCode::InvalidArgument, "{} parallel sequences: expected 1 to {}", request_.parallel,
                  kMaxParallel);
    if (request_.ubatch == 0 || request_.ubatch > (1U << 20))
      return fail(ErrorCode::InvalidArgument, "a micro-batch of {} tokens: expected 1 to 1048576",
                  request_.ubatch);
    return outcome::success();
  }

  Result<void> read_shape() {
    if (h_.architecture().empty())
      return fail(ErrorCode::Malformed, "metadata key 'general.architecture' is missing or no string");
    const std::uint64_t blocks = h_.value("block_count", 0);
    embedding_ = h_.value("embedding_length", 0);
    QF_TRY(h_.check());
    if (blocks == 0 || embedding_ == 0)
      return fail(ErrorCode::Malformed,
                  "metadata keys '{0}.block_count' and '{0}.embedding_length' are needed to "
                  "predict memory",
                  h_.architecture());
    if (blocks > kMaxLayers)
      return fail(ErrorCode::Malformed, "metadata key '{}.block_count': {} layers, expected at most {}",
                  h_.architecture(), blocks, kMaxLayers);
    all_layers_ = static_cast<std::uint32_t>(blocks);
    // Next-token-prediction layers belong to a context of their own.
    layers_ = all_layers_ - static_cast<std::uint32_t>(std::min(blocks, h_.value("nextn_predict_layers", 0)));
    layer_tensors_ = layers_of(tensors_, all_layers_);
    for (const TensorInfo& tensor : tensors_) {
      if (tensor.name == "output.weight") tied_ = false;
      if (tensor.name == "output.weight" || tensor.name == "token_embd.weight")
        vocabulary_ = std::max(vocabulary_, tensor.ne[1]);
    }
    if (vocabulary_ == 0) vocabulary_ = h_.value("vocab_size", 0);
    if (vocabulary_ == 0)
      if (const GgufKeyValue* tokens = metadata_.find("tokenizer.ggml.tokens")) vocabulary_ = tokens->count;

    std::uint64_t context = request_.ctx_size != 0 ? request_.ctx_size : h_.value("context_length", 0);
    if (context == 0)
      return fail(ErrorCode::InvalidArgument,
                  "no context size given, and metadata key '{}.context_length' is missing",
                  h_.architecture());
    if (context > (std::uint64_t{1} << 40))
      return fail(ErrorCode::InvalidArgument, "a context of {} tokens: expected at most 2^40", context);
    streams_ = request_.kv_unified ? 1 : request_.parallel;
    cells_ = saturating_round_up(context / streams_, kCachePadding);
    if (cells_ == 0) cells_ = kCachePadding;
    estimate_.ctx_size = cells_ * streams_;
    return outcome::success();
  }

  // --- Placement

  [[nodiscard]] Device layer_device(std::uint32_t layer) const {
    if (!request_.vram_bytes) return Device::Host;
    if (!request_.gpu_layers) return Device::Gpu;
    // Layers and output head, which comes last, count from the end.
    const std::uint64_t first =
        all_layers_ + 1 - std::min<std::uint64_t>(all_layers_ + 1, *request_.gpu_layers);
    return layer >= first ? Device::Gpu : Device::Host;
  }
  [[nodiscard]] Device output_device() const { return layer_device(all_layers_); }

  TensorPlacement place(const TensorInfo& tensor) const {
    if (!request_.vram_bytes) return {Device::Host, false, "no GPU"};
    const bool is_embedding = tensor.name == "token_embd.weight";
    const bool head_copy = is_embedding && tied_ && output_device() == Device::Gpu;
    for (const PlacementRule& rule : request_.overrides)
      if (rule.pattern.found_in(tensor.name))
        return {rule.device, head_copy && rule.device == Device::Host, "a rule"};
    // The input layer is computed on the host, whatever the number of GPU layers.
    if (is_embedding || tensor.name == "per_layer_token_embd.weight" ||
        tensor.name == "position_embd.weight" || tensor.name == "token_types.weight" ||
        tensor.name.starts_with("token_embd_norm"))
      return {Device::Host, head_copy, "input layer"};
    const auto layer = layer_of(tensor.name);
    if (layer && is_routed_experts(tensor.name)) {
      if (request_.cpu_moe) return {Device::Host, false, "routed experts"};
      if (*layer < request_.n_cpu_moe) return {Device::Host, false, "routed experts"};
    }
    const Device device = layer ? layer_device(*layer) : output_device();
    return {device, false, device == Device::Host ? "layers in RAM" : ""};
  }

  void place_tensors() {
    std::uint64_t on_gpu = 0;
    for (const TensorInfo& tensor : tensors_) {
      estimate_.placement.push_back(place(tensor));
      if (estimate_.placement.back().device == Device::Gpu || estimate_.placement.back().copied_to_gpu)
        ++on_gpu;
    }
    if (on_gpu > 0)
      add_item("alignment of weights", product(on_gpu, kTensorSlack), Device::Gpu,
               fmt::format("{} tensors x {} bytes at most", on_gpu, kTensorSlack));
  }

  // --- Attention cache

  [[nodiscard]] std::uint64_t heads(std::uint32_t layer) {
    return h_.value("attention.head_count", 0, layer);
  }
  [[nodiscard]] std::uint64_t kv_heads(std::uint32_t layer) {
    return h_.value("attention.head_count_kv", heads(layer), layer);
  }
  [[nodiscard]] std::uint64_t head_length(std::string_view kind, std::uint32_t layer, bool windowed) {
    const std::uint64_t count = heads(layer);
    const std::uint64_t split = count == 0 ? 0 : embedding_ / count;
    const std::uint64_t full = h_.value(fmt::format("attention.{}_length", kind), split);
    return windowed ? h_.value(fmt::format("attention.{}_length_swa", kind), full) : full;
  }

  // Latent attention (MLA): one compressed vector per token serves as key and value of all heads.
  [[nodiscard]] bool is_latent() const {
    return h_.has("attention.kv_lora_rank") && h_.has("attention.key_length_mla");
  }

  bool is_recurrent(std::uint32_t layer) {
    if (h_.has("full_attention_interval")) {
      const std::uint64_t interval = h_.value("full_attention_interval", 0);
      if (interval > 0) return (layer + 1) % interval != 0;
    }
    return layer_tensors_[layer].recurrent;
  }

  bool has_cache(std::uint32_t layer) {
    if (kv_heads(layer) == 0) return false;
    const std::uint64_t shared = h_.value("attention.shared_kv_layers", 0);
    if (layer + std::min<std::uint64_t>(shared, layers_) >= layers_) return false;
    if (h_.has("full_attention_interval") && h_.value("full_attention_interval", 0) > 0)
      return !is_recurrent(layer);
    const LayerTensors& found = layer_tensors_[layer];
    // A layer that is not listed is taken at its metadata's word.
    return !found.any || found.attention || !found.recurrent;
  }

  [[nodiscard]] std::uint64_t window() {
    if (request_.swa_full) return 0;
    const std::uint64_t chunk = h_.architecture() == "llama4" ? h_.value("attention.chunk_size", 8192) : 0;
    return h_.value("attention.sliding_window", chunk);
  }

  bool is_windowed(std::uint32_t layer) {
    if (window() == 0) return false;
    const auto known = std::ranges::find(kWindowPatterns, h_.architecture(), &WindowPattern::architecture);
    const bool dense_first = known != kWindowPatterns.end() && known->dense_first;
    std::uint64_t period =
        known != kWindowPatterns.end() ? known->period : 1;  // 1: every layer attends to all
    if (const GgufKeyValue* key = h_.find("attention.sliding_window_pattern")) {
      if (key->type == GgufType::Array) return h_.value("attention.sliding_window_pattern", 0, layer) != 0;
      period = h_.value("attention.sliding_window_pattern", period);
      if (period == 0) return true;
    }
    return dense_first ? layer % period != 0 : layer % period < period - 1;
  }

  std::uint64_t window_cells() {
    const std::uint64_t span = product(window(), request_.kv_unified ? request_.parallel : 1);
    return saturating_round_up(std::min(cells_, add(span, request_.ubatch)), kCachePadding);
  }

  // Bytes of one token of one layer.
  Result<std::uint64_t> token_bytes(std::uint32_t layer, bool windowed) {
    if (is_latent()) {
      const std::uint64_t length =
          h_.value("attention.kv_lora_rank", 0) + h_.value("rope.dimension_count", 0);
      QF_TRY(h_.check());
      return row_bytes(request_.cache_type_k, length);
    }
    const std::uint64_t count = kv_heads(layer);
    const std::uint64_t key = product(count, head_length("key", layer, windowed));
    const std::uint64_t value = product(count, head_length("value", layer, windowed));
    QF_TRY(h_.check());
    if (key == 0 || value == 0)
      return fail(ErrorCode::Malformed, "metadata key '{}.attention.head_count' is missing or 0",
                  h_.architecture());
    QF_ASSIGN(const std::uint64_t key_bytes, row_bytes(request_.cache_type_k, key));
    QF_ASSIGN(const std::uint64_t value_bytes, row_bytes(request_.cache_type_v, value));
    return add(key_bytes, value_bytes);
  }

  Result<void> add_cache() {
    struct Group {
      Device device;
      bool windowed;
      std::uint64_t layers, token_bytes, bytes;
    };
    std::vector<Group> groups;
    for (std::uint32_t layer = 0; layer < layers_; ++layer) {
      if (!has_cache(layer)) continue;
      const bool windowed = is_windowed(layer);
      QF_ASSIGN(const std::uint64_t per_token, token_bytes(layer, windowed));
      const std::uint64_t cells = product(windowed ? window_cells() : cells_, streams_);
      const std::uint64_t bytes = product(per_token, cells);
      const Device device = layer_device(layer);
      auto group = std::ranges::find_if(groups, [&](const Group& g) {
        return g.device == device && g.windowed == windowed && g.token_bytes == per_token;
      });
      if (group == groups.end()) group = groups.insert(groups.end(), {device, windowed, 0, per_token, 0});
      ++group->layers;
      group->bytes = add(group->bytes, bytes);
      largest_cache_row_ = std::max(largest_cache_row_, product(cells, kv_values(layer, windowed)));
      if (windowed) ++windowed_layers_;
    }
    for (const Group& group : groups) {
      const std::uint64_t cells = group.windowed ? window_cells() : cells_;
      add_item(is_latent()      ? "KV cache, latent attention"
               : group.windowed ? "KV cache, sliding window"
                                : "KV cache, full attention",
               group.bytes, group.device,
               fmt::format("{} layers x {} tokens x {} sequences x {} bytes (K {}, V {})", group.layers,
                           cells, streams_, group.token_bytes, name_of(request_.cache_type_k),
                           is_latent() ? "none" : name_of(request_.cache_type_v)));
    }
    return add_indexer_cache();
  }

  // Numbers that one token of a layer keeps.
  std::uint64_t kv_values(std::uint32_t layer, bool windowed) {
    if (is_latent()) return h_.value("attention.kv_lora_rank", 0) + h_.value("rope.dimension_count", 0);
    return product(kv_heads(layer),
                   add(head_length("key", layer, windowed), head_length("value", layer, windowed)));
  }

  // Sparse attention keeps one short key per token beside the cache.
  Result<void> add_indexer_cache() {
    const std::uint64_t length = h_.value("attention.indexer.key_length", 0);
    if (length == 0) return outcome::success();
    QF_ASSIGN(const std::uint64_t row, row_bytes(request_.cache_type_k, length));
    for (const Device device : {Device::Gpu, Device::Host}) {
      const std::uint64_t count = layers_on(device, [&](std::uint32_t layer) { return has_cache(layer); });
      if (count > 0)
        add_item(
            "indexer cache", product(count, cells_, streams_, row), device,
            fmt::format("{} layers x {} tokens x {} sequences x {} bytes", count, cells_, streams_, row));
    }
    return outcome::success();
  }

  template <class Predicate>
  std::uint64_t layers_on(Device device, Predicate predicate) {
    std::uint64_t count = 0;
    for (std::uint32_t layer = 0; layer < layers_; ++layer)
      if (layer_device(layer) == device && predicate(layer)) ++count;
    return count;
  }

  // --- Recurrent state: float32 numbers per layer and sequence

  std::uint64_t recurrent_values(std::string& how) {
    if (h_.has("kda.head_dim")) {
      const std::uint64_t head = h_.value("kda.head_dim", 0), count = heads(0);
      const std::uint64_t convolution = product(3, less_one(h_.value("ssm.conv_kernel", 4)), count, head);
      how = fmt::format("convolution {} + state {} x {} x {} heads", convolution, head, head, count);
      return add(convolution, product(head, head, count));
    }
    if (h_.has("ssm.inner_size")) {
      const std::uint64_t inner = h_.value("ssm.inner_size", 0), state = h_.value("ssm.state_size", 0);
      const std::uint64_t groups = h_.value("ssm.group_count", 0), kernel = h_.value("ssm.conv_kernel", 0);
      how = fmt::format("convolution {} x ({} + 2 x {} x {}) + state {} x {}", less_one(kernel), inner,
                        groups, state, state, inner);
      return add(product(less_one(kernel), add(inner, product(2, groups, state))), product(state, inner));
    }
    if (h_.has("wkv.head_size")) {
      const std::uint64_t size = h_.value("wkv.head_size", 0), shifts = h_.value("token_shift_count", 2);
      how = fmt::format("token shift {} x {} + state {} x {}", shifts, embedding_, embedding_, size);
      return add(product(shifts, embedding_), product(embedding_, size));
    }
    if (h_.has("shortconv.l_cache")) {
      const std::uint64_t length = less_one(h_.value("shortconv.l_cache", 0));
      how = fmt::format("convolution {} x {}", length, embedding_);
      return product(length, embedding_);
    }
    return 0;
  }
  static std::uint64_t less_one(std::uint64_t value) { return value == 0 ? 0 : value - 1; }

  void add_recurrent_state() {
    std::string how;
    const std::uint64_t values = recurrent_values(how);
    if (values == 0) return;
    for (const Device device : {Device::Gpu, Device::Host}) {
      const std::uint64_t count = layers_on(device, [&](std::uint32_t layer) { return is_recurrent(layer); });
      if (count > 0)
        add_item("recurrent state", product(count, request_.parallel, values, 4), device,
                 fmt::format("{} layers x {} sequences x 4 bytes x ({})", count, request_.parallel, how));
    }
  }

  // --- Compute buffers: the largest of the graph's phases, which reuse one another's memory

  void add_compute_buffers() {
    const std::uint64_t n = std::min<std::uint64_t>(request_.ubatch, estimate_.ctx_size);
    const std::uint64_t residual = product(n, embedding_, 4);
    const std::uint64_t logits = add(product(n, add(vocabulary_, 1), 4), product(2, residual));
    const std::uint64_t mask_bytes = request_.flash_attention ? 2 : 4;
    std::uint64_t mask = product(cells_, streams_, n, mask_bytes);
    if (windowed_layers_ > 0) mask = add(mask, product(window_cells(), streams_, n, mask_bytes));

    std::uint64_t projections = 0, scores = 0, feed_forward = 0;
    for (std::uint32_t layer = 0; layer < layers_; ++layer) {
      const std::uint64_t count = heads(layer);
      // Queries and the attention's output, all heads.
      projections = std::max(projections, product(2, n, count, head_length("key", layer, false), 4));
      if (!request_.flash_attention && has_cache(layer))
        scores = std::max(scores, product(cells_, streams_, n, count, 4));
      feed_forward = std::max(feed_forward, product(3, n, h_.value("feed_forward_length", 0, layer), 4));
    }
    const std::uint64_t used = h_.value("expert_used_count", 0);
    const std::uint64_t expert_length = h_.value("expert_feed_forward_length", 0);
    if (used >
        0)  // gate, up and their product, or one of them and the experts' outputs before they are summed
      feed_forward = std::max(
          feed_forward, product(n, used, 4, std::max(3 * expert_length, add(expert_length, embedding_))));
    const std::uint64_t layer_phase =
        add(add(mask, product(2, residual)), std::max(add(projections, scores), feed_forward));

    const bool gpu_layers = layers_on(Device::Gpu, [](std::uint32_t) { return true; }) > 0;
    const bool host_layers = layers_on(Device::Host, [](std::uint32_t) { return true; }) > 0;
    for (const Device device : {Device::Gpu, Device::Host}) {
      const bool has_output = output_device() == device;
      const bool has_layers = device == Device::Gpu ? gpu_layers : host_layers;
      if (!has_output && !has_layers) continue;
      const bool by_logits = has_output && (!has_layers || logits >= layer_phase);
      add_item("compute buffer", by_logits ? logits : layer_phase, device,
               by_logits
                   ? fmt::format("{} tokens x ({} logits + 2 x {} values + 1) x 4 bytes", n, vocabulary_,
                                 embedding_)
                   : fmt::format("{} tokens: attention mask {} + residuals {} + larger of attention {} and "
                                 "feed-forward {}",
                                 n, mask, product(2, residual), add(projections, scores), feed_forward));
    }
    // Flash attention over a quantized cache converts one layer's keys and values to 16 bits.
    const bool converts = request_.flash_attention && (is_quantized(request_.cache_type_k) ||
                                                       (!is_latent() && is_quantized(request_.cache_type_v)));
    if (converts && gpu_layers && largest_cache_row_ > 0)
      add_item("conversion of the quantized KV cache", product(largest_cache_row_, 2), Device::Gpu,
               fmt::format("{} values of the largest layer x 2 bytes", largest_cache_row_));
  }

  void add_reserves() {
    if (request_.vram_bytes) {
      add_item("runtime", request_.runtime_overhead_bytes, Device::Gpu, "driver context and libraries");
      add_item("margin", request_.margin_bytes, Device::Gpu, "kept free");
      if (request_.other_vram_bytes > 0)
        add_item("other uses", request_.other_vram_bytes, Device::Gpu, "as given");
    }
    add_item("host reserve", request_.host_reserve_bytes, Device::Host, "process, vocabulary, host buffers");
  }

  void add_item(std::string what, std::uint64_t bytes, Device device, std::string how) {
    std::uint64_t& sum = device == Device::Gpu ? estimate_.gpu_other_bytes : estimate_.host_other_bytes;
    sum = add(sum, bytes);
    estimate_.items.push_back({std::move(what), bytes, device, std::move(how)});
  }

  Result<MemoryEstimate> finish() {
    if (estimate_.gpu_other_bytes == kSaturated || estimate_.host_other_bytes == kSaturated)
      return fail(ErrorCode::Malformed, "the memory that metadata and request imply exceeds 64 bits");
    const auto settle = [](std::optional<std::uint64_t> limit, std::uint64_t used,
                           std::optional<std::uint64_t>& budget, std::uint64_t& shortfall) {
      if (!limit) return;
      budget = *limit > used ? *limit - used : 0;
      shortfall = used > *limit ? used - *limit : 0;
    };
    settle(request_.vram_bytes, estimate_.gpu_other_bytes, estimate_.gpu_weight_budget_bytes,
           estimate_.gpu_shortfall_bytes);
    settle(request_.ram_bytes, estimate_.host_other_bytes, estimate_.host_weight_budget_bytes,
           estimate_.host_shortfall_bytes);
    return std::move(estimate_);
  }

  const GgufMetadata& metadata_;
  Hyperparameters h_;
  std::span<const TensorInfo> tensors_;
  const MemoryRequest& request_;
  MemoryEstimate estimate_;
  std::vector<LayerTensors> layer_tensors_;
  std::uint32_t all_layers_ = 0;
  std::uint32_t layers_ = 0;
  std::uint64_t embedding_ = 0;
  std::uint64_t vocabulary_ = 0;
  bool tied_ = true;
  std::uint64_t cells_ = 0;    // tokens of one sequence's cache
  std::uint64_t streams_ = 1;  // caches side by side
  std::uint64_t windowed_layers_ = 0;
  std::uint64_t largest_cache_row_ = 0;
};

}  // namespace

std::string_view to_string(Device device) {
  return device == Device::Gpu ? "GPU" : "RAM";
}

Result<std::vector<PlacementRule>> parse_placement_rules(std::string_view text) {
  std::vector<PlacementRule> rules;
  while (!text.empty()) {
    // A comma inside a repeat like {1,2} belongs to the pattern: a rule ends at the first comma after its
    // buffer. Nor does the '=' of a look-ahead separate pattern and buffer.
    std::size_t equals = text.find('=');
    while (equals != std::string_view::npos && equals >= 2 && text.substr(equals - 2, 2) == "(?")
      equals = text.find('=', equals + 1);
    const std::size_t comma = equals == std::string_view::npos ? equals : text.find(',', equals);
    const std::string_view rule = text.substr(0, comma);
    const std::string_view buffer = equals == std::string_view::npos ? "" : rule.substr(equals + 1);
    if (equals == 0 || buffer.empty())
      return fail(ErrorCode::InvalidArgument,
                  "tensor override '{}': expected pattern=BUFFER, for example exps=CPU", rule);
    QF_ASSIGN(Pattern pattern, Pattern::compile(rule.substr(0, equals)));
    const std::optional<Device> device = device_of_buffer(buffer);
    if (!device)
      return fail(ErrorCode::InvalidArgument,
                  "tensor override '{}': '{}' is neither CPU nor a device like CUDA0, Metal or Vulkan0", rule,
                  buffer);
    rules.push_back({std::move(pattern), *device});
    text = comma == std::string_view::npos ? "" : text.substr(comma + 1);
  }
  return rules;
}

Result<MemoryEstimate> estimate_memory(const GgufMetadata& metadata, std::span<const TensorInfo> tensors,
                                       const MemoryRequest& request) {
  return MemoryEstimator(metadata, tensors, request).run();
}

Result<DeviceBytes> weight_bytes(const MemoryEstimate& estimate, std::span<const TensorInfo> tensors,
                                 std::span<const Format> formats) {
  if (estimate.placement.size() != tensors.size() || formats.size() != tensors.size())
    return fail(ErrorCode::ShapeMismatch, "{} formats and {} placements for {} tensors", formats.size(),
                estimate.placement.size(), tensors.size());
  DeviceBytes sum;
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    QF_ASSIGN(const std::uint64_t bytes,
              tensor_bytes(formats[i], tensors[i].row_length(), tensors[i].rows()));
    const TensorPlacement& place = estimate.placement[i];
    if (place.device == Device::Gpu || place.copied_to_gpu) sum.gpu = add(sum.gpu, bytes);
    if (place.device == Device::Host) sum.host = add(sum.host, bytes);
  }
  return sum;
}

}  // namespace quantfit::optimizer
