#include "cli/service/catalog.h"

#include <dirent.h>
#include <fcntl.h>
#include <fmt/chrono.h>
#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <cctype>
#include <optional>

#include "cli/output_files.h"
#include "cli/report/json.h"
#include "cli/service/command_options.h"
#include "core/model.h"
#include "core/text.h"

namespace quantfit::service {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::size_t kMostFiles = 10'000;
constexpr int kDeepest = 12;

// PREFIX-0000I-of-0000N.gguf: I, or nothing.
std::optional<unsigned> shard_of(std::string_view name) {
  constexpr std::string_view kShape = "-00000-of-00000.gguf";
  if (name.size() <= kShape.size()) return std::nullopt;
  const std::string_view tail = name.substr(name.size() - kShape.size());
  for (std::size_t i = 0; i < kShape.size(); ++i)
    if (kShape[i] == '0' ? std::isdigit(static_cast<unsigned char>(tail[i])) == 0 : tail[i] != kShape[i])
      return std::nullopt;
  unsigned number = 0;
  for (const char digit : tail.substr(1, 5)) number = number * 10 + static_cast<unsigned>(digit - '0');
  return number;
}

void walk(const Roots& roots, const Root& root, const std::string& path, int depth, std::string_view kind,
          FoundFiles& found) {
  auto folder = roots.open_folder(root, path);
  if (!folder) return;
  DIR* const list = fdopendir(folder.value().number());
  if (list == nullptr) return;
  (void)folder.value().release();
  while (const dirent* entry = readdir(list)) {
    const std::string name = entry->d_name;
    if (!is_plain_name(name)) continue;
    struct stat status {};
    if (fstatat(dirfd(list), name.c_str(), &status, AT_SYMLINK_NOFOLLOW) != 0) continue;
    const std::string below = path.empty() ? name : fmt::format("{}/{}", path, name);
    if (S_ISDIR(status.st_mode)) {
      if (depth == 0)
        found.complete = false;
      else
        walk(roots, root, below, depth - 1, kind, found);
      continue;
    }
    const std::string_view own = kind_of_file(name);
    if (own.empty() || (!kind.empty() && own != kind)) continue;
    FoundFile file{root.name + '/' + below, own, 0, 0};
    if (S_ISLNK(status.st_mode)) {  // counts where it stays beneath the root
      const auto opened = roots.open_file({file.name, &root, below});
      if (!opened || fstat(opened.value().number(), &status) != 0) continue;
    }
    if (!S_ISREG(status.st_mode)) continue;
    if (found.files.size() >= kMostFiles) {
      found.complete = false;
      break;
    }
    file.bytes = static_cast<std::uint64_t>(status.st_size);
    file.modified = status.st_mtim.tv_sec;
    found.files.push_back(std::move(file));
  }
  closedir(list);
}

// What the header says. `file` is a path for the program.
Json figures_of(const std::string& file) {
  const auto model = Model::open(file, OpenMode::MetadataOnly);
  if (!model) return {{"trouble", model.error().message}};
  const Model& m = model.value();
  Json json;
  json["files"] = m.shards().size();
  json["architecture"] = to_utf8(m.architecture());
  if (const auto name = m.metadata().string("general.name")) json["name"] = to_utf8(*name);
  json["elements"] = m.total_elements();
  json["tensors"] = m.tensors().size();
  json["bpw"] = cli::bits_per_element(m.total_tensor_bytes(), m.total_elements());
  std::uint64_t bytes = 0;
  for (const GgufShard& shard : m.shards()) bytes += shard.file_bytes;
  json["bytes"] = bytes;
  return json;
}

}  // namespace

std::string_view kind_of_file(std::string_view name) {
  const std::string lower = to_lower(name);
  const auto ends = [&](std::string_view tail) { return lower.ends_with(tail); };
  if (ends(".qfstate")) return "state";
  if (ends(".recipe") || lower == "recipe.txt") return "recipe";
  if (ends(".txt")) return "text";
  const bool imatrix = lower.find("imatrix") != std::string::npos;
  if (imatrix && (ends(".dat") || ends(".gguf"))) return "imatrix";
  if (ends(".moments.gguf") || ends(".gradients.gguf")) return "";
  if (ends(".gguf")) return shard_of(lower).value_or(1) == 1 ? "model" : "";
  return "";
}

std::string time_text(std::int64_t seconds_since_1970) {
  return fmt::format("{:%Y-%m-%dT%H:%M:%SZ}", fmt::gmtime(static_cast<std::time_t>(seconds_since_1970)));
}

FoundFiles find_files(const Roots& roots, std::string_view kind) {
  FoundFiles found;
  for (const Root& root : roots.all()) walk(roots, root, "", kDeepest, kind, found);
  std::ranges::sort(found.files, {}, &FoundFile::name);
  return found;
}

Json Catalog::files(std::string_view kind) const {
  const FoundFiles found = find_files(roots_, kind);
  Json json;
  json["files"] = Json::array();
  for (const FoundFile& file : found.files)
    json["files"].push_back({{"file", file.name},
                             {"kind", file.kind},
                             {"bytes", file.bytes},
                             {"modified", time_text(file.modified)}});
  json["complete"] = found.complete;
  return json;
}

Json Catalog::models() {
  const FoundFiles found = find_files(roots_, "model");
  const std::scoped_lock guard(lock_);
  std::map<std::string, Known> known;
  Json json;
  json["models"] = Json::array();
  for (const FoundFile& file : found.files) {
    auto before = known_.find(file.name);
    if (before == known_.end() || before->second.bytes != file.bytes ||
        before->second.modified != file.modified) {
      before =
          known_.insert_or_assign(file.name, Known{file.bytes, file.modified, figures_of(file.name)}).first;
    }
    Json row = {
        {"file", file.name}, {"bytes", file.bytes}, {"modified", time_text(file.modified)}, {"files", 1}};
    row.update(before->second.figures);
    const auto name = roots_.parse(file.name);
    const auto state = name ? default_state(roots_, name.value()) : name;
    row["state"] = state ? state.value().text : "";
    row["state_exists"] = state && roots_.exists(state.value());
    json["models"].push_back(std::move(row));
    known.insert(*before);
  }
  known_ = std::move(known);  // what is gone is forgotten
  json["complete"] = found.complete;
  return json;
}

Answer<Json> Catalog::inspect(const std::string& file, bool metadata) const {
  QF_ASSIGN(const FileName name, roots_.parse(file));
  if (auto opened = roots_.open_file(name); !opened) return opened.error();
  QF_ANSWER(const Model model, Model::open(name.text, OpenMode::MetadataOnly));
  return cli::to_json(cli::make_model_report(model), metadata);
}

}  // namespace quantfit::service
