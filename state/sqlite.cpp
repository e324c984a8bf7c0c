#include "state/sqlite.h"

#include <sqlite3.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cmath>
#include <cstring>
#include <limits>
#include <system_error>
#include <thread>
#include <utility>

namespace quantfit::state {

struct Database::Connection {
  sqlite3* handle = nullptr;
  std::string path;
  const CancellationToken* cancel = nullptr;
  std::chrono::steady_clock::time_point waiting_since;  // for a lock of another process

  Connection() = default;
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;
  ~Connection() {
    // Fails only when a statement outlives its database, which the classes here rule out.
    if (handle != nullptr) sqlite3_close(handle);
  }

  [[nodiscard]] bool cancelled() const { return cancel != nullptr && cancel->cancelled(); }
  [[nodiscard]] int open(const std::string& name, int flags);
  // SQLite's progress handler: not zero ends the statement.
  static int stop_running(void* connection);
  // SQLite's busy handler, waiting such that it can be cancelled: zero gives up.
  static int wait_for_lock(void* pointer, int times_before);
  [[nodiscard]] Error error(int code, std::string_view detail) const;
  [[nodiscard]] Error last_error() const {
    return error(sqlite3_extended_errcode(handle), sqlite3_errmsg(handle));
  }
};

namespace {

std::string reason_of(int system_error) {
  return std::generic_category().message(system_error);
}

bool is_out_of_space(int system_error) {
  return system_error == ENOSPC || system_error == EDQUOT || system_error == EFBIG;
}

// For SQLite's URI file names: everything but unreserved characters and '/' is escaped.
std::string uri_of(const std::string& absolute_path, std::string_view query) {
  constexpr std::string_view kHex = "0123456789ABCDEF";
  constexpr std::string_view kUnreserved =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~/";
  std::string uri = "file:";
  for (const char character : absolute_path) {
    if (kUnreserved.find(character) != std::string_view::npos) {
      uri += character;
    } else {
      const auto byte = static_cast<unsigned char>(character);
      uri += '%';
      uri += kHex[byte >> 4];
      uri += kHex[byte & 15];
    }
  }
  return uri.append(query);
}

// Settings of the connection; none of them is written into the file.
// synchronous FULL: every commit is on the disk when it returns, so it survives loss of power. (kill -9 alone
// would be survived by any setting: what was written is in the system's cache and reaches the disk without
// us.) mmap_size 0: a file that another program truncates gives an error, not SIGBUS. temp_store: no second
// disk to fill.
constexpr Sql kSettings =
    "PRAGMA synchronous = FULL;"
    "PRAGMA foreign_keys = ON;"
    "PRAGMA cell_size_check = ON;"
    "PRAGMA mmap_size = 0;"
    "PRAGMA temp_store = MEMORY;";
constexpr Sql kQueryOnly = "PRAGMA query_only = ON";
constexpr Sql kFirstRead = "SELECT count(*) FROM sqlite_schema";

// Longest text, row or statement that SQLite accepts: above anything that checks.h lets through, far below
// what a hostile file could ask to be allocated.
constexpr int kLongestValueBytes = 1 << 20;

// Steps of SQLite's virtual machine between two looks at the cancellation token: some milliseconds. What
// takes fewer, as every statement that saves or looks up something does, is never cut off.
constexpr int kStepsBetweenLooks = 200'000;
constexpr auto kPauseWhileLocked = std::chrono::milliseconds(5);

// Every SQLite file starts with a header of 100 bytes.
constexpr off_t kHeaderBytes = 100;

}  // namespace

int Database::Connection::stop_running(void* connection) {
  return static_cast<const Connection*>(connection)->cancelled() ? 1 : 0;
}

int Database::Connection::wait_for_lock(void* pointer, int times_before) {
  auto* const connection = static_cast<Connection*>(pointer);
  const auto now = std::chrono::steady_clock::now();
  if (times_before == 0) connection->waiting_since = now;
  if (connection->cancelled() ||
      now - connection->waiting_since > std::chrono::milliseconds(kBusyTimeoutMilliseconds))
    return 0;
  std::this_thread::sleep_for(kPauseWhileLocked);
  return 1;
}

int Database::Connection::open(const std::string& name, int flags) {
  const int code = sqlite3_open_v2(name.c_str(), &handle, flags | SQLITE_OPEN_EXRESCODE, nullptr);
  if (code != SQLITE_OK) return code;
  sqlite3_busy_handler(handle, wait_for_lock, this);
  if (cancel != nullptr) sqlite3_progress_handler(handle, kStepsBetweenLooks, stop_running, this);
  sqlite3_limit(handle, SQLITE_LIMIT_LENGTH, kLongestValueBytes);
  sqlite3_db_config(handle, SQLITE_DBCONFIG_DEFENSIVE, 1, nullptr);
  sqlite3_db_config(handle, SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0, nullptr);
  sqlite3_db_config(handle, SQLITE_DBCONFIG_ENABLE_TRIGGER, 0, nullptr);
  return sqlite3_exec(handle, kSettings.text(), nullptr, nullptr, nullptr);
}

Error Database::Connection::error(int code, std::string_view detail) const {
  const int latest_errno = errno;
  // SQLite does not keep the reason of a failed write to the log or the journal; errno still has it.
  int system_error = handle != nullptr ? sqlite3_system_errno(handle) : 0;
  if (system_error == 0 && is_out_of_space(latest_errno)) system_error = latest_errno;
  switch (code & 0xff) {
    case SQLITE_FULL:
      return fail(ErrorCode::NoSpace,
                  "{}: the disk is full; nothing saved before is lost: free some space and try again", path);
    case SQLITE_IOERR:
      if (code == SQLITE_IOERR_NOMEM) return fail(ErrorCode::Io, "{}: out of memory", path);
      // SQLite 3.40 reads pages past the end of a truncated file as short reads.
      if (code == SQLITE_IOERR_SHORT_READ)
        return fail(ErrorCode::Malformed,
                    "{}: the file is damaged: it ends too early; restore a copy or remove it", path);
      [[fallthrough]];
    case SQLITE_CANTOPEN:
    case SQLITE_PERM:
    case SQLITE_READONLY:
    case SQLITE_AUTH:
      if (is_out_of_space(system_error))
        return fail(ErrorCode::NoSpace,
                    "{}: no space left ({}); nothing saved before is lost: free some space and try again",
                    path, reason_of(system_error));
      // The folder must take the -wal file too. Its reason first: when SQLite may not create a file it goes
      // on to try reading it, and remembers only that there is none.
      if (const auto folder = std::filesystem::path(path).parent_path();
          (code & 0xff) != SQLITE_IOERR && access(folder.empty() ? "." : folder.c_str(), W_OK | X_OK) != 0)
        return fail(ErrorCode::Io, "{}: cannot write in the folder: {} ({})", path, reason_of(errno), detail);
      if (system_error != 0) return fail(ErrorCode::Io, "{}: {} ({})", path, reason_of(system_error), detail);
      return fail(ErrorCode::Io, "{}: {}", path, detail);
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
      if (cancelled())
        return fail(ErrorCode::Interrupted, "{}: interrupted while another process kept the file locked",
                    path);
      return fail(ErrorCode::Io,
                  "{}: another process has kept the file locked for {} seconds; try again when it is done",
                  path, kBusyTimeoutMilliseconds / 1000);
    case SQLITE_NOTADB:
      return fail(ErrorCode::Malformed, "{}: not an SQLite file, so not a state file; name another file",
                  path);
    case SQLITE_CORRUPT:
      // SQLite says the same of bytes that are wrong and of a disk that could not give them.
      if (latest_errno == EIO) return fail(ErrorCode::Io, "{}: {}", path, reason_of(EIO));
      return fail(ErrorCode::Malformed,
                  "{}: the file is damaged ({}); restore a copy, or remove it to measure again", path,
                  detail);
    case SQLITE_ERROR:
    case SQLITE_SCHEMA:
      return fail(ErrorCode::Malformed, "{}: not the tables of a state file ({})", path, detail);
    case SQLITE_TOOBIG:
      return fail(ErrorCode::Malformed,
                  "{}: the file is damaged: it holds a value longer than any that a state file has", path);
    case SQLITE_NOMEM:
      return fail(ErrorCode::Io, "{}: out of memory", path);
    case SQLITE_INTERRUPT:
      return fail(ErrorCode::Interrupted, "{}: interrupted", path);
    default:
      return fail(ErrorCode::Internal, "{}: unexpected answer of SQLite: {} (code {})", path, detail, code);
  }
}

Database::Database(std::unique_ptr<Connection> connection) : connection_(std::move(connection)) {}
Database::Database(Database&&) noexcept = default;
Database& Database::operator=(Database&&) noexcept = default;
Database::~Database() = default;

Result<Database> Database::open(const std::filesystem::path& path, Access access,
                                const CancellationToken* cancel) {
  auto connection = std::make_unique<Connection>();
  connection->path = path.string();
  connection->cancel = cancel;
  if (path.empty()) return fail(ErrorCode::InvalidArgument, "a state file needs a name");

  std::error_code trouble;
  // Absolute, so that no name can be one of SQLite's special ones (":memory:", "file:...").
  const std::string absolute = std::filesystem::absolute(path, trouble).string();
  if (trouble) return fail(ErrorCode::Io, "{}: {}", connection->path, trouble.message());
  if (absolute.find('\0') != std::string::npos)
    return fail(ErrorCode::InvalidArgument, "the name of a state file must not contain a zero byte");

  // A look without opening: closing a second descriptor of the file would drop the
  // locks of other connections.
  struct stat status = {};
  if (stat(absolute.c_str(), &status) == 0) {
    if (S_ISDIR(status.st_mode))
      return fail(ErrorCode::Io, "{}: is a folder; name a file in it", connection->path);
    if (!S_ISREG(status.st_mode)) return fail(ErrorCode::Io, "{}: is not a regular file", connection->path);
    // SQLite would take a file of one byte for an empty database and overwrite it.
    if (status.st_size > 0 && status.st_size < kHeaderBytes)
      return connection->error(SQLITE_NOTADB, "file is not a database");
  } else if (errno != ENOENT || access == Access::ReadOnly) {
    return fail(ErrorCode::Io, "{}: {}", connection->path, reason_of(errno));
  }

  int code = SQLITE_OK;
  errno = 0;
  if (access == Access::ReadWrite) {
    code = connection->open(absolute, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE);
    if (connection->handle != nullptr && sqlite3_db_readonly(connection->handle, "main") == 1)
      return fail(ErrorCode::Io, "{}: the file is write-protected", connection->path);
  } else {
    // A connection that could write but never does: it leaves no empty log behind, as a read-only one would.
    // Where writing is not allowed (protected file or folder) the second attempt is truly read-only; and
    // where SQLite cannot even make its lock file, the third reads the bare file, which is sound as long as
    // there is no log: nobody can be writing.
    const auto reads = [&] {
      if (code == SQLITE_OK)
        code = sqlite3_exec(connection->handle, kQueryOnly.text(), nullptr, nullptr, nullptr);
      if (code == SQLITE_OK)
        code = sqlite3_exec(connection->handle, kFirstRead.text(), nullptr, nullptr, nullptr);
      const int kind = code & 0xff;
      return kind != SQLITE_CANTOPEN && kind != SQLITE_READONLY && kind != SQLITE_PERM;
    };
    const auto try_again = [&](const std::string& name, int flags) {
      sqlite3_close(std::exchange(connection->handle, nullptr));
      code = connection->open(name, flags);
    };
    code = connection->open(absolute, SQLITE_OPEN_READWRITE);
    if (!reads()) {
      try_again(absolute, SQLITE_OPEN_READONLY);
      if (!reads() && !std::filesystem::exists(absolute + "-wal", trouble) && !trouble) {
        try_again(uri_of(absolute, "?immutable=1"), SQLITE_OPEN_READONLY | SQLITE_OPEN_URI);
        reads();
      }
    }
  }
  if (code != SQLITE_OK) {
    if (connection->handle == nullptr) return fail(ErrorCode::Io, "{}: out of memory", connection->path);
    return connection->error(code, sqlite3_errmsg(connection->handle));
  }
  return Database(std::move(connection));
}

Result<Database> Database::open_in_memory() {
  auto connection = std::make_unique<Connection>();
  connection->path = "(memory)";
  const int code = connection->open(":memory:", SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE);
  if (code != SQLITE_OK) return connection->error(code, sqlite3_errstr(code));
  return Database(std::move(connection));
}

Result<Database> Database::copy_in_memory() const {
  QF_ASSIGN(auto copy, open_in_memory());
  Connection& target = *copy.connection_;
  target.path = connection_->path;
  target.cancel = connection_->cancel;
  if (target.cancel != nullptr)
    sqlite3_progress_handler(target.handle, kStepsBetweenLooks, Connection::stop_running, &target);
  sqlite3_backup* const backup = sqlite3_backup_init(target.handle, "main", connection_->handle, "main");
  if (backup == nullptr) return target.last_error();
  constexpr int kAllPages = -1;
  sqlite3_backup_step(backup, kAllPages);
  const int code = sqlite3_backup_finish(backup);
  if (code != SQLITE_OK) return target.error(code, sqlite3_errstr(code));
  return copy;
}

Result<void> Database::execute(Sql sql) {
  errno = 0;
  if (sqlite3_exec(connection_->handle, sql.text(), nullptr, nullptr, nullptr) != SQLITE_OK)
    return connection_->last_error();
  return outcome::success();
}

Result<void> Database::use_write_ahead_log() {
  // The switch needs the file for itself for a moment and, unlike other statements, does not wait for it.
  const auto deadline =
      std::chrono::steady_clock::now() + std::chrono::milliseconds(kBusyTimeoutMilliseconds);
  while (true) {
    QF_ASSIGN(auto mode, Statement::prepare(*this, "PRAGMA journal_mode = WAL"));
    auto row = mode.step();
    const int code = sqlite3_extended_errcode(connection_->handle) & 0xff;
    if (row) {
      if (mode.text(0) != "wal")
        return fail(ErrorCode::Io, "{}: write-ahead logging does not work in this folder's file system",
                    path());
      return mode.finish();
    }
    if (code != SQLITE_BUSY || std::chrono::steady_clock::now() > deadline || connection_->cancelled())
      return std::move(row).error();
    std::this_thread::sleep_for(kPauseWhileLocked);
  }
}

std::int64_t Database::last_insert_rowid() const {
  return sqlite3_last_insert_rowid(connection_->handle);
}
const std::string& Database::path() const {
  return connection_->path;
}

Statement::Statement(Database::Connection* connection, sqlite3_stmt* statement)
    : connection_(connection), statement_(statement) {}
Statement::Statement(Statement&& other) noexcept
    : connection_(other.connection_),
      statement_(std::exchange(other.statement_, nullptr)),
      damage_(std::move(other.damage_)) {}
Statement::~Statement() {
  sqlite3_finalize(statement_);
}

Result<Statement> Statement::prepare(const Database& database, Sql sql) {
  sqlite3_stmt* statement = nullptr;
  Database::Connection* connection = database.connection_.get();
  errno = 0;
  if (sqlite3_prepare_v2(connection->handle, sql.text(), -1, &statement, nullptr) != SQLITE_OK)
    return connection->last_error();
  return Statement(connection, statement);
}

Result<void> Statement::start_binding(int count) {
  sqlite3_reset(statement_);  // repeats the last step's error, which was reported then
  damage_.clear();
  if (const int expected = sqlite3_bind_parameter_count(statement_); count != expected)
    return fail(ErrorCode::Internal, "a statement takes {} values, not {}", expected, count);
  return outcome::success();
}

Result<void> Statement::bind_value(int index, std::int64_t value) {
  if (sqlite3_bind_int64(statement_, index, value) != SQLITE_OK) return connection_->last_error();
  return outcome::success();
}

Result<void> Statement::bind_value(int index, std::uint64_t value) {
  if (value > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max()))
    return fail(ErrorCode::InvalidArgument, "{}: {} is too large to store, 2^63 - 1 is the limit",
                connection_->path, value);
  return bind_value(index, static_cast<std::int64_t>(value));
}

Result<void> Statement::bind_value(int index, double value) {
  if (!std::isfinite(value))
    return fail(ErrorCode::InvalidArgument, "{}: {} cannot be stored, only finite numbers", connection_->path,
                value);
  if (sqlite3_bind_double(statement_, index, value) != SQLITE_OK) return connection_->last_error();
  return outcome::success();
}

Result<void> Statement::bind_value(int index, std::string_view value) {
  // An empty view may have no address, which SQLite would take for NULL.
  const char* const data = value.empty() ? "" : value.data();
  const int code = sqlite3_bind_text64(statement_, index, data, value.size(), SQLITE_TRANSIENT, SQLITE_UTF8);
  if (code == SQLITE_TOOBIG)
    return fail(ErrorCode::InvalidArgument, "{}: a text of {} bytes is too long to store", connection_->path,
                value.size());
  if (code != SQLITE_OK) return connection_->last_error();
  return outcome::success();
}

Result<void> Statement::bind_null(int index) {
  if (sqlite3_bind_null(statement_, index) != SQLITE_OK) return connection_->last_error();
  return outcome::success();
}

Result<bool> Statement::step() {
  if (!damage_.empty()) return fail(ErrorCode::Malformed, "{}: {}", connection_->path, damage_);
  errno = 0;
  const int code = sqlite3_step(statement_);
  if (code == SQLITE_ROW) return true;
  if (code == SQLITE_DONE) return false;
  return connection_->last_error();
}

Result<void> Statement::finish() {
  if (!damage_.empty()) return fail(ErrorCode::Malformed, "{}: {}", connection_->path, damage_);
  sqlite3_reset(statement_);
  return outcome::success();
}

Result<void> Statement::run_bound() {
  while (true) {
    QF_ASSIGN(const bool row, step());
    if (!row) break;
  }
  return finish();
}

void Statement::report_damage(int column) {
  if (damage_.empty()) {
    const char* const name = sqlite3_column_name(statement_, column);
    damage_ = fmt::format("the file is damaged: column '{}' holds a value of the wrong type or out of range",
                          name != nullptr ? name : "?");
  }
}

bool Statement::expect_type(int column, int type) {
  if (sqlite3_column_type(statement_, column) == type) return true;
  report_damage(column);
  return false;
}

bool Statement::is_null(int column) const {
  return sqlite3_column_type(statement_, column) == SQLITE_NULL;
}

std::int64_t Statement::integer(int column) {
  return expect_type(column, SQLITE_INTEGER) ? sqlite3_column_int64(statement_, column) : 0;
}

std::uint64_t Statement::unsigned_integer(int column) {
  const std::int64_t value = integer(column);
  if (value >= 0) return static_cast<std::uint64_t>(value);
  report_damage(column);
  return 0;
}

std::uint32_t Statement::unsigned_integer32(int column) {
  const std::uint64_t value = unsigned_integer(column);
  if (value <= std::numeric_limits<std::uint32_t>::max()) return static_cast<std::uint32_t>(value);
  report_damage(column);
  return 0;
}

double Statement::real(int column) {
  if (!expect_type(column, SQLITE_FLOAT)) return 0;
  const double value = sqlite3_column_double(statement_, column);
  if (std::isfinite(value)) return value;
  report_damage(column);
  return 0;
}

std::string Statement::text(int column) {
  if (!expect_type(column, SQLITE_TEXT)) return {};
  const auto* const data = reinterpret_cast<const char*>(sqlite3_column_text(statement_, column));
  if (data == nullptr) {
    report_damage(column);
    return {};
  }
  return {data, static_cast<std::size_t>(sqlite3_column_bytes(statement_, column))};
}

Transaction::Transaction(Transaction&& other) noexcept
    : connection_(std::exchange(other.connection_, nullptr)) {}
Transaction::~Transaction() {
  roll_back();
}

Result<Transaction> Transaction::begin_write(Database& database) {
  QF_TRY(database.execute("BEGIN IMMEDIATE"));
  return Transaction(database.connection_.get());
}

Result<Transaction> Transaction::begin_read(Database& database) {
  QF_TRY(database.execute("BEGIN"));
  return Transaction(database.connection_.get());
}

Result<void> Transaction::commit() {
  if (connection_ == nullptr) return fail(ErrorCode::Internal, "a transaction was committed twice");
  errno = 0;
  if (sqlite3_exec(connection_->handle, "COMMIT", nullptr, nullptr, nullptr) != SQLITE_OK) {
    Error error = connection_->last_error();
    roll_back();
    return error;
  }
  connection_ = nullptr;
  return outcome::success();
}

void Transaction::roll_back() noexcept {
  if (connection_ == nullptr) return;
  // Some errors (a full disk) have rolled back already.
  if (sqlite3_get_autocommit(connection_->handle) == 0)
    sqlite3_exec(connection_->handle, "ROLLBACK", nullptr, nullptr, nullptr);
  connection_ = nullptr;
}

}  // namespace quantfit::state
