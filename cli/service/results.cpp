#include "cli/service/results.h"

#include <dirent.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "core/text.h"

namespace quantfit::service {
namespace {

// A report is a page with a script of its own: it runs in a sandbox without our origin.
constexpr std::string_view kReportPolicy =
    "sandbox allow-scripts; default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "img-src data:; "
    "frame-ancestors 'none'";

std::string kind_of_result(std::string_view name) {
  const std::string lower = to_lower(name);
  if (lower.ends_with(".html")) return "report";
  if (lower.find("imatrix") != std::string::npos || lower.ends_with(".dat")) return "imatrix";
  if (lower.ends_with(".gguf")) return "model";
  if (lower.starts_with("recipe") || lower.ends_with(".recipe")) return "recipe";
  return "other";
}

std::string_view type_of(const JobResult& result) {
  const std::string lower = to_lower(result.name);
  if (result.kind == "report") return "text/html; charset=utf-8";
  if (lower.ends_with(".txt") || lower.ends_with(".md") || lower.ends_with("sha256sums") ||
      result.kind == "recipe")
    return "text/plain; charset=utf-8";
  return "application/octet-stream";
}

// RFC 8187: bytes that are no plain letters as %XX; a slash stands for itself, and in no name of a file.
std::string percent_encoded(std::string_view text) {
  std::string out;
  for (const char letter : text) {
    const bool plain = (letter >= 'a' && letter <= 'z') || (letter >= 'A' && letter <= 'Z') ||
                       (letter >= '0' && letter <= '9') || letter == '-' || letter == '.' || letter == '_' ||
                       letter == '~' || letter == '/';
    if (plain)
      out += letter;
    else
      out += fmt::format("%{:02X}", static_cast<unsigned char>(letter));
  }
  return out;
}

}  // namespace

namespace {

// Files of an open folder, each called by `prefix` and its name. Folders in it are looked into where
// `deeper`.
void add_files(const Descriptor& folder, const std::string& prefix, bool deeper, const std::string& place,
               std::vector<JobResult>& results) {
  DIR* const list = fdopendir(fcntl(folder.number(), F_DUPFD_CLOEXEC, 0));
  if (list == nullptr) return;
  while (const dirent* entry = readdir(list)) {
    const std::string own = entry->d_name;
    struct stat status {};
    if (!is_plain_name(own) || prefix + own == kAnswerName ||
        fstatat(folder.number(), entry->d_name, &status, AT_SYMLINK_NOFOLLOW) != 0)
      continue;
    const std::string name = prefix + own;
    if (S_ISREG(status.st_mode))
      results.push_back({name, kind_of_result(own), static_cast<std::uint64_t>(status.st_size),
                         fmt::format("{}/{}", place, name)});
    if (!S_ISDIR(status.st_mode) || !deeper) continue;
    const Descriptor inner(
        openat(folder.number(), entry->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
    if (inner.number() >= 0) add_files(inner, name + '/', false, place, results);
  }
  closedir(list);
}

}  // namespace

std::vector<JobResult> results_of(const Roots& roots, const JobRecord& job) {
  std::vector<JobResult> results;
  if (job.answer_bytes != 0) results.push_back({std::string(kAnswerName), "answer", job.answer_bytes, ""});
  if (job.folder.empty()) return results;
  const auto name = roots.parse(job.folder);
  if (!name) return results;
  const auto folder = roots.open_folder(*name.value().root, name.value().path);
  if (!folder) return results;
  add_files(folder.value(), "", true, job.folder, results);
  std::ranges::sort(results, {}, &JobResult::name);
  return results;
}

nlohmann::ordered_json to_json(const std::vector<JobResult>& results, const std::string& job) {
  nlohmann::ordered_json json = nlohmann::ordered_json::array();
  for (const JobResult& result : results) {
    nlohmann::ordered_json row = {{"name", result.name}, {"kind", result.kind}, {"bytes", result.bytes}};
    if (!result.file.empty()) row["file"] = result.file;
    row["href"] = fmt::format("/api/v1/jobs/{}/results/{}", job, percent_encoded(result.name));
    json.push_back(std::move(row));
  }
  return json;
}

Response file_response(const Roots& roots, const JobResult& result, const Request& request) {
  const auto name = roots.parse(result.file);
  if (!name) return problem_response(name.error());
  auto opened = roots.open_file(name.value());
  if (!opened) return problem_response(opened.error());
  struct stat status {};
  if (fstat(opened.value().number(), &status) != 0)
    return problem_response(problem(ProblemKind::InputOutput, "the file cannot be looked at"));
  const auto size = static_cast<std::uint64_t>(status.st_size);
  const std::string tag = fmt::format("\"{:x}-{:x}-{:x}.{:x}\"", status.st_ino, size, status.st_mtim.tv_sec,
                                      status.st_mtim.tv_nsec);
  if (matches_tag(request.if_none_match, tag)) return empty_response(304).with("ETag", tag);
  Response response;
  FileBody body{std::move(opened).value(), 0, size};
  // A range of another version of the file would be a mixture: then the whole file is sent.
  const bool wanted = !request.range.empty() && (request.if_range.empty() || request.if_range == tag);
  if (wanted) {
    const auto range = parse_range(request.range, size);
    if (!range) return problem_response(range.error()).with("Content-Range", fmt::format("bytes */{}", size));
    if (range.value()) {
      response.status = 206;
      body.offset = range.value()->first;
      body.length = range.value()->last - range.value()->first + 1;
      response.with("Content-Range",
                    fmt::format("bytes {}-{}/{}", range.value()->first, range.value()->last, size));
    }
  }
  response.body = std::move(body);
  response.with("Content-Type", std::string(type_of(result)));
  response.with("ETag", tag);
  response.with("Accept-Ranges", "bytes");
  response.with("Cache-Control", "private, no-cache");
  if (result.kind == "report")
    response.with("Content-Security-Policy", std::string(kReportPolicy));
  else
    response.with("Content-Disposition",
                  fmt::format("attachment; filename*=UTF-8''{}",
                              percent_encoded(result.name.substr(result.name.rfind('/') + 1))));
  return response;
}

}  // namespace quantfit::service
