// The tables of a state file and the steps from older versions to the current one. Described in
// state/schema.md.
#pragma once

#include <cstdint>
#include <span>

#include "core/error.h"
#include "state/sqlite.h"

namespace quantfit::state {

// PRAGMA application_id of every state file: "QFst" in ASCII.
inline constexpr std::int64_t kApplicationId = 0x51467374;

// One step. `sql` sets user_version and the versions in table meta itself, so that a version and its tables
// can never be apart. Released steps are never edited: files in the world were made by them.
struct Migration {
  std::int64_t to_version;  // from to_version - 1; 0 is an empty file
  Sql sql;
  // What SQL alone cannot do, afterwards and in the same transaction.
  Result<void> (*finish)(Database& database) = nullptr;
};

// Every step, in order; the last one's version is the current one.
[[nodiscard]] std::span<const Migration> migrations();

// What a file is, found by reading only.
enum class FileKind { Empty, Current, Older, NewerCompatible };

// Malformed when the file is not SQLite, damaged, or the database of another application; Unsupported when a
// newer program wrote it and declared it unreadable for versions as old as this one. The message says what to
// do. Reads nothing whose cost the file decides.
[[nodiscard]] Result<FileKind> inspect(Database& database, std::span<const Migration> steps = migrations());

// Brings an Empty or Older file to the last step's version, each step in a transaction of its own. Safe when
// another process does the same at the same time. After an error or kill -9 the file has one of the versions.
[[nodiscard]] Result<void> migrate(Database& database, std::span<const Migration> steps = migrations());

// Runs one of SQLite's own checks, whose first row is "ok" or what is wrong: Malformed, or Io when a part of
// the file could not be read.
[[nodiscard]] Result<void> check_structure(const Database& database, Statement check);

// Malformed when the file is not what its version says, as far as this program uses it: a table, view or
// index of ours is missing or defined otherwise, someone added an index or a trigger to one of our tables, or
// SQLite's own check of the structure finds damage. Additional tables and views are the user's business and
// never looked into. A newer version that declares itself compatible may have more columns, tables and
// indexes, but what we know must be tables of the same columns, and nothing in them may be computed.
// `kind` as inspect() told; not Empty.
[[nodiscard]] Result<void> verify(Database& database, FileKind kind,
                                  std::span<const Migration> steps = migrations());

}  // namespace quantfit::state
