// One pass for several observers.
#include "optimizer/calibration/pass.h"

#include <gtest/gtest.h>

#include <array>
#include <vector>

#include "core/fingerprint.h"
#include "optimizer/calibration/importance.h"
#include "optimizer/calibration/moments.h"
#include "tests/optimizer/calibration/trained_text.h"

namespace quantfit::test {
namespace {

using calibration::ImportanceCollector;
using calibration::MomentsRecorder;
using calibration::PassObserver;
using calibration::PassOptions;
using calibration::Text;

// Cancels after so many advances.
class StopAfter final : public ProgressSink {
 public:
  StopAfter(CancellationToken& cancel, int advances) : cancel_(&cancel), left_(advances) {}
  void begin(std::string_view, std::uint64_t) override {}
  void advance(std::uint64_t, std::string_view) override {
    if (--left_ == 0) cancel_->cancel();
  }
  void end() override {}

 private:
  CancellationToken* cancel_;
  int left_;
};

class Pass : public testing::Test {
 protected:
  MomentsRecorder recorder(const Text& text, const std::string& name, const std::string& parts = "") const {
    return {*kernels::default_math_kernels().value(),
            {},
            {fingerprint(trained_model()), text.fingerprint, engine::kEngineVersion},
            static_cast<std::uint32_t>(engine_.graph().layers.size()),
            folder_ / name,
            parts.empty() ? std::filesystem::path() : folder_ / parts};
  }
  PassOptions options() const {
    PassOptions options;
    options.model_fingerprint = fingerprint(trained_model());
    options.run.batch_tokens = 64;
    options.checkpoint_seconds = 0;
    return options;
  }

  TemporaryFolder folder_;
  engine::Engine engine_ = engine::Engine::open(trained_model()).value();
  NoProgress progress_;
  CancellationToken cancel_;
};

TEST_F(Pass, FindsForTwoWhatItFindsForEach) {
  const Text text = trained_text(4);
  const auto alone = calibration::collect_importance(engine_, text, options(), progress_, cancel_).value();
  calibration::MomentsOptions moments_options;
  static_cast<PassOptions&>(moments_options) = options();
  ASSERT_TRUE(
      calibration::collect_moments(engine_, text, folder_ / "alone", moments_options, progress_, cancel_));

  ImportanceCollector importance;
  MomentsRecorder moments = recorder(text, "both");
  const std::array<PassObserver*, 2> both = {&importance, &moments};
  EXPECT_EQ(calibration::run_pass(engine_, text, options(), both, progress_, cancel_).value(), 0U);
  ASSERT_TRUE(moments.commit());
  const ImportanceData data = importance.take(text);
  EXPECT_EQ(data.tensors, alone.data.tensors);
  EXPECT_EQ(data.datasets, alone.data.datasets);
  EXPECT_TRUE(read_file(folder_ / "both") == read_file(folder_ / "alone"));
}

TEST_F(Pass, ContinuesForAllOfItsObserversOrForNone) {
  const Text text = trained_text(4);
  ImportanceCollector whole;
  MomentsRecorder all = recorder(text, "whole");
  const std::array<PassObserver*, 2> at_once = {&whole, &all};
  ASSERT_TRUE(calibration::run_pass(engine_, text, options(), at_once, progress_, cancel_));
  ASSERT_TRUE(all.commit());
  const ImportanceData expected = whole.take(text);

  PassOptions kept = options();
  kept.checkpoint = folder_ / "pass";
  const auto run = [&](ProgressSink& progress, const CancellationToken& cancel, ImportanceData& found) {
    ImportanceCollector importance;
    MomentsRecorder moments = recorder(text, "pieces", "parts");
    const std::array<PassObserver*, 2> both = {&importance, &moments};
    const auto done = calibration::run_pass(engine_, text, kept, both, progress, cancel);
    if (!done) return -1;
    EXPECT_TRUE(moments.commit());
    moments.remove_parts();
    found = importance.take(text);
    return static_cast<int>(done.value());
  };
  const auto stop_after = [&](int steps) {
    CancellationToken cancel;
    StopAfter stop(cancel, steps);
    ImportanceData none;
    EXPECT_EQ(run(stop, cancel, none), -1);
  };
  ImportanceData found;
  stop_after(14);
  stop_after(6);
  EXPECT_GE(run(progress_, cancel_, found), 2);
  EXPECT_EQ(found.tensors, expected.tensors);
  EXPECT_TRUE(read_file(folder_ / "pieces") == read_file(folder_ / "whole"));

  std::filesystem::remove(kept.checkpoint);
  stop_after(14);
  std::filesystem::remove(folder_ / "parts.0");
  EXPECT_EQ(run(progress_, cancel_, found), 0) << "sums of a layer without its moments are half of the work";
  EXPECT_EQ(found.tensors, expected.tensors);
  EXPECT_TRUE(read_file(folder_ / "pieces") == read_file(folder_ / "whole"));
}

}  // namespace
}  // namespace quantfit::test
