#include "optimizer/llama_cpp/memory_model.h"

#include <gtest/gtest.h>

#include <array>

#include "tests/optimizer/model_shapes.h"

namespace quantfit::optimizer {
namespace {

using test::ModelShape;

constexpr std::uint64_t kGiB = std::uint64_t{1} << 30;

MemoryEstimate estimate_of(const ModelShape& shape, const MemoryRequest& request) {
  const auto estimate = estimate_memory(shape.metadata, shape.tensors, request);
  EXPECT_TRUE(estimate) << estimate.error().message;
  return estimate ? estimate.value() : MemoryEstimate{};
}

std::uint64_t bytes_of(const MemoryEstimate& estimate, std::string_view what, Device device = Device::Gpu) {
  std::uint64_t sum = 0;
  for (const MemoryItem& item : estimate.items)
    if (item.what == what && item.device == device) sum += item.bytes;
  return sum;
}

TEST(MemoryModel, Llama3_8B) {
  const ModelShape shape = test::llama3_8b();
  MemoryRequest request{.vram_bytes = 24 * kGiB};
  const MemoryEstimate estimate = estimate_of(shape, request);
  EXPECT_EQ(estimate.ctx_size, 8192ULL);  // what it was trained with
  // 32 layers x 8192 tokens x (8 heads x 128 x 2 bytes, twice) = 32 x 8192 x 4096: exactly 1 GiB.
  EXPECT_EQ(bytes_of(estimate, "KV cache, full attention"), 1073741824ULL);
  // 512 tokens x (128256 logits + 2 x 4096 + 1) x 4 = 266.5 MiB. The other phase: mask 8 MiB + residuals 16
  // MiB + feed-forward 3 x 512 x 14336 x 4 = 84 MiB.
  EXPECT_EQ(bytes_of(estimate, "compute buffer"), 279447552ULL);
  // 3 tensors beside 32 layers of 9, without the embedding: 290 x 1056.
  EXPECT_EQ(bytes_of(estimate, "alignment of weights"), 306240ULL);
  // With 512 MiB for the runtime and 512 MiB margin: 24 GiB - 1 GiB - 279447552 - 306240 - 1 GiB.
  EXPECT_EQ(estimate.gpu_weight_budget_bytes, 23342566336ULL);
  EXPECT_EQ(estimate.gpu_other_bytes + *estimate.gpu_weight_budget_bytes, 24 * kGiB);
  EXPECT_EQ(estimate.host_weight_budget_bytes, std::nullopt);

  // Q8_0 rows: 1024 values = 32 blocks of 34 bytes = 1088, twice: 32 x 8192 x 2176.
  request.cache_type_k = request.cache_type_v = Format::Q8_0;
  const MemoryEstimate quantized = estimate_of(shape, request);
  EXPECT_EQ(bytes_of(quantized, "KV cache, full attention"), 570425344ULL);
  // One layer's 8192 x 8 x (128 + 128) values as 16 bits.
  EXPECT_EQ(bytes_of(quantized, "conversion of the quantized KV cache"), 33554432ULL);
}

TEST(MemoryModel, Llama3_8BWithoutFlashAttention) {
  MemoryRequest request{.vram_bytes = 24 * kGiB};
  request.flash_attention = false;
  // Scores 8192 x 512 x 32 heads x 4 = 512 MiB, mask of float32 16 MiB, residuals 16 MiB, queries and output
  // 2 x 512 x 4096 x 4 = 16 MiB.
  EXPECT_EQ(bytes_of(estimate_of(test::llama3_8b(), request), "compute buffer"), 560ULL << 20);
  request.cache_type_v = Format::Q8_0;
  const ModelShape shape = test::llama3_8b();
  EXPECT_EQ(estimate_memory(shape.metadata, shape.tensors, request).error().code, ErrorCode::InvalidArgument);
}

// What llama.cpp reports on the CPU for the dense example model: 6 layers of 256 values, 4 heads, 2 for keys
// and values, 768 feed-forward, 4096 tokens. n_ubatch was n_ctx.
TEST(MemoryModel, AgreesWithLlamaCppOnTheExampleModel) {
  ModelShape shape = test::llama3_8b();
  shape.tensors.clear();
  shape.add("token_embd.weight", {256, 4096});
  shape.set("block_count", 6);
  shape.set("embedding_length", 256);
  shape.set("attention.head_count", 4);
  shape.set("attention.head_count_kv", 2);
  shape.set("feed_forward_length", 768);
  const std::vector<std::array<double, 3>> reported = {// n_ctx, KV buffer and compute buffer in MiB
                                                       {256, 0.75, 4.5010},
                                                       {512, 1.50, 9.0020},
                                                       {2048, 6.00, 36.0078}};
  for (const auto& [context, cache, compute] : reported) {
    MemoryRequest request;
    request.ctx_size = static_cast<std::uint64_t>(context);
    request.ubatch = static_cast<std::uint32_t>(context);
    const MemoryEstimate estimate = estimate_of(shape, request);
    const auto mebibytes = [&](std::string_view what) {
      return static_cast<double>(bytes_of(estimate, what, Device::Host)) / 1048576;
    };
    EXPECT_EQ(mebibytes("KV cache, full attention"), cache);
    EXPECT_NEAR(mebibytes("compute buffer"), compute, 0.00005);
  }
}

TEST(MemoryModel, Qwen3_30B_A3B) {
  const ModelShape shape = test::qwen3_30b_a3b();
  MemoryRequest request{.vram_bytes = 24 * kGiB};
  request.ctx_size = 32768;
  const MemoryEstimate estimate = estimate_of(shape, request);
  // Heads of 128, not 2048 / 32 = 64: 48 x 32768 x (4 x 128 x 2, twice) = 48 x 32768 x 2048 = 3 GiB.
  EXPECT_EQ(bytes_of(estimate, "KV cache, full attention"), 3 * kGiB);
  // 512 x (151936 + 2 x 2048 + 1) x 4 = 304.8 MiB.
  EXPECT_EQ(bytes_of(estimate, "compute buffer"), 319555584ULL);

  // Routed experts of the first 10 layers in RAM, three tensors each; the embedding is there anyway.
  request.n_cpu_moe = 10;
  request.ram_bytes = 64 * kGiB;
  const MemoryEstimate split = estimate_of(shape, request);
  std::vector<Format> formats;
  for (const TensorInfo& tensor : shape.tensors)
    formats.push_back(tensor.significant_dims() < 2 ? Format::F32 : Format::Q4_K);
  const DeviceBytes bytes = weight_bytes(split, shape.tensors, formats).value();
  // 10 x 3 x 128 x 768 x 2048 weights x 4.5 / 8 bytes, and the embedding 2048 x 151936 x 4.5 / 8.
  EXPECT_EQ(bytes.host, 3397386240ULL + 175030272ULL);
  EXPECT_EQ(split.host_weight_budget_bytes, 64 * kGiB - (std::uint64_t{512} << 20));
  request.n_cpu_moe = 0;
  request.cpu_moe = true;
  const DeviceBytes all = weight_bytes(estimate_of(shape, request), shape.tensors, formats).value();
  EXPECT_EQ(all.host, 48ULL * 339738624ULL + 175030272ULL);
  EXPECT_EQ(all.host + all.gpu, bytes.host + bytes.gpu);
}

TEST(MemoryModel, DeepSeekV3) {
  const ModelShape shape = test::deepseek_v3();
  MemoryRequest request{.vram_bytes = 80 * kGiB};
  request.ctx_size = 4096;
  const MemoryEstimate estimate = estimate_of(shape, request);
  // One latent vector of 512 + 64 values per token and layer, no V: 61 x 576 x 2 = 70272 bytes per token.
  EXPECT_EQ(bytes_of(estimate, "KV cache, latent attention"), 70272ULL * 4096ULL);
  EXPECT_EQ(bytes_of(estimate, "KV cache, full attention"), 0ULL);
  // Attention's phase is the larger one: mask 4096 x 512 x 2 = 4 MiB, residuals 2 x 512 x 7168 x 4 = 28 MiB,
  // queries and latent outputs 2 x 512 x 128 heads x 576 x 4 = 288 MiB. Logits: 512 x (129280 + 2 x 7168 + 1)
  // x 4 = 280.5 MiB.
  EXPECT_EQ(bytes_of(estimate, "compute buffer"), 320ULL << 20);
  request.cache_type_k = Format::Q8_0;  // 576 = 18 blocks of 34 bytes
  EXPECT_EQ(bytes_of(estimate_of(shape, request), "KV cache, latent attention"), 61ULL * 612ULL * 4096ULL);
}

TEST(MemoryModel, DeepSeekWithoutTheLatentKeysCachesAllHeads) {
  ModelShape shape = test::deepseek_v3();
  shape.metadata.remove("deepseek2.attention.key_length_mla");
  shape.set("attention.head_count_kv", 128);
  shape.set("attention.key_length", 192);
  shape.set("attention.value_length", 128);
  MemoryRequest request{.vram_bytes = 80 * kGiB};
  request.ctx_size = 4096;
  // 61 x 4096 x 128 heads x (192 + 128) x 2 bytes.
  EXPECT_EQ(bytes_of(estimate_of(shape, request), "KV cache, full attention"), 20468203520ULL);
}

TEST(MemoryModel, Gemma3_27B) {
  const ModelShape shape = test::gemma3_27b();
  MemoryRequest request{.vram_bytes = 24 * kGiB};
  request.ctx_size = 32768;
  const MemoryEstimate estimate = estimate_of(shape, request);
  // Every sixth of 62 layers sees the whole context: 10 x 32768 x (16 x 128 x 2, twice = 8192) = 2.5 GiB.
  EXPECT_EQ(bytes_of(estimate, "KV cache, full attention"), 2684354560ULL);
  // The other 52 keep 1024 + 512 tokens: 52 x 1536 x 8192 = 624 MiB.
  EXPECT_EQ(bytes_of(estimate, "KV cache, sliding window"), 654311424ULL);
  // 512 x (262208 + 2 x 5376 + 1) x 4.
  EXPECT_EQ(bytes_of(estimate, "compute buffer"), 559024128ULL);
  // The tied embedding stays in RAM and is copied to the GPU as output head.
  ASSERT_EQ(shape.tensors[0].name, "token_embd.weight");
  EXPECT_EQ(estimate.placement[0].device, Device::Host);
  EXPECT_TRUE(estimate.placement[0].copied_to_gpu);
  std::vector<Format> formats;
  for (const TensorInfo& tensor : shape.tensors) formats.push_back(tensor.format);
  const DeviceBytes bytes = weight_bytes(estimate, shape.tensors, formats).value();
  EXPECT_EQ(bytes.host, 2ULL * 5376ULL * 262208ULL);
  std::uint64_t total = 0;
  for (const TensorInfo& tensor : shape.tensors) total += tensor.bytes;
  EXPECT_EQ(bytes.gpu, total);

  // Four sequences of 8192 tokens: 52 layers x 4 x 1536 x 8192; unified, 1536 + 3 x 1024 tokens once.
  request.parallel = 4;
  EXPECT_EQ(bytes_of(estimate_of(shape, request), "KV cache, sliding window"), 4ULL * 654311424ULL);
  EXPECT_EQ(bytes_of(estimate_of(shape, request), "KV cache, full attention"), 2684354560ULL);
  request.kv_unified = true;
  EXPECT_EQ(bytes_of(estimate_of(shape, request), "KV cache, sliding window"), 52ULL * 4608ULL * 8192ULL);
  request.swa_full = true;
  EXPECT_EQ(bytes_of(estimate_of(shape, request), "KV cache, full attention"), 62ULL * 32768ULL * 8192ULL);
}

TEST(MemoryModel, WindowPatternsOfTheFileWin) {
  ModelShape shape = test::gemma3_27b();
  MemoryRequest request{.vram_bytes = 48 * kGiB};
  request.ctx_size = 32768;
  shape.set("attention.sliding_window_pattern", 2);
  EXPECT_EQ(bytes_of(estimate_of(shape, request), "KV cache, full attention"), 31ULL * 32768ULL * 8192ULL);
  std::vector<std::uint32_t> windowed(62, 1);
  windowed[0] = windowed[61] = 0;
  shape.set_array("attention.sliding_window_pattern", windowed);
  EXPECT_EQ(bytes_of(estimate_of(shape, request), "KV cache, full attention"), 2ULL * 32768ULL * 8192ULL);
  // A window alone, in an architecture that is not known to use it, changes nothing.
  ModelShape llama = test::llama3_8b();
  llama.set("attention.sliding_window", 1024);
  EXPECT_EQ(bytes_of(estimate_of(llama, request), "KV cache, full attention"), 32ULL * 32768ULL * 4096ULL);
  // Layers that share the cache of earlier ones: 20 of 62.
  ModelShape shared = test::gemma3_27b();
  shared.set("attention.shared_kv_layers", 20);
  EXPECT_EQ(bytes_of(estimate_of(shared, request), "KV cache, full attention"), 7ULL * 32768ULL * 8192ULL);
  EXPECT_EQ(bytes_of(estimate_of(shared, request), "KV cache, sliding window"), 35ULL * 1536ULL * 8192ULL);
}

TEST(MemoryModel, Qwen36_35B_A3B) {
  const ModelShape shape = test::qwen36_35b_a3b();
  MemoryRequest request{.vram_bytes = 24 * kGiB};
  const MemoryEstimate estimate = estimate_of(shape, request);
  EXPECT_EQ(estimate.ctx_size, 262144ULL);
  // Every fourth of 40 layers: 10 x (2 heads x 256 x 2 bytes, twice) = 20480 bytes per token, 5 GiB.
  EXPECT_EQ(bytes_of(estimate, "KV cache, full attention"), 5 * kGiB);
  // 30 layers x (3 x (4096 + 2 x 16 x 128) + 128 x 4096 = 548864 values) x 4 bytes: 2.1 MiB each.
  EXPECT_EQ(bytes_of(estimate, "recurrent state"), 65863680ULL);
  // 512 x (248320 + 2 x 2048 + 1) x 4.
  EXPECT_EQ(bytes_of(estimate, "compute buffer"), 516950016ULL);
  // Four sequences share the context, but each has a state of its own.
  request.parallel = 4;
  const MemoryEstimate four = estimate_of(shape, request);
  EXPECT_EQ(bytes_of(four, "KV cache, full attention"), 5 * kGiB);
  EXPECT_EQ(bytes_of(four, "recurrent state"), 4ULL * 65863680ULL);

  // Without the interval the tensors tell which layers are recurrent.
  ModelShape by_tensors = shape;
  by_tensors.metadata.remove("qwen35moe.full_attention_interval");
  request.parallel = 1;
  EXPECT_EQ(bytes_of(estimate_of(by_tensors, request), "KV cache, full attention"), 5 * kGiB);
  EXPECT_EQ(bytes_of(estimate_of(by_tensors, request), "recurrent state"), 65863680ULL);
  // So do arrays of heads per layer.
  std::vector<std::uint32_t> kv_heads(40, 0);
  kv_heads[3] = 2;
  by_tensors.set_array("attention.head_count_kv", kv_heads);
  EXPECT_EQ(bytes_of(estimate_of(by_tensors, request), "KV cache, full attention"), 2048ULL * 262144ULL);
}

TEST(MemoryModel, OtherRecurrentStates) {
  MemoryRequest request{.vram_bytes = 24 * kGiB};
  request.ctx_size = 4096;
  ModelShape rwkv = test::llama3_8b();
  rwkv.tensors.clear();
  for (int layer = 0; layer < 32; ++layer)
    rwkv.add(fmt::format("blk.{}.time_mix_key.weight", layer), {4096, 4096});
  rwkv.set("attention.head_count_kv", 0);
  rwkv.set("wkv.head_size", 64);
  // 32 layers x (2 x 4096 + 4096 x 64) x 4.
  EXPECT_EQ(bytes_of(estimate_of(rwkv, request), "recurrent state"), 34603008ULL);
  EXPECT_EQ(bytes_of(estimate_of(rwkv, request), "KV cache, full attention"), 0ULL);
  ModelShape kda = rwkv;
  kda.set("kda.head_dim", 128);
  kda.set("ssm.conv_kernel", 4);
  // 32 x (3 x 3 x 32 x 128 + 128 x 128 x 32) x 4.
  EXPECT_EQ(bytes_of(estimate_of(kda, request), "recurrent state"), 71827456ULL);
  ModelShape convolution = rwkv;
  convolution.metadata.remove("llama.wkv.head_size");
  convolution.set("shortconv.l_cache", 3);
  // 32 x 2 x 4096 x 4.
  EXPECT_EQ(bytes_of(estimate_of(convolution, request), "recurrent state"), 1048576ULL);
}

TEST(MemoryModel, NextTokenLayersAndIndexersCount) {
  ModelShape shape = test::llama3_8b();
  shape.set("nextn_predict_layers", 2);
  MemoryRequest request{.vram_bytes = 24 * kGiB};
  EXPECT_EQ(bytes_of(estimate_of(shape, request), "KV cache, full attention"), 30ULL * 8192ULL * 4096ULL);
  shape.set("attention.indexer.key_length", 128);
  EXPECT_EQ(bytes_of(estimate_of(shape, request), "indexer cache"), 30ULL * 8192ULL * 256ULL);
}

TEST(MemoryModel, PlacementFollowsTheFirstRuleThatApplies) {
  const ModelShape shape = test::qwen3_30b_a3b();
  MemoryRequest request{.vram_bytes = 24 * kGiB, .ram_bytes = 64 * kGiB};
  request.overrides =
      parse_placement_rules(R"(blk\.0\.ffn_up_exps=CUDA0,blk\.[0-9]{1,2}\.attn_q=cpu)").value();
  request.cpu_moe = true;
  request.gpu_layers = 11;  // output head and the last 10 layers
  const MemoryEstimate estimate = estimate_of(shape, request);
  const auto where = [&](std::string_view name) {
    for (std::size_t i = 0; i < shape.tensors.size(); ++i)
      if (shape.tensors[i].name == name)
        return fmt::format("{} {}", to_string(estimate.placement[i].device), estimate.placement[i].reason);
    return std::string("absent");
  };
  EXPECT_EQ(where("blk.0.ffn_up_exps.weight"), "GPU a rule");
  EXPECT_EQ(where("blk.47.attn_q.weight"), "RAM a rule");
  EXPECT_EQ(where("blk.47.ffn_up_exps.weight"), "RAM routed experts");
  EXPECT_EQ(where("blk.37.attn_k.weight"), "RAM layers in RAM");
  EXPECT_EQ(where("blk.38.attn_k.weight"), "GPU ");
  EXPECT_EQ(where("output.weight"), "GPU ");
  EXPECT_EQ(where("token_embd.weight"), "RAM input layer");
  // The cache lies where its layer is computed: 10 of 48 layers on the GPU.
  EXPECT_EQ(bytes_of(estimate, "KV cache, full attention"), 10ULL * 40960ULL * 2048ULL);
  EXPECT_EQ(bytes_of(estimate, "KV cache, full attention", Device::Host), 38ULL * 40960ULL * 2048ULL);

  request.gpu_layers = 0;
  EXPECT_EQ(bytes_of(estimate_of(shape, request), "compute buffer"), 0ULL);
  const MemoryEstimate none = estimate_of(shape, {.ram_bytes = 64 * kGiB});
  EXPECT_EQ(none.gpu_weight_budget_bytes, std::nullopt);
  EXPECT_EQ(none.gpu_other_bytes, 0ULL);
  for (const TensorPlacement& place : none.placement) EXPECT_EQ(place.device, Device::Host);
}

TEST(MemoryModel, TooLittleMemoryIsAnAnswer) {
  const MemoryEstimate estimate = estimate_of(test::llama3_8b(), {.vram_bytes = kGiB, .ram_bytes = 1});
  EXPECT_EQ(estimate.gpu_weight_budget_bytes, 0ULL);
  EXPECT_EQ(estimate.gpu_shortfall_bytes, estimate.gpu_other_bytes - kGiB);
  EXPECT_EQ(estimate.host_weight_budget_bytes, 0ULL);
  EXPECT_GT(estimate.host_shortfall_bytes, 0ULL);
}

TEST(MemoryModel, RefusesWhatItCannotPredict) {
  const auto code_of = [](const ModelShape& shape, const MemoryRequest& request) {
    const auto estimate = estimate_memory(shape.metadata, shape.tensors, request);
    EXPECT_FALSE(estimate);
    return estimate ? ErrorCode::Internal : estimate.error().code;
  };
  const MemoryRequest request{.vram_bytes = 24 * kGiB};
  ModelShape broken = test::llama3_8b();
  broken.metadata.remove("general.architecture");
  EXPECT_EQ(code_of(broken, request), ErrorCode::Malformed);
  for (const char* key : {"block_count", "embedding_length", "attention.head_count"}) {
    broken = test::llama3_8b();
    broken.metadata.remove(std::string("llama.") + key);
    if (std::string_view(key) == "attention.head_count")
      broken.metadata.remove("llama.attention.head_count_kv");
    if (std::string_view(key) == "attention.head_count") broken.set("attention.head_count_kv", 8);
    EXPECT_EQ(code_of(broken, request), ErrorCode::Malformed) << key;
  }
  broken = test::llama3_8b();
  broken.set("block_count", 2147483647);
  EXPECT_EQ(code_of(broken, request), ErrorCode::Malformed);
  for (const char* key :
       {"block_count", "embedding_length", "attention.head_count", "attention.head_count_kv",
        "feed_forward_length", "nextn_predict_layers", "attention.key_length"}) {
    broken = test::llama3_8b();
    broken.metadata.set(GgufKeyValue::of_string(std::string("llama.") + key, "many"));
    EXPECT_EQ(code_of(broken, request), ErrorCode::Malformed) << key;
    broken.set(key, 4294967295U);
    EXPECT_EQ(code_of(broken, request), ErrorCode::Malformed) << key;
  }
  broken = test::llama3_8b();
  broken.set_array("attention.head_count_kv", {8, 8});  // of 32 layers
  EXPECT_EQ(code_of(broken, request), ErrorCode::Malformed);
  broken = test::llama3_8b();
  broken.set("attention.key_length", 2147483647);
  broken.set("attention.head_count_kv", 2147483647);
  EXPECT_FALSE(estimate_memory(broken.metadata, broken.tensors, request));

  const ModelShape shape = test::llama3_8b();
  MemoryRequest wrong = request;
  wrong.cache_type_k = Format::Q4_K;
  EXPECT_EQ(code_of(shape, wrong), ErrorCode::InvalidArgument);
  wrong = request;
  wrong.parallel = 0;
  EXPECT_EQ(code_of(shape, wrong), ErrorCode::InvalidArgument);
  wrong = request;
  wrong.ubatch = 0;
  EXPECT_EQ(code_of(shape, wrong), ErrorCode::InvalidArgument);
  wrong = request;
  wrong.ctx_size = std::uint64_t{1} << 63;
  EXPECT_EQ(code_of(shape, wrong), ErrorCode::InvalidArgument);
  for (const char* buffer : {"CPU", "cpu", "CPU_REPACK", "CUDA_Host", "Vulkan_Host"})
    EXPECT_EQ(parse_placement_rules(fmt::format("x={}", buffer)).value().at(0).device, Device::Host)
        << buffer;
  for (const char* buffer : {"CUDA0", "cuda1", "Metal", "Vulkan0", "ROCm10", "SYCL0", "GPU"})
    EXPECT_EQ(parse_placement_rules(fmt::format("x={}", buffer)).value().at(0).device, Device::Gpu) << buffer;
  for (const char* rule :
       {"exps", "=CPU", "exps=", "exps=CPU,,", "(=CPU", "x=CPu0", "x=CUDAx", "x=0", "x=disk"})
    EXPECT_EQ(parse_placement_rules(rule).error().code, ErrorCode::InvalidArgument) << rule;
  EXPECT_EQ(parse_placement_rules("a(?=b)=CPU").value().at(0).pattern.text(), "a(?=b)");
  EXPECT_TRUE(parse_placement_rules("").value().empty());
}

}  // namespace
}  // namespace quantfit::optimizer
