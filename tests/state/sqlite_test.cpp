#include "state/sqlite.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>

#include "tests/support/test_paths.h"

namespace quantfit::state {
namespace {

using test::TemporaryFolder;
using testing::HasSubstr;

std::int64_t count_rows(const Database& database) {
  auto statement = Statement::prepare(database, "SELECT count(*) FROM t");
  EXPECT_TRUE(statement) << statement.error().message;
  EXPECT_TRUE(statement.value().step());
  return statement.value().integer(0);
}

TEST(Transaction, RollsBackUnlessCommitted) {
  auto database = Database::open_in_memory().value();
  ASSERT_TRUE(database.execute("CREATE TABLE t (a INTEGER NOT NULL) STRICT"));
  {
    auto transaction = Transaction::begin_write(database);
    ASSERT_TRUE(transaction);
    ASSERT_TRUE(database.execute("INSERT INTO t VALUES (1)"));
    EXPECT_EQ(count_rows(database), 1);
  }
  EXPECT_EQ(count_rows(database), 0);
  {
    auto transaction = Transaction::begin_write(database);
    auto moved = std::move(transaction).value();
    ASSERT_TRUE(database.execute("INSERT INTO t VALUES (1)"));
    ASSERT_TRUE(moved.commit());
    EXPECT_EQ(moved.commit().error().code, ErrorCode::Internal);
  }
  EXPECT_EQ(count_rows(database), 1);
}

TEST(Transaction, AFailedCommitLeavesTheConnectionUsable) {
  auto database = Database::open_in_memory().value();
  ASSERT_TRUE(
      database.execute("CREATE TABLE t (a INTEGER PRIMARY KEY, b INTEGER REFERENCES t (a) "
                       "DEFERRABLE INITIALLY DEFERRED) STRICT"));
  auto transaction = Transaction::begin_write(database);
  ASSERT_TRUE(database.execute("INSERT INTO t VALUES (1, 7)"));
  EXPECT_FALSE(transaction.value().commit());
  ASSERT_TRUE(Transaction::begin_write(database));
  EXPECT_EQ(count_rows(database), 0);
}

TEST(Statement, BindsAndReadsEveryType) {
  auto database = Database::open_in_memory().value();
  ASSERT_TRUE(database.execute("CREATE TABLE t (a INTEGER, b REAL, c TEXT, d INTEGER) STRICT"));
  auto insert = Statement::prepare(database, "INSERT INTO t VALUES (?, ?, ?, ?)").value();
  const auto largest = std::numeric_limits<std::int64_t>::max();
  ASSERT_TRUE(insert.run(largest, 0.1, "text", std::optional<std::uint32_t>()));
  ASSERT_TRUE(insert.run(static_cast<std::uint64_t>(largest), 2.0, std::string_view(), true));
  auto select = Statement::prepare(database, "SELECT a, b, c, d FROM t ORDER BY rowid").value();
  ASSERT_TRUE(select.bind());
  ASSERT_TRUE(select.step().value());
  EXPECT_EQ(select.integer(0), largest);
  EXPECT_EQ(select.real(1), 0.1);
  EXPECT_EQ(select.text(2), "text");
  EXPECT_TRUE(select.is_null(3));
  ASSERT_TRUE(select.step().value());
  EXPECT_EQ(select.real(1), 2.0);
  EXPECT_FALSE(select.is_null(2));
  EXPECT_EQ(select.unsigned_integer32(3), 1U);
  EXPECT_FALSE(select.step().value());

  EXPECT_EQ(insert.bind(std::uint64_t{1} << 63, 0.0, "", 1U).error().code, ErrorCode::InvalidArgument);
  EXPECT_EQ(insert.bind(0U, std::numeric_limits<double>::quiet_NaN(), "", 1U).error().code,
            ErrorCode::InvalidArgument);
  EXPECT_EQ(insert.bind(0U, 0.0, "").error().code, ErrorCode::Internal);
}

TEST(Statement, ReportsValuesOfTheWrongTypeOrRange) {
  auto database = Database::open_in_memory().value();
  auto select =
      Statement::prepare(database, "SELECT 'x' AS a, -1 AS b, 9e999 AS c, NULL AS d, 4294967296 AS e");
  const auto damage = [&](auto read) {
    EXPECT_TRUE(select.value().bind());
    EXPECT_TRUE(select.value().step().value());
    read(select.value());
    const auto next = select.value().step();
    const auto finished = select.value().finish();
    EXPECT_FALSE(finished);
    return next ? Error{} : next.error();
  };
  const std::vector<Error> errors = {
      damage([](Statement& row) { EXPECT_EQ(row.integer(0), 0); }),
      damage([](Statement& row) { EXPECT_EQ(row.unsigned_integer(1), 0U); }),
      damage([](Statement& row) { EXPECT_EQ(row.real(2), 0); }),
      damage([](Statement& row) { EXPECT_EQ(row.text(3), ""); }),
      damage([](Statement& row) { EXPECT_EQ(row.unsigned_integer32(4), 0U); }),
  };
  for (std::size_t i = 0; i < errors.size(); ++i) {
    EXPECT_EQ(errors[i].code, ErrorCode::Malformed);
    EXPECT_THAT(errors[i].message, HasSubstr(fmt::format("column '{}'", "abcde"[i])));
  }
}

TEST(Statement, AMissingTableIsAMalformedFile) {
  auto database = Database::open_in_memory().value();
  EXPECT_EQ(Statement::prepare(database, "SELECT a FROM nothing").error().code, ErrorCode::Malformed);
}

TEST(Database, ReadOnlyRefusesToWrite) {
  const TemporaryFolder folder;
  {
    auto database = Database::open(folder / "a", Access::ReadWrite).value();
    ASSERT_TRUE(database.execute("CREATE TABLE t (a INTEGER) STRICT"));
  }
  auto database = Database::open(folder / "a", Access::ReadOnly).value();
  EXPECT_EQ(database.execute("INSERT INTO t VALUES (1)").error().code, ErrorCode::Io);
  EXPECT_EQ(count_rows(database), 0);
}

TEST(Database, AnEndlessStatementEndsWhenCancelled) {
  const TemporaryFolder folder;
  CancellationToken cancel;
  auto database = Database::open(folder / "a", Access::ReadWrite, &cancel).value();
  ASSERT_TRUE(database.execute("CREATE TABLE t (a INTEGER) STRICT"));
  cancel.cancel();
  const auto endless = database.execute(
      "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n");
  ASSERT_FALSE(endless);
  EXPECT_EQ(endless.error().code, ErrorCode::Interrupted);
  // What is short is still done: the tensor that was just finished is saved.
  EXPECT_TRUE(database.execute("INSERT INTO t VALUES (1)"));
  EXPECT_EQ(count_rows(database), 1);
}

TEST(Database, WaitingForAnotherWriterEndsWhenCancelled) {
  const TemporaryFolder folder;
  CancellationToken cancel;
  auto first = Database::open(folder / "a", Access::ReadWrite).value();
  ASSERT_TRUE(first.execute("CREATE TABLE t (a INTEGER) STRICT"));
  auto second = Database::open(folder / "a", Access::ReadWrite, &cancel).value();
  const auto writing = Transaction::begin_write(first);
  cancel.cancel();
  EXPECT_EQ(Transaction::begin_write(second).error().code, ErrorCode::Interrupted);
}

TEST(Database, ACopyInMemoryIsApart) {
  const TemporaryFolder folder;
  auto database = Database::open(folder / "a", Access::ReadWrite).value();
  ASSERT_TRUE(database.use_write_ahead_log());
  ASSERT_TRUE(database.execute("CREATE TABLE t (a INTEGER) STRICT; INSERT INTO t VALUES (1)"));
  auto copy = database.copy_in_memory();
  ASSERT_TRUE(copy) << copy.error().message;
  ASSERT_TRUE(copy.value().execute("INSERT INTO t VALUES (2)"));
  EXPECT_EQ(count_rows(copy.value()), 2);
  EXPECT_EQ(count_rows(database), 1);
}

TEST(Database, TriggersOfTheFileDoNotRun) {
  const TemporaryFolder folder;
  auto database = Database::open(folder / "a", Access::ReadWrite).value();
  ASSERT_TRUE(
      database.execute("CREATE TABLE t (a INTEGER) STRICT;"
                       "CREATE TRIGGER more AFTER INSERT ON t BEGIN INSERT INTO t VALUES (2); END;"
                       "INSERT INTO t VALUES (1)"));
  EXPECT_EQ(count_rows(database), 1);
}

TEST(Database, NamesWithSpecialMeaningsAreFiles) {
  const TemporaryFolder folder;
  const auto before = std::filesystem::current_path();
  std::filesystem::current_path(folder.path());
  for (const char* name : {":memory:", "file:a?mode=memory", "100% ?#&.state"}) {
    auto database = Database::open(name, Access::ReadWrite);
    EXPECT_TRUE(database && database.value().execute("CREATE TABLE t (a INTEGER) STRICT")) << name;
    EXPECT_TRUE(std::filesystem::is_regular_file(folder / name)) << name;
  }
  std::filesystem::current_path(before);
}

}  // namespace
}  // namespace quantfit::state
