#include "core/file_stamp.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/test_paths.h"

namespace quantfit {
namespace {

using test::TemporaryFolder;
namespace fs = std::filesystem;

std::vector<FileStamp> stamps_of(const fs::path& path) {
  const auto model = Model::open(path);
  EXPECT_TRUE(model);
  const auto stamps = file_stamps(model.value());
  EXPECT_TRUE(stamps) << stamps.error().message;
  return stamps.value();
}

TEST(FileStamp, NamesEveryFileOfAModel) {
  const auto stamps = stamps_of(test::data_dir() / "gguf" / "tiny-00001-of-00003.gguf");
  ASSERT_EQ(stamps.size(), 3U);
  EXPECT_EQ(stamps[1].name, "tiny-00002-of-00003.gguf");
  EXPECT_EQ(stamps[1].bytes, fs::file_size(test::data_dir() / "gguf" / stamps[1].name));
  EXPECT_NE(stamps[0].inode, stamps[1].inode);
  EXPECT_EQ(stamp_key({}), "");
}

TEST(FileStamp, StaysWhenRenamedAndChangesWhenCopiedOrTouched) {
  const TemporaryFolder folder;
  fs::copy_file(test::data_dir() / "gguf" / "tiny.gguf", folder / "a.gguf");
  const std::string key = stamp_key(stamps_of(folder / "a.gguf"));
  fs::rename(folder / "a.gguf", folder / "b.gguf");
  EXPECT_EQ(stamp_key(stamps_of(folder / "b.gguf")), key);
  fs::copy_file(folder / "b.gguf", folder / "copy.gguf");
  fs::last_write_time(folder / "copy.gguf", fs::last_write_time(folder / "b.gguf"));
  EXPECT_NE(stamp_key(stamps_of(folder / "copy.gguf")), key);
  fs::last_write_time(folder / "b.gguf",
                      fs::last_write_time(folder / "b.gguf") + std::chrono::nanoseconds(1));
  EXPECT_NE(stamp_key(stamps_of(folder / "b.gguf")), key);
}

// The file that is read is meant, whatever has its name now: stamps of another beside the digest of this one
// would vouch for weights that nobody read.
TEST(FileStamp, AreOfTheFileThatIsReadNotOfItsName) {
  const TemporaryFolder folder;
  fs::copy_file(test::data_dir() / "gguf" / "tiny.gguf", folder / "a.gguf");
  const auto model = Model::open(folder / "a.gguf");
  ASSERT_TRUE(model);
  const auto before = file_stamps(model.value());
  ASSERT_TRUE(before);

  fs::copy_file(folder / "a.gguf", folder / "b.gguf");  // of equal size
  fs::last_write_time(folder / "b.gguf", fs::last_write_time(folder / "a.gguf") + std::chrono::seconds(1));
  fs::rename(folder / "b.gguf", folder / "a.gguf");
  const auto after = file_stamps(model.value());
  ASSERT_TRUE(after) << after.error().message;
  EXPECT_EQ(after.value(), before.value());
  EXPECT_NE(stamps_of(folder / "a.gguf"), before.value());

  fs::remove(folder / "a.gguf");
  const auto nameless = file_stamps(model.value());
  ASSERT_TRUE(nameless) << nameless.error().message;
  EXPECT_EQ(nameless.value(), before.value());
}

TEST(FileStamp, AFileThatWasWrittenToMeanwhileIsAnError) {
  const TemporaryFolder folder;
  fs::copy_file(test::data_dir() / "gguf" / "tiny.gguf", folder / "a.gguf");
  const auto model = Model::open(folder / "a.gguf");
  ASSERT_TRUE(model);
  fs::last_write_time(folder / "a.gguf", fs::last_write_time(folder / "a.gguf") + std::chrono::seconds(1));
  EXPECT_EQ(file_stamps(model.value()).error().code, ErrorCode::Io);
}

}  // namespace
}  // namespace quantfit
