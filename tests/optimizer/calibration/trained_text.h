// The trained example model and pieces of its evaluation text, for tests that run it.
#pragma once

#include <gtest/gtest.h>

#include "core/progress.h"
#include "optimizer/calibration/text.h"
#include "tests/support/test_paths.h"

namespace quantfit::test {

[[nodiscard]] inline const Model& trained_model() {
  static const Model model = Model::open(data_dir() / "tale-dense-F16.gguf").value();
  return model;
}

// `windows` windows of `context` tokens of the text in tests/data, after `skip` others.
[[nodiscard]] inline calibration::Text trained_text(std::uint32_t windows, std::uint32_t context = 64,
                                                    std::uint32_t skip = 0) {
  calibration::TextRequest request;
  request.texts = {data_dir() / "eval-books.txt"};
  request.context = context;
  request.skip = skip;
  request.most = windows;
  return calibration::read_text(trained_model(), request).value();
}

}  // namespace quantfit::test
