#include "core/file_util.h"

#include <gtest/gtest.h>

#include "core/atomic_file.h"
#include "tests/core/gguf_bytes.h"
#include "tests/support/test_paths.h"

namespace quantfit {
namespace {

std::vector<std::byte> bytes_of(std::string_view text) {
  const auto bytes = std::as_bytes(std::span(text));
  return {bytes.begin(), bytes.end()};
}

TEST(FileUtil, SameFileThroughLinks) {
  const test::TemporaryFolder folder;
  test::write_file(folder / "a", bytes_of("1"));
  test::write_file(folder / "b", bytes_of("1"));
  std::filesystem::create_symlink(folder / "a", folder / "link");
  std::filesystem::create_hard_link(folder / "a", folder / "hard");
  EXPECT_TRUE(same_file(folder / "a", folder.path() / "." / "a"));
  EXPECT_TRUE(same_file(folder / "a", folder / "link"));
  EXPECT_TRUE(same_file(folder / "a", folder / "hard"));
  EXPECT_FALSE(same_file(folder / "a", folder / "b"));
  EXPECT_FALSE(same_file(folder / "a", folder / "absent"));
  EXPECT_FALSE(same_file(folder / "absent", folder / "absent"));
}

TEST(FileUtil, ReadsTextUpToALimit) {
  const test::TemporaryFolder folder;
  const std::string text(50000, 'q');
  ASSERT_VALUE(write_file_atomically(folder / "t", text));
  EXPECT_EQ(read_text_file(folder / "t", 50000).value(), text);
  EXPECT_EQ(read_text_file(folder / "t", 49999).error().code, ErrorCode::Unsupported);
  EXPECT_EQ(read_text_file(folder / "absent", 10).error().code, ErrorCode::Io);
  EXPECT_EQ(read_text_file(folder.path(), 10).error().code, ErrorCode::Io);
}

}  // namespace
}  // namespace quantfit
