// Tensors that are not a plain layer's matrices, through the real program: nothing is dropped.

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <random>

#include "core/model.h"
#include "tests/core/gguf_bytes.h"
#include "tests/support/process.h"
#include "tests/support/test_paths.h"

namespace quantfit {
namespace {

using test::ProcessResult;
using test::TemporaryFolder;
using testing::HasSubstr;

struct Tensor {
  std::string name;
  std::vector<std::uint64_t> ne;
};

// A file of F32 tensors of random numbers.
void write_model(const std::filesystem::path& path, const std::vector<Tensor>& tensors,
                 const std::vector<std::pair<std::string, std::string>>& texts,
                 const std::vector<std::pair<std::string, std::uint32_t>>& numbers) {
  test::GgufBytes file(tensors.size(), texts.size() + numbers.size());
  for (const auto& [key, value] : texts) file.key(key, value);
  for (const auto& [key, value] : numbers) file.key(key, GgufType::UInt32, value);
  const auto elements = [](const Tensor& tensor) {
    std::uint64_t count = 1;
    for (const std::uint64_t extent : tensor.ne) count *= extent;
    return count;
  };
  std::uint64_t offset = 0;
  for (const Tensor& tensor : tensors) {
    file.tensor(tensor.name, tensor.ne, 0, offset);
    offset += (elements(tensor) * 4 + 31) / 32 * 32;
  }
  std::mt19937 random(1);
  file.pad();
  for (const Tensor& tensor : tensors) {
    for (std::uint64_t i = 0; i < elements(tensor); ++i)
      file.put(static_cast<float>(static_cast<int>(random() % 2001) - 1000) * 1e-3F);
    file.pad();
  }
  test::write_file(path, file.bytes());
}

ProcessResult quantize(const std::filesystem::path& model, const std::filesystem::path& output,
                       std::vector<std::string> options) {
  options.insert(options.begin(), {QUANTFIT_BINARY, "quantize", model, "--imatrix", "none", "--effort",
                                   "fast", "--error-feedback", "off", "--objective", "prior", "-o", output});
  return test::run(options);
}

// Every tensor of the source is there; those for which `copied` holds, byte by byte.
template <class Copied>
void expect_all(const Model& source, const Model& output, const Copied& copied) {
  ASSERT_EQ(output.tensors().size(), source.tensors().size());
  for (const TensorInfo& tensor : source.tensors()) {
    const TensorInfo* other = output.find(tensor.name);
    ASSERT_NE(other, nullptr) << tensor.name;
    EXPECT_EQ(other->ne, tensor.ne);
    EXPECT_EQ(other->format == tensor.format, copied(tensor.name)) << tensor.name;
    const bool same = std::ranges::equal(output.data(*other), source.data(tensor));
    EXPECT_EQ(same, copied(tensor.name)) << tensor.name;
  }
}

TEST(SpecialTensors, ProjectorFilesKeepEightBits) {
  const TemporaryFolder folder;
  write_model(folder / "mmproj.gguf",
              {{"v.patch_embd.weight", {14, 14, 3, 64}},
               {"v.position_embd.weight", {256, 17}},
               {"v.blk.0.attn_q.weight", {256, 256}},
               {"v.blk.0.attn_q.bias", {256}},
               {"v.blk.0.ln1.weight", {256}},
               {"mm.0.weight", {256, 128}},
               {"mm.0.bias", {128}},
               {"something.new.weight", {256, 64}}},
              {{"general.architecture", "clip"}, {"general.type", "mmproj"}}, {});
  const auto made = quantize(folder / "mmproj.gguf", folder / "out.gguf", {"--target-bpw", "14.4"});
  ASSERT_EQ(made.exit_code, 0) << made.err;
  const auto source = Model::open(folder / "mmproj.gguf");
  const auto output = Model::open(folder / "out.gguf");
  ASSERT_TRUE(source && output);
  expect_all(source.value(), output.value(), [](const std::string& name) {
    return name != "v.blk.0.attn_q.weight" && name != "mm.0.weight" && name != "something.new.weight";
  });
  for (const char* name : {"v.blk.0.attn_q.weight", "mm.0.weight"})
    EXPECT_EQ(output.value().find(name)->format, Format::Q8_0) << name;
  // Somebody who says otherwise gets it.
  const auto listed = quantize(folder / "mmproj.gguf", folder / "listed.gguf",
                               {"--target-bpw", "12.5", "--formats", "Q4_0,Q8_0"});
  EXPECT_EQ(listed.exit_code, 0) << listed.err;
}

TEST(SpecialTensors, LayersThatPredictFurtherTokensStay) {
  const TemporaryFolder folder;
  std::vector<Tensor> tensors = {{"token_embd.weight", {256, 64}}, {"output_norm.weight", {256}}};
  for (int layer = 0; layer < 3; ++layer)
    for (const char* role : {"attn_q", "attn_k", "ffn_up", "ffn_down"})
      tensors.push_back({"blk." + std::to_string(layer) + "." + role + ".weight", {256, 256}});
  tensors.push_back({"blk.2.nextn.eh_proj.weight", {512, 256}});
  tensors.push_back({"blk.2.nextn.enorm.weight", {256}});
  tensors.push_back({"blk.2.nextn.shared_head_norm.weight", {256}});
  write_model(
      folder / "m.gguf", tensors, {{"general.architecture", "glm4moe"}},
      {{"glm4moe.block_count", 3}, {"glm4moe.nextn_predict_layers", 1}, {"glm4moe.context_length", 64}});
  const auto made = quantize(folder / "m.gguf", folder / "out.gguf",
                             {"--target-bpw", "5", "--override-kv", "glm4moe.context_length=int:128"});
  ASSERT_EQ(made.exit_code, 0) << made.err;
  const auto source = Model::open(folder / "m.gguf");
  const auto output = Model::open(folder / "out.gguf");
  ASSERT_TRUE(source && output);
  expect_all(source.value(), output.value(),
             [](const std::string& name) { return name.find("norm") != std::string::npos; });
  EXPECT_EQ(output.value().metadata().uint("glm4moe.context_length"), 128U);

  // Without its first layer and the one for further tokens.
  const auto pruned =
      quantize(folder / "m.gguf", folder / "pruned.gguf", {"--target-bpw", "5", "--prune-layers", "0,2"});
  ASSERT_EQ(pruned.exit_code, 0) << pruned.err;
  const auto less = Model::open(folder / "pruned.gguf");
  ASSERT_TRUE(less);
  EXPECT_EQ(less.value().tensors().size(), 6U);
  EXPECT_NE(less.value().find("blk.0.attn_q.weight"), nullptr);
  EXPECT_EQ(less.value().metadata().uint("glm4moe.block_count"), 1U);
  EXPECT_EQ(less.value().metadata().uint("glm4moe.nextn_predict_layers"), 0U);
  const auto wrong =
      quantize(folder / "m.gguf", folder / "x.gguf", {"--target-bpw", "5", "--prune-layers", "3"});
  EXPECT_EQ(wrong.exit_code, 2);
  EXPECT_THAT(wrong.err, HasSubstr("there are 3"));
}

// Over 60 s of processor time, where every look through all tensors costs the square of their number; about 2
// s otherwise.
TEST(SpecialTensors, ManyTensorsCostTheirNumberAndNotItsSquare) {
  const TemporaryFolder folder;
  std::vector<Tensor> tensors = {{"token_embd.weight", {256, 8}}};
  for (int layer = 0; layer < 20'000; ++layer)
    for (const char* role : {"attn_norm", "ffn_norm", "attn_q_norm", "attn_k_norm", "ffn_up"})
      tensors.push_back({fmt::format("blk.{}.{}.weight", layer, role), {8}});
  write_model(folder / "m.gguf", tensors, {{"general.architecture", "llama"}},
              {{"llama.block_count", 20'000}});
  const auto planned = test::run({"/bin/sh", "-c", "ulimit -t 60; exec \"$@\"", "sh", QUANTFIT_BINARY, "plan",
                                  folder / "m.gguf", "--imatrix", "none", "--error-feedback", "off",
                                  "--objective", "prior", "--target-bpw", "32"});
  EXPECT_EQ(planned.exit_code, 0) << planned.err;
}

}  // namespace
}  // namespace quantfit
