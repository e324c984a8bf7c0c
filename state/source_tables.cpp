// The files that the model was read from, and the digest of every weight.
#include <bit>

#include "core/text.h"
#include "state/checks.h"
#include "state/tables.h"

namespace quantfit::state {
namespace {

constexpr Sql kUpdateDigest = "UPDATE model SET digest = ? WHERE model_id = 1";
constexpr Sql kUpsertSource =
    "INSERT INTO source (stamp, proved) VALUES (?, ?) "
    "ON CONFLICT (stamp) DO UPDATE SET proved = max(proved, excluded.proved)";
constexpr Sql kSelectSourceId = "SELECT source_id FROM source WHERE stamp = ?";
constexpr Sql kUpsertFile =
    "INSERT INTO source_file (source_id, position, name, bytes, modified, inode) VALUES (?, ?, ?, ?, ?, ?) "
    "ON CONFLICT (source_id, position) DO UPDATE SET name = excluded.name";
constexpr Sql kSelectSources = "SELECT source_id, proved FROM source ORDER BY stamp";
constexpr Sql kSelectFiles =
    "SELECT name, bytes, modified, inode FROM source_file WHERE source_id = ? ORDER BY position";

}  // namespace

Result<void> write_model_digest(Database& database, const std::string& digest) {
  QF_ASSIGN(const auto model, select_model(database));
  if (!model) return fail(ErrorCode::Malformed, "{}: holds no model yet", database.path());
  if (model->digest == digest) return outcome::success();
  if (!model->digest.empty())
    return fail(ErrorCode::IdentityMismatch,
                "{}: holds measurements of {} with the digest {} of every weight, not {}", database.path(),
                printable(model->name), escaped(model->digest), escaped(digest));
  QF_ASSIGN(auto update, Statement::prepare(database, kUpdateDigest));
  return update.run(digest);
}

Result<void> write_source(Database& database, const Source& source) {
  const std::string stamp = stamp_key(source.files);
  QF_ASSIGN(auto upsert, Statement::prepare(database, kUpsertSource));
  QF_TRY(upsert.run(stamp, source.proved));
  QF_ASSIGN(auto select, Statement::prepare(database, kSelectSourceId));
  QF_TRY(select.bind(stamp));
  QF_ASSIGN(const bool row, select.step());
  if (!row) return fail(ErrorCode::Internal, "{}: a row just written is missing", database.path());
  const std::int64_t id = select.integer(0);
  QF_TRY(select.finish());
  QF_ASSIGN(auto insert, Statement::prepare(database, kUpsertFile));
  std::uint64_t position = 0;
  for (const FileStamp& file : source.files)
    QF_TRY(insert.run(id, position++, storable_name(file.name), file.bytes, file.modified,
                      std::bit_cast<std::int64_t>(file.inode)));
  return outcome::success();
}

Result<std::vector<Source>> select_sources(const Database& database) {
  std::vector<Source> sources;
  QF_ASSIGN(auto select, Statement::prepare(database, kSelectSources));
  QF_ASSIGN(auto files, Statement::prepare(database, kSelectFiles));
  while (true) {
    QF_ASSIGN(const bool row, select.step());
    if (!row) return sources;
    Source& source = sources.emplace_back();
    source.proved = select.integer(1) != 0;
    QF_TRY(files.bind(select.integer(0)));
    while (true) {
      QF_ASSIGN(const bool found, files.step());
      if (!found) break;
      FileStamp& file = source.files.emplace_back();
      file.name = files.text(0);
      QF_TRY(sound(database, check_text(file.name, "the name of a model's file")));
      file.bytes = files.unsigned_integer(1);
      file.modified = files.integer(2);
      file.inode = std::bit_cast<std::uint64_t>(files.integer(3));
    }
  }
}

}  // namespace quantfit::state
