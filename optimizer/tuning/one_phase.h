// One phase of progress for many passes.
#pragma once

#include <string>
#include <string_view>
#include <utility>

#include "core/progress.h"

namespace quantfit::tuning {

class OnePhase final : public ProgressSink {
 public:
  explicit OnePhase(ProgressSink& sink) : sink_(&sink) {}
  void begin(std::string_view, std::uint64_t) override {}
  void advance(std::uint64_t done, std::string_view) override { sink_->advance(done, what_); }
  void end() override {}
  // What is shown from now on.
  void tell(std::string what) { what_ = std::move(what); }

 private:
  ProgressSink* sink_;
  std::string what_;
};

}  // namespace quantfit::tuning
