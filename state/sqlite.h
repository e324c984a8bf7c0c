// A thin, strict layer over SQLite: a connection, a statement, a transaction. Knows nothing of what is
// stored. Only state and the queue of the service (cli/service/job_store) include this header; sqlite3.h
// itself stays in sqlite.cpp.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "core/error.h"
#include "core/progress.h"

struct sqlite3;
struct sqlite3_stmt;

namespace quantfit::state {

// SQL known when the program is compiled. There is no way to make one from a string that was put together at
// run time, so no value can ever become part of a statement.
class Sql {
 public:
  template <std::size_t N>
  consteval Sql(const char (&text)[N]) : text_(text) {}  // NOLINT(google-explicit-constructor)
  [[nodiscard]] constexpr const char* text() const { return text_; }

 private:
  const char* text_;
};

enum class Access {
  ReadWrite,  // the file is created, empty, when it does not exist
  ReadOnly,   // every statement that would write is refused; the file must exist
};

// How long a statement waits for another process before it gives up.
inline constexpr int kBusyTimeoutMilliseconds = 30'000;

// One connection. Not thread-safe, and not to be carried into a forked child. Errors of SQLite become an
// Error whose message starts with the file's path:
//   NoSpace    the disk, the quota or the file size limit is exhausted; the statement had no effect
//   Io         the system refused, with its reason; or another process kept the file locked for too long
//   Malformed  not an SQLite file, damaged, or without a table or column that the statement names
//   Internal   a constraint of the schema refused a value that this program should have refused before
class Database {
 public:
  // Io when `path` is a folder, not a regular file, or may not be opened. The content is not looked at yet,
  // and opening changes nothing: the journal mode is set by use_write_ahead_log(), once the file is known to
  // be ours. Schema objects of the file are not trusted: its triggers do not run and its views call no unsafe
  // function.
  //
  // Once `cancel`, which must outlive the connection, is set, a statement that runs on and on ends with
  // Interrupted, and so does waiting for another process; short statements still do their work.
  [[nodiscard]] static Result<Database> open(const std::filesystem::path& path, Access access,
                                             const CancellationToken* cancel = nullptr);
  [[nodiscard]] static Result<Database> open_in_memory();
  // The whole file as it is now, in memory: what is done to it there does not reach the file. Messages name
  // the file.
  [[nodiscard]] Result<Database> copy_in_memory() const;
  Database(Database&&) noexcept;
  Database& operator=(Database&&) noexcept;
  // Closes; the last connection of all processes moves the write-ahead log into the file and deletes it.
  ~Database();

  // Runs one or more statements that take no values; rows they return are dropped.
  [[nodiscard]] Result<void> execute(Sql sql);
  // Gives the space of what was deleted back to the system. Outside of transactions only.
  [[nodiscard]] Result<void> shrink() { return execute("VACUUM"); }
  // Switches the file to write-ahead logging, for good. Waits for other processes that are doing the same.
  [[nodiscard]] Result<void> use_write_ahead_log();
  [[nodiscard]] std::int64_t last_insert_rowid() const;
  [[nodiscard]] const std::string& path() const;

 private:
  friend class Statement;
  friend class Transaction;
  struct Connection;
  explicit Database(std::unique_ptr<Connection> connection);
  std::unique_ptr<Connection> connection_;
};

// A prepared statement with its values and its current row. Must not outlive its Database. Columns and values
// are numbered as written in the SQL: columns from 0, values from 1.
class Statement {
 public:
  [[nodiscard]] static Result<Statement> prepare(const Database& database, Sql sql);
  Statement(Statement&& other) noexcept;
  Statement& operator=(Statement&&) = delete;
  ~Statement();

  // Binds all values, in order, after resetting the statement. Accepts integers, finite doubles, text, and
  // std::optional of those for NULL. InvalidArgument for NaN, infinity, and integers above 2^63 - 1.
  template <class... Values>
  [[nodiscard]] Result<void> bind(const Values&... values) {
    QF_TRY(start_binding(static_cast<int>(sizeof...(Values))));
    int index = 0;
    Result<void> bound = outcome::success();
    static_cast<void>(((bound = bind_value(++index, values), bound.has_value()) && ...));
    return bound;
  }
  // True when there is a row. Malformed when the row before held a value of an unexpected type or range.
  [[nodiscard]] Result<bool> step();
  // Ends the use of the current row; reports as step() does.
  [[nodiscard]] Result<void> finish();
  // bind(), then steps to the end: for statements without rows.
  template <class... Values>
  [[nodiscard]] Result<void> run(const Values&... values) {
    QF_TRY(bind(values...));
    return run_bound();
  }

  // The columns of the current row. A value of another type or outside the range of the result gives zero or
  // empty here and fails the next step() or finish().
  [[nodiscard]] bool is_null(int column) const;
  [[nodiscard]] std::int64_t integer(int column);
  [[nodiscard]] std::uint64_t unsigned_integer(int column);
  [[nodiscard]] std::uint32_t unsigned_integer32(int column);
  [[nodiscard]] double real(int column);  // finite
  [[nodiscard]] std::string text(int column);

 private:
  Statement(Database::Connection* connection, sqlite3_stmt* statement);
  Result<void> start_binding(int count);
  Result<void> bind_value(int index, std::int64_t value);
  Result<void> bind_value(int index, std::uint64_t value);
  Result<void> bind_value(int index, std::uint32_t value) {
    return bind_value(index, static_cast<std::int64_t>(value));
  }
  Result<void> bind_value(int index, bool value) {
    return bind_value(index, static_cast<std::int64_t>(value));
  }
  Result<void> bind_value(int index, double value);
  Result<void> bind_value(int index, std::string_view value);
  Result<void> bind_value(int index, const std::string& value) {
    return bind_value(index, std::string_view(value));
  }
  Result<void> bind_value(int index, const char* value) { return bind_value(index, std::string_view(value)); }
  template <class Value>
  Result<void> bind_value(int index, const std::optional<Value>& value) {
    return value ? bind_value(index, *value) : bind_null(index);
  }
  Result<void> bind_null(int index);
  Result<void> run_bound();
  bool expect_type(int column, int type);
  void report_damage(int column);

  Database::Connection* connection_;
  sqlite3_stmt* statement_;
  std::string damage_;  // first unexpected value met
};

// An empty text is stored as NULL.
[[nodiscard]] inline std::optional<std::string> text_or_null(const std::string& text) {
  return text.empty() ? std::nullopt : std::optional<std::string>(text);
}

// Begins when made, rolls back unless committed. Declare it before the statements that run inside it, so that
// they are gone when it ends. Transactions do not nest.
class Transaction {
 public:
  // Takes the write lock at once, so that nothing read inside can be outdated when it is written.
  [[nodiscard]] static Result<Transaction> begin_write(Database& database);
  // All reads inside see one state of the file.
  [[nodiscard]] static Result<Transaction> begin_read(Database& database);
  Transaction(Transaction&& other) noexcept;
  Transaction& operator=(Transaction&&) = delete;
  ~Transaction();

  // After success the changes survive kill -9 and loss of power. After failure nothing was changed.
  [[nodiscard]] Result<void> commit();

 private:
  explicit Transaction(Database::Connection* connection) : connection_(connection) {}
  void roll_back() noexcept;
  Database::Connection* connection_;  // null once committed, rolled back or moved from
};

}  // namespace quantfit::state
