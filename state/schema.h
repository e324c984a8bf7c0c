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
};

// Every step, in order; the last one's version is the current one.
[[nodiscard]] std::span<const Migration> migrations();

// What a file is, found by reading only.
enum class FileKind { Empty, Current, Older, NewerCompatible };

// Malformed when the file is not SQLite, damaged, or the database of another application;
// Unsupported when a newer program wrote it and declared it unreadable for versions as old as this
// one. The message says what to do.
[[nodiscard]] Result<FileKind> inspect(Database& database, std::span<const Migration> steps = migrations());

// Brings an Empty or Older file to the last step's version, each step in a transaction of its own. Safe when
// another process does the same at the same time. After an error or kill -9 the file has one of the versions.
[[nodiscard]] Result<void> migrate(Database& database, std::span<const Migration> steps = migrations());

// Malformed when a table, view or index of the current version is missing or differs, or when SQLite's own
// check of the file's structure finds damage. Additional tables and views are the user's business.
[[nodiscard]] Result<void> verify(Database& database, std::span<const Migration> steps = migrations());

}  // namespace quantfit::state
