// Tunings that are interrupted or killed and go on.
#include "optimizer/tuning/checkpoint.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>

#include "core/file_util.h"
#include "optimizer/tuning/tune.h"
#include "tests/optimizer/engine/generated_shape.h"
#include "tests/optimizer/tuning/quantized_copy.h"

namespace quantfit::test {
namespace {

using namespace tuning;
using ::testing::HasSubstr;
namespace fs = std::filesystem;

// Cancels after so many pieces of progress; keeps copies of the checkpoint as a killed process would leave
// it.
class Watch final : public ProgressSink {
 public:
  explicit Watch(CancellationToken& cancel) : cancel_(&cancel) {}
  void begin(std::string_view, std::uint64_t) override {}
  void advance(std::uint64_t, std::string_view) override {
    if (++seen_ == stop_after) cancel_->cancel();
    std::error_code ignored;
    if (copy_every == 0 || seen_ % copy_every != 0 || !fs::exists(checkpoint, ignored)) return;
    copies.push_back(checkpoint.string() + fmt::format(".copy{}", copies.size()));
    fs::copy_file(checkpoint, copies.back());
  }
  void end() override {}
  [[nodiscard]] std::size_t seen() const { return seen_; }

  std::size_t stop_after = 0, copy_every = 0;
  fs::path checkpoint;
  std::vector<fs::path> copies;

 private:
  CancellationToken* cancel_;
  std::size_t seen_ = 0;
};

class TuneCheckpoint : public ::testing::Test {
 protected:
  static Model original(const fs::path& path) {
    GeneratedShape shape;
    shape.ffn = 64;
    write_generated(shape, path);
    return Model::open(path).value();
  }
  static calibration::Text text() {
    std::vector<TokenId> tokens;
    for (std::uint64_t i = 0, state = 1; i < 16 * 16; ++i, state = state * 6364136223846793005U + 1)
      tokens.push_back(static_cast<TokenId>((state >> 33) % GeneratedShape{}.vocabulary));
    return {TokenWindows::cut(std::move(tokens), 16, std::nullopt).value(), {"made"}, "made"};
  }
  static Format format_of(std::string_view name) {
    return name.find("attn") != name.npos ? Format::Q4_0 : Format::IQ4_NL;
  }
  TuneCheckpoint() {
    options_.level = Level::Codes;
    options_.steps = 6;
    options_.step_tokens = 64;
    options_.run.threads = 1;
  }
  [[nodiscard]] Result<TuneResult> run(Watch& watch, const CancellationToken& cancel) const {
    return tune(original_, quantized_, text_, options_, watch, cancel);
  }
  static std::vector<std::vector<std::byte>> bytes_of(const TuneResult& result) {
    return result.parameters.snapshot();
  }
  // To the end, however often it is stopped.
  [[nodiscard]] TuneResult finish() const {
    CancellationToken cancel;
    Watch watch(cancel);
    auto done = run(watch, cancel);
    EXPECT_TRUE(done) << done.error().message;
    return std::move(done).value();
  }

  const TemporaryFolder folder_;
  const Model original_ = original(folder_ / "f32.gguf");
  const Model quantized_ = quantized_copy(original_, folder_ / "q.gguf", format_of);
  const calibration::Text text_ = text();
  TuneOptions options_;
};

TEST_F(TuneCheckpoint, GoesOnToTheSameBytesWhereverItWasStoppedOrKilled) {
  CancellationToken never;
  Watch whole(never);
  const TuneResult expected = run(whole, never).value();
  ASSERT_EQ(expected.continued_at, 0U);
  options_.checkpoint = folder_ / "tuning";
  options_.checkpoint_seconds = 0;

  // Stopped again and again; the last run finds nothing left to do but the end.
  std::vector<std::uint32_t> begun;
  for (std::size_t stop = whole.seen() / 3;; ++stop) {
    CancellationToken cancel;
    Watch watch(cancel);
    watch.stop_after = stop;
    auto done = run(watch, cancel);
    if (done) {
      EXPECT_EQ(bytes_of(done.value()), bytes_of(expected));
      EXPECT_EQ(done.value().attempts, expected.attempts);
      begun.push_back(done.value().continued_at);
      break;
    }
    ASSERT_EQ(done.error().code, ErrorCode::Interrupted);
    ASSERT_LT(begun.size(), 50U);
    begun.push_back(0);
  }
  EXPECT_GT(begun.size(), 1U);
  EXPECT_GT(begun.back(), 0U);

  // Killed: what lies there at any moment is a whole checkpoint.
  fs::remove(options_.checkpoint);
  CancellationToken cancel;
  Watch copying(cancel);
  copying.checkpoint = options_.checkpoint;
  copying.copy_every = whole.seen() / 6;
  ASSERT_TRUE(run(copying, cancel));
  ASSERT_GT(copying.copies.size(), 2U);
  for (const fs::path& copy : copying.copies) {
    fs::rename(copy, options_.checkpoint);
    const TuneResult done = finish();
    EXPECT_GT(done.continued_at, 0U);
    EXPECT_EQ(bytes_of(done), bytes_of(expected));
    EXPECT_EQ(done.attempts, expected.attempts);
  }
}

TEST_F(TuneCheckpoint, OfAnotherTuningOrDamagedIsNotUsed) {
  options_.level = Level::Norms;
  const TuneResult expected = finish();
  options_.checkpoint = folder_ / "tuning";
  options_.checkpoint_seconds = 0;
  options_.steps = 5;
  (void)finish();
  ASSERT_TRUE(fs::exists(options_.checkpoint));
  options_.steps = 4;
  TuneResult done = finish();
  EXPECT_EQ(done.continued_at, 0U);
  EXPECT_EQ(bytes_of(done), bytes_of(expected));
  // One bit.
  {
    std::fstream file(options_.checkpoint, std::ios::in | std::ios::out | std::ios::binary);
    file.seekg(-100, std::ios::end);
    const char byte = static_cast<char>(file.peek() ^ 4);
    file.seekp(-100, std::ios::end);
    file.put(byte);
  }
  done = finish();
  EXPECT_EQ(done.continued_at, 0U);
  EXPECT_EQ(bytes_of(done), bytes_of(expected));
  // What is no checkpoint is nobody's to replace.
  std::ofstream(options_.checkpoint, std::ios::trunc) << "my notes";
  CancellationToken cancel;
  Watch watch(cancel);
  const auto refused = run(watch, cancel);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ErrorCode::InvalidArgument);
  EXPECT_THAT(refused.error().message, HasSubstr("in the way"));
  EXPECT_EQ(fs::file_size(options_.checkpoint), 8U);
}

// An attempt that was refused is not made again after an interruption in the next one.
TEST_F(TuneCheckpoint, RemembersAttemptsThatCameToNothing) {
  // Rates that can only do harm.
  options_.level.reset();
  options_.value_rate = options_.scale_rate = 3;
  CancellationToken never;
  Watch whole(never);
  const TuneResult expected = run(whole, never).value();
  ASSERT_EQ(expected.level, Level::None);
  ASSERT_EQ(expected.attempts.size(), 3U);
  options_.checkpoint = folder_ / "tuning";
  options_.checkpoint_seconds = 0;
  CancellationToken cancel;
  Watch watch(cancel);
  watch.stop_after = whole.seen() * 9 / 10;
  ASSERT_FALSE(run(watch, cancel));
  const TuneResult done = finish();
  EXPECT_EQ(done.attempts, expected.attempts);
  EXPECT_GT(done.continued_at, 0U);
}

}  // namespace
}  // namespace quantfit::test
