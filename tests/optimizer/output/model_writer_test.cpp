#include "optimizer/output/model_writer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <fstream>
#include <functional>
#include <limits>
#include <map>
#include <set>
#include <utility>

#include "core/fingerprint.h"
#include "kernels/row_quantizer.h"
#include "optimizer/output/recipe_io.h"
#include "tests/core/gguf_bytes.h"
#include "tests/optimizer/small_model.h"

namespace quantfit::optimizer {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

const kernels::RowKernels& best_kernels() {
  return kernels::runnable_kernels().front();
}

// Rows enough for several chunks in the large tensor; experts, copied tensors, and one of a single row.
std::vector<test::SmallTensor> tensors() {
  return {{"token_embd.weight", {512, 3000, 1}, Format::F16, {}, {}},
          {"blk.0.attn_norm.weight", {256, 1, 1}, Format::F32, {}, {}},
          {"blk.0.attn_q.weight", {256, 300, 1}, Format::F16, {}, {1000}},
          {"blk.0.ffn_up_exps.weight", {256, 40, 4}, Format::F16, {}, {500, 300, 200, 0}},
          {"output.weight", {512, 70, 1}, Format::F16, {}, {1000}}};
}

Recipe recipe_for(const Model& model) {
  Recipe recipe;
  const std::map<std::string, Format> formats = {{"token_embd.weight", Format::Q4_0},
                                                 {"blk.0.attn_q.weight", Format::Q4_K},
                                                 {"blk.0.ffn_up_exps.weight", Format::IQ2_XXS}};
  for (const TensorInfo& tensor : model.tensors()) {
    const auto found = formats.find(tensor.name);
    recipe.entries.push_back({tensor.name, found == formats.end() ? tensor.format : found->second});
  }
  return recipe;
}

Result<WriteSummary> write(const test::SmallModel& small, const Recipe& recipe, const fs::path& path,
                           const WriterOptions& options = {},
                           const kernels::RowKernels& kernels = best_kernels()) {
  NoProgress progress;
  const CancellationToken cancel;
  return write_model(small.model(), small.importance(), recipe, path, options, kernels, progress, cancel);
}

std::set<std::string> files_in(const fs::path& folder) {
  std::set<std::string> names;
  for (const auto& entry : fs::directory_iterator(folder)) names.insert(entry.path().filename().string());
  return names;
}

TEST(ModelWriter, BytesDoNotDependOnThreadsOrInstructionSet) {
  const test::SmallModel small(tensors());
  const Recipe recipe = recipe_for(small.model());
  WriterOptions options;
  options.threads = 1;
  options.existing = Existing::Replace;
  const fs::path first = small.folder() / "1.gguf";
  ASSERT_TRUE(write(small, recipe, first, options));
  const auto bytes = test::read_file(first);
  for (const unsigned threads : {2U, 5U}) {
    options.threads = threads;
    const fs::path path = small.folder() / "threads.gguf";
    ASSERT_TRUE(write(small, recipe, path, options));
    EXPECT_TRUE(test::read_file(path) == bytes) << threads << " threads";
  }
  options.effort = kernels::Effort::Fast;
  ASSERT_TRUE(write(small, recipe, first, options));
  const auto fast = test::read_file(first);
  for (const kernels::RowKernels& kernels : kernels::runnable_kernels()) {
    const fs::path path = small.folder() / "isa.gguf";
    ASSERT_TRUE(write(small, recipe, path, options, kernels));
    EXPECT_TRUE(test::read_file(path) == fast) << kernels.isa;
  }
}

TEST(ModelWriter, DataAreCopiedOrEncodedRowByRow) {
  const test::SmallModel small(tensors());
  const Recipe recipe = recipe_for(small.model());
  const fs::path path = small.folder() / "out.gguf";
  const WriterOptions options;
  const auto summary = write(small, recipe, path, options);
  ASSERT_TRUE(summary) << summary.error().message;
  const auto written = Model::open(path);
  ASSERT_TRUE(written) << written.error().message;
  EXPECT_EQ(summary.value().file_bytes, fs::file_size(path));
  EXPECT_EQ(summary.value().tensor_bytes, written.value().total_tensor_bytes());
  ASSERT_EQ(written.value().tensors().size(), recipe.entries.size());
  kernels::RowQuantizer quantizer(best_kernels(), 512);
  for (std::size_t t = 0; t < recipe.entries.size(); ++t) {
    const TensorInfo& source = small.model().tensors()[t];
    const TensorInfo& output = written.value().tensors()[t];
    EXPECT_EQ(output.name, recipe.entries[t].tensor);
    EXPECT_EQ(output.format, recipe.entries[t].format);
    EXPECT_EQ(output.ne, source.ne);
    if (output.format == source.format) {
      const auto before = small.model().data(source);
      const auto after = written.value().data(output);
      EXPECT_TRUE(std::ranges::equal(before, after)) << source.name;
      continue;
    }
    const auto metric = make_tensor_metric(source, small.importance(), options.error_model);
    ASSERT_TRUE(metric);
    std::vector<std::byte> expected(row_bytes(output.format, source.row_length()).value());
    for (std::uint64_t row = 0; row < source.rows(); ++row) {
      ASSERT_TRUE(quantizer.load(source.format, small.model().row(source, row),
                                 metric.value().of(row / source.ne[1])));
      quantizer.encode(output.format, options.effort, expected.data());
      ASSERT_TRUE(std::ranges::equal(written.value().row(output, row), expected))
          << source.name << ", row " << row;
    }
  }
}

TEST(ModelWriter, MetadataAreCarriedOverByteForByte) {
  const test::SmallModel small(tensors());
  const fs::path path = small.folder() / "out.gguf";
  ASSERT_TRUE(write(small, recipe_for(small.model()), path));
  const auto written = Model::open(path);
  ASSERT_TRUE(written);
  const GgufMetadata& metadata = written.value().metadata();
  const std::set<std::string> owned = {"general.file_type"};
  for (const GgufKeyValue& before : small.model().metadata().all()) {
    const GgufKeyValue* after = metadata.find(before.key);
    ASSERT_NE(after, nullptr) << before.key;
    if (owned.contains(before.key)) continue;
    EXPECT_EQ(after->type, before.type) << before.key;
    EXPECT_EQ(after->element_type, before.element_type) << before.key;
    EXPECT_EQ(after->count, before.count) << before.key;
    EXPECT_EQ(after->bytes, before.bytes) << before.key;
  }
  EXPECT_EQ(metadata.uint("general.quantization_version"), 2U);
  EXPECT_NE(metadata.uint("general.file_type"), 1U);  // no longer F16
  EXPECT_EQ(metadata.string("quantize.imatrix.file"), "imatrix.gguf");
  EXPECT_EQ(metadata.string("quantize.imatrix.dataset"), "calibration.txt");
  EXPECT_EQ(metadata.uint("quantize.imatrix.chunks_count"), 10U);
  EXPECT_EQ(metadata.uint("quantize.imatrix.entries_count"), small.importance()->entries().size());
  EXPECT_EQ(metadata.all().size(), small.model().metadata().all().size() + 5);
}

TEST(ModelWriter, JoinsShardsAndDropsTheirKeys) {
  const auto model = Model::open(test::data_dir() / "gguf" / "tiny-00001-of-00003.gguf");
  ASSERT_TRUE(model) << model.error().message;
  Recipe recipe;
  for (const TensorInfo& tensor : model.value().tensors())
    recipe.entries.push_back({tensor.name, tensor.format});
  const test::TemporaryFolder folder;
  NoProgress progress;
  const CancellationToken cancel;
  const auto summary = write_model(model.value(), nullptr, recipe, folder / "whole.gguf", {}, best_kernels(),
                                   progress, cancel);
  ASSERT_TRUE(summary) << summary.error().message;
  const auto whole = Model::open(folder / "whole.gguf");
  ASSERT_TRUE(whole) << whole.error().message;
  for (const char* key : {"split.no", "split.count", "split.tensors.count"}) {
    EXPECT_NE(model.value().metadata().find(key), nullptr) << key;
    EXPECT_EQ(whole.value().metadata().find(key), nullptr) << key;
  }
  for (const TensorInfo& tensor : model.value().tensors()) {
    const TensorInfo* copy = whole.value().find(tensor.name);
    ASSERT_NE(copy, nullptr) << tensor.name;
    EXPECT_TRUE(std::ranges::equal(model.value().data(tensor), whole.value().data(*copy))) << tensor.name;
  }
}

TEST(ModelWriter, SeveralFilesHoldTheSameTensors) {
  const test::SmallModel small(tensors());
  const Recipe recipe = recipe_for(small.model());
  ASSERT_TRUE(write(small, recipe, small.folder() / "whole.gguf"));
  const auto whole = Model::open(small.folder() / "whole.gguf");
  ASSERT_TRUE(whole);
  for (const ShardLimits split : {ShardLimits{0, 1}, ShardLimits{0, 2}, ShardLimits{100000, 0}}) {
    const test::TemporaryFolder folder;
    WriterOptions options;
    options.split = split;
    const auto summary = write(small, recipe, folder / "out.gguf", options);
    ASSERT_TRUE(summary) << summary.error().message;
    const auto& files = summary.value().files;
    ASSERT_GE(files.size(), 3U);
    EXPECT_EQ(files[0], folder / fmt::format("out-00001-of-{:05}.gguf", files.size()));
    EXPECT_EQ(files_in(folder.path()).size(), files.size());
    std::uint64_t bytes = 0;
    for (const fs::path& file : files) bytes += fs::file_size(file);
    EXPECT_EQ(summary.value().file_bytes, bytes);
    const auto model = Model::open(files[0]);
    ASSERT_TRUE(model) << model.error().message;
    ASSERT_EQ(model.value().tensors().size(), whole.value().tensors().size());
    for (std::size_t t = 0; t < recipe.entries.size(); ++t) {
      EXPECT_EQ(model.value().tensors()[t].name, whole.value().tensors()[t].name);
      EXPECT_TRUE(std::ranges::equal(model.value().data(model.value().tensors()[t]),
                                     whole.value().data(whole.value().tensors()[t])));
    }
    // One that is there is not replaced, and named before any work.
    fs::remove(files[0]);
    const auto refused = write(small, recipe, folder / "out.gguf", options);
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().code, ErrorCode::InvalidArgument);
    EXPECT_THAT(refused.error().message, HasSubstr(files[1].string() + ": exists already"));
    EXPECT_FALSE(fs::exists(files[0]));
    options.existing = Existing::Replace;
    EXPECT_TRUE(write(small, recipe, folder / "out.gguf", options));
  }
}

TEST(ModelWriter, SeveralFilesNeverReplaceTheirSource) {
  const test::SmallModel small(tensors());
  Recipe recipe = recipe_for(small.model());
  WriterOptions options;
  options.split = {0, 1};
  options.existing = Existing::Replace;
  const auto shards = write(small, recipe, small.folder() / "m.gguf", options);
  ASSERT_TRUE(shards);
  const auto before = test::read_file(shards.value().files[3]);
  const auto source = Model::open(shards.value().files[0]);
  ASSERT_TRUE(source);
  NoProgress progress;
  const CancellationToken cancel;
  const auto summary = write_model(source.value(), nullptr, recipe_of(source.value().tensors()),
                                   small.folder() / "m.gguf", options, best_kernels(), progress, cancel);
  ASSERT_FALSE(summary);
  EXPECT_THAT(summary.error().message, HasSubstr("would replace the model"));
  EXPECT_TRUE(test::read_file(shards.value().files[3]) == before);
}

TEST(ModelWriter, RefusesToReplaceItsSource) {
  const test::SmallModel small(tensors());
  const auto before = test::read_file(small.path());
  fs::create_symlink(small.path(), small.folder() / "link.gguf");
  fs::create_hard_link(small.path(), small.folder() / "hard.gguf");
  for (const fs::path& path : {small.path(), small.folder() / "link.gguf", small.folder() / "hard.gguf"}) {
    const auto summary = write(small, recipe_for(small.model()), path);
    ASSERT_FALSE(summary) << path;
    EXPECT_EQ(summary.error().code, ErrorCode::InvalidArgument);
    EXPECT_THAT(summary.error().message, HasSubstr("would replace the model"));
  }
  EXPECT_TRUE(test::read_file(small.path()) == before);
}

// Cancels once some weights were written.
class CancelAtFirst final : public ProgressSink {
 public:
  explicit CancelAtFirst(CancellationToken& cancel) : cancel_(cancel) {}
  void begin(std::string_view, std::uint64_t) override {}
  void advance(std::uint64_t, std::string_view) override { cancel_.cancel(); }
  void end() override {}

 private:
  CancellationToken& cancel_;
};

TEST(ModelWriter, CancellationLeavesEverythingAsItWas) {
  const test::SmallModel small(tensors());
  const fs::path path = small.folder() / "out.gguf";
  const std::vector<std::byte> earlier(10, std::byte{7});
  for (const bool exists : {false, true}) {
    if (exists) test::write_file(path, earlier);
    WriterOptions options;
    options.existing = Existing::Replace;
    const auto before = files_in(small.folder());
    CancellationToken cancel;
    CancelAtFirst progress(cancel);
    const auto summary = write_model(small.model(), small.importance(), recipe_for(small.model()), path,
                                     options, best_kernels(), progress, cancel);
    ASSERT_FALSE(summary);
    EXPECT_EQ(summary.error().code, ErrorCode::Interrupted);
    EXPECT_EQ(files_in(small.folder()), before);
    if (exists) {
      EXPECT_EQ(test::read_file(path), earlier);
    }
  }
}

// Something else makes the output while it is written.
class AppearsMeanwhile final : public ProgressSink {
 public:
  explicit AppearsMeanwhile(fs::path path) : path_(std::move(path)) {}
  void begin(std::string_view, std::uint64_t) override {}
  void advance(std::uint64_t, std::string_view) override {
    if (!fs::exists(path_)) test::write_file(path_, std::vector<std::byte>(3, std::byte{1}));
  }
  void end() override {}

 private:
  fs::path path_;
};

TEST(ModelWriter, ReplacesOnlyOnRequest) {
  const test::SmallModel small(tensors());
  const Recipe recipe = recipe_for(small.model());
  const fs::path path = small.folder() / "out.gguf";
  const CancellationToken cancel;
  for (const Existing existing : {Existing::Keep, Existing::Replace}) {
    fs::remove(path);
    AppearsMeanwhile progress(path);
    WriterOptions options;
    options.existing = existing;
    const auto summary = write_model(small.model(), small.importance(), recipe, path, options, best_kernels(),
                                     progress, cancel);
    EXPECT_EQ(summary.has_value(), existing == Existing::Replace);
    EXPECT_EQ(fs::file_size(path) == 3, existing == Existing::Keep);
  }
  const auto refused = write(small, recipe, path);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ErrorCode::InvalidArgument);
  EXPECT_TRUE(Model::open(small.folder() / "out.gguf.1"));
}

// Calls something once, in the middle of writing.
class OnFirstAdvance final : public ProgressSink {
 public:
  explicit OnFirstAdvance(std::function<void()> act) : act_(std::move(act)) {}
  void begin(std::string_view, std::uint64_t) override {}
  void advance(std::uint64_t, std::string_view) override {
    if (act_) std::exchange(act_, nullptr)();
  }
  void end() override {}

 private:
  std::function<void()> act_;
};

TEST(ModelWriter, SourceThatChangesMeanwhileLeavesNoFile) {
  const auto refused = [](const std::function<void(const fs::path&)>& change, const std::string& part) {
    const test::SmallModel small(tensors());
    fs::last_write_time(small.path(), fs::file_time_type::clock::now() - std::chrono::hours(1));
    const auto model = Model::open(small.path());
    ASSERT_TRUE(model);
    WriterOptions options;
    options.source_fingerprint = fingerprint(model.value());
    const auto before = files_in(small.folder());
    OnFirstAdvance progress([&] { change(small.path()); });
    const CancellationToken cancel;
    const auto summary = write_model(model.value(), nullptr, recipe_for(model.value()),
                                     small.folder() / "out.gguf", options, best_kernels(), progress, cancel);
    ASSERT_FALSE(summary) << part;
    EXPECT_EQ(summary.error().code, ErrorCode::Io);
    EXPECT_THAT(summary.error().message, HasSubstr("model.gguf: "));
    EXPECT_THAT(summary.error().message, HasSubstr(part));
    EXPECT_EQ(files_in(small.folder()), before);
  };
  const auto rewrite = [](const fs::path& path) {
    const auto bytes = test::read_file(path);
    // In place: a file that is emptied first is, for a moment, one that was cut short, which is another
    // sentence.
    std::fstream file(path, std::ios::binary | std::ios::in | std::ios::out);
    file.seekp(static_cast<std::streamoff>(bytes.size() / 2));
    for (std::size_t i = bytes.size() / 2; i < bytes.size(); ++i)
      file.put(static_cast<char>(bytes[i] ^ std::byte{1}));
  };
  refused([](const fs::path& path) { fs::resize_file(path, 4096); }, "changed its size");
  refused(rewrite, "modified it while it was being read");
  // One that sets the time back is betrayed by its weights.
  refused(
      [&](const fs::path& path) {
        const auto time = fs::last_write_time(path);
        rewrite(path);
        fs::last_write_time(path, time);
      },
      "changed its weights since the job began");
}

TEST(ModelWriter, SourceThatWasCutShortBeforeIsNoBusError) {
  const test::SmallModel small(tensors());
  fs::resize_file(small.path(), 4096);
  const auto summary = write(small, recipe_for(small.model()), small.folder() / "out.gguf");
  ASSERT_FALSE(summary);
  EXPECT_EQ(summary.error().code, ErrorCode::Io);
  EXPECT_THAT(summary.error().message, HasSubstr("changed its size"));
  EXPECT_FALSE(fs::exists(small.folder() / "out.gguf"));
}

TEST(ModelWriter, DigestSeesTheWeightThatTheFingerprintMisses) {
  const test::SmallModel small(tensors());
  const fs::path other = small.folder() / "other.gguf";
  auto bytes = test::read_file(small.path());
  const TensorInfo& large = small.model().tensors()[0];  // 3 MB: pieces of 4 KiB are taken 130 KB apart
  const std::uint64_t at = small.model().shards()[0].data_offset + large.offset + 64000;
  bytes[at] ^= std::byte{1};
  test::write_file(other, bytes);
  const auto changed = Model::open(other);
  ASSERT_TRUE(changed);
  EXPECT_EQ(fingerprint(changed.value()), fingerprint(small.model()));
  std::vector<std::string> digests;
  NoProgress progress;
  const CancellationToken cancel;
  for (const Model* model : {&small.model(), &small.model(), &changed.value()})
    for (const unsigned threads : {1U, 4U}) {
      WriterOptions options;
      options.threads = threads;
      options.existing = Existing::Replace;
      const Recipe recipe = digests.size() < 2 ? recipe_of(model->tensors()) : recipe_for(*model);
      const auto summary = write_model(*model, nullptr, recipe, small.folder() / "out.gguf", options,
                                       best_kernels(), progress, cancel);
      ASSERT_TRUE(summary) << summary.error().message;
      digests.push_back(summary.value().source_digest);
    }
  EXPECT_EQ(digests[0].size(), 32U);
  for (const std::size_t i : {1U, 2U, 3U}) EXPECT_EQ(digests[i], digests[0]);  // any recipe, any threads
  EXPECT_NE(digests[4], digests[0]);
  EXPECT_EQ(digests[5], digests[4]);
  EXPECT_EQ(weights_digest(small.model(), progress, cancel).value(), digests[0]);

  // Where the digest is known, other weights give no file.
  std::filesystem::remove(small.folder() / "out.gguf");
  WriterOptions options;
  options.source_digest = digests[0];
  const auto refused = write_model(changed.value(), nullptr, recipe_for(changed.value()),
                                   small.folder() / "out.gguf", options, best_kernels(), progress, cancel);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ErrorCode::IdentityMismatch);
  EXPECT_THAT(refused.error().message, HasSubstr(digests[4]));
  EXPECT_FALSE(std::filesystem::exists(small.folder() / "out.gguf"));
  EXPECT_TRUE(write_model(small.model(), nullptr, recipe_for(small.model()), small.folder() / "out.gguf",
                          options, best_kernels(), progress, cancel));
}

TEST(ModelWriter, BrokenWeightLeavesNoFile) {
  std::vector<test::SmallTensor> broken = tensors();
  broken[4].values = test::heavy_tailed(70, 512, 3);
  broken[4].values[69 * 512 + 100] = std::numeric_limits<float>::infinity();
  const test::SmallModel small(broken);
  Recipe recipe = recipe_for(small.model());
  recipe.entries[4].format = Format::Q4_0;
  const auto before = files_in(small.folder());
  const auto summary = write(small, recipe, small.folder() / "out.gguf");
  ASSERT_FALSE(summary);
  EXPECT_EQ(summary.error().code, ErrorCode::Malformed);
  EXPECT_THAT(summary.error().message, HasSubstr("'output.weight', row 69: column 100"));
  EXPECT_EQ(files_in(small.folder()), before);
}

TEST(ModelWriter, BrokenWeightThatWouldBeCopiedLeavesNoFile) {
  for (const float broken : {std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()})
    for (const Format format : {Format::F16, Format::F32}) {
      std::vector<test::SmallTensor> all = tensors();
      all[4].format = format;
      all[4].values = test::heavy_tailed(70, 512, 3);
      all[4].values[69 * 512 + 100] = broken;
      const test::SmallModel small(all);
      const auto before = files_in(small.folder());
      const auto summary = write(small, recipe_for(small.model()), small.folder() / "out.gguf");
      ASSERT_FALSE(summary);
      EXPECT_EQ(summary.error().code, ErrorCode::Malformed);
      EXPECT_THAT(summary.error().message,
                  HasSubstr(fmt::format("'output.weight', row 69: {} block 100 holds", name_of(format))));
      EXPECT_EQ(files_in(small.folder()), before);
    }
}

TEST(ModelWriter, TensorsWithoutElementsCostNothing) {
  const test::TemporaryFolder folder;
  test::GgufBytes file(4, 1);
  file.key("general.architecture", "llama");
  file.tensor("blk.0.attn_q.weight", {256, 2}, 0, 0);
  file.tensor("blk.0.attn_k.weight", {0, std::uint64_t{1} << 62}, 0, 2048);
  file.tensor("blk.0.attn_v.weight", {std::uint64_t{1} << 40, 0}, 1, 2048);
  file.tensor("blk.0.ffn_up.weight", {256, 0, std::uint64_t{1} << 40}, 0, 2048);
  file.pad().zeros(2048);
  test::write_file(folder / "model.gguf", file.bytes());
  const auto model = Model::open(folder / "model.gguf");
  ASSERT_TRUE(model) << model.error().message;
  Recipe recipe = recipe_for(model.value());
  NoProgress progress;
  const CancellationToken cancel;
  const auto summary =
      write_model(model.value(), nullptr, recipe, folder / "out.gguf", {}, best_kernels(), progress, cancel);
  ASSERT_TRUE(summary) << summary.error().message;
  const auto written = Model::open(folder / "out.gguf");
  ASSERT_TRUE(written) << written.error().message;
  ASSERT_EQ(written.value().tensors().size(), 4U);
  for (std::size_t i = 0; i < 4; ++i) {
    EXPECT_EQ(written.value().tensors()[i].ne, model.value().tensors()[i].ne);
    EXPECT_EQ(written.value().tensors()[i].format, recipe.entries[i].format);
  }
  EXPECT_EQ(recipe.entries[0].format, Format::Q4_K);
  recipe.entries[2].format = Format::Q4_0;
  const auto refused =
      write_model(model.value(), nullptr, recipe, folder / "x.gguf", {}, best_kernels(), progress, cancel);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ErrorCode::InvalidArgument);
  EXPECT_THAT(refused.error().message, HasSubstr("'blk.0.attn_v.weight' has no elements"));
}

TEST(ModelWriter, RecipeMustFitTheModel) {
  const test::SmallModel small(tensors());
  const fs::path path = small.folder() / "out.gguf";
  const Recipe good = recipe_for(small.model());
  const auto refused = [&](const Recipe& recipe, ErrorCode code, const std::string& part) {
    const auto summary = write(small, recipe, path);
    ASSERT_FALSE(summary) << part;
    EXPECT_EQ(summary.error().code, code) << summary.error().message;
    EXPECT_THAT(summary.error().message, HasSubstr(part));
    EXPECT_FALSE(fs::exists(path));
  };
  Recipe recipe = good;
  recipe.entries.pop_back();
  refused(recipe, ErrorCode::InvalidArgument, "does not name tensor 'output.weight'");
  recipe = good;
  recipe.entries.push_back(recipe.entries[0]);
  refused(recipe, ErrorCode::InvalidArgument, "'token_embd.weight' twice");
  recipe = good;
  recipe.entries.push_back({"blk.9.x", Format::Q4_0});
  refused(recipe, ErrorCode::InvalidArgument, "names 6 tensors, the model has 5");
  recipe = good;
  recipe.entries[2].format = Format::Q8_K;
  refused(recipe, ErrorCode::InvalidArgument, "cannot be encoded");
}

}  // namespace
}  // namespace quantfit::optimizer
