#include "core/calibration_text/default_calibration_text.h"

#include <gtest/gtest.h>

#include <fstream>
#include <iterator>
#include <string>

#include "core/text.h"
#include "tests/support/test_paths.h"

namespace quantfit::test {
namespace {

TEST(DefaultCalibrationText, IsTheWholeFile) {
  std::ifstream in(data_dir() / "../../core/calibration_text/default.txt", std::ios::binary);
  const std::string file{std::istreambuf_iterator<char>(in), {}};
  EXPECT_EQ(default_calibration_text(), file);
}

TEST(DefaultCalibrationText, IsALargeMixedText) {
  const std::string_view text = default_calibration_text();
  EXPECT_GE(text.size(), 300000U);
  EXPECT_LE(text.size(), 600000U);
  EXPECT_TRUE(is_utf8(text));
  // Any quarter has prose, code and other scripts.
  for (std::size_t quarter = 0; quarter < 4; ++quarter) {
    const std::string_view part = text.substr(quarter * text.size() / 4, text.size() / 4);
    std::size_t other_scripts = 0;
    for (const char c : part)
      if (static_cast<unsigned char>(c) >= 0xD0) ++other_scripts;
    EXPECT_GT(other_scripts, 100U) << quarter;
    EXPECT_NE(part.find(" the "), std::string_view::npos);
    EXPECT_NE(part.find("return"), std::string_view::npos);
  }
}

// What the project measures with must not be what it calibrates with.
TEST(DefaultCalibrationText, HoldsNothingOfTheHeldOutText) {
  std::ifstream in(data_dir() / "eval-books.txt");
  ASSERT_TRUE(in);
  std::size_t lines = 0;
  for (std::string line; std::getline(in, line);) {
    if (line.size() < 50) continue;
    ++lines;
    ASSERT_EQ(default_calibration_text().find(line), std::string_view::npos) << line;
  }
  EXPECT_GT(lines, 100U);
}

}  // namespace
}  // namespace quantfit::test
