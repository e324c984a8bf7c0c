#include "tests/support/second_moments.h"

#include <algorithm>
#include <fstream>
#include <nlohmann/json.hpp>
#include <system_error>
#include <utility>

namespace quantfit::test {

Result<SecondMoments> SecondMoments::open(const std::filesystem::path& folder, std::string_view set) {
  const std::filesystem::path path = folder / "index.json";
  std::ifstream file(path, std::ios::binary);
  if (!file) {
    return fail(ErrorCode::Io, "{}: no second moments here: cannot read index.json", folder.string());
  }
  SecondMoments moments;
  moments.folder_ = folder / set;
  try {
    const auto index = nlohmann::json::parse(file);
    const auto& sets = index.at("sets");
    if (!sets.is_object()) return fail(ErrorCode::Malformed, "{}: 'sets' is not an object", path.string());
    if (!sets.contains(set)) {
      return fail(ErrorCode::InvalidArgument, "{}: no set '{}'", path.string(), set);
    }
    for (const auto& [name, info] : sets.at(std::string(set)).at("inputs").items()) {
      const auto columns = info.at("dim").get<std::int64_t>();
      if (columns <= 0 || std::filesystem::path(name).filename() != name) {
        return fail(ErrorCode::Malformed, "{}: input '{}' of dimension {}", path.string(), name, columns);
      }
      moments.inputs_.push_back(
          {name, static_cast<std::size_t>(columns), info.at("tensors").get<std::vector<std::string>>()});
    }
  } catch (const nlohmann::json::exception& error) {
    return fail(ErrorCode::Malformed, "{}: {}", path.string(), error.what());
  }
  return moments;
}

const SecondMoments::Input* SecondMoments::find(std::string_view tensor) const {
  for (const Input& input : inputs_) {
    if (std::find(input.tensors.begin(), input.tensors.end(), tensor) != input.tensors.end()) return &input;
  }
  return nullptr;
}

Result<std::vector<float>> SecondMoments::read(const Input& input) const {
  const std::filesystem::path path = folder_ / (input.name + ".moment2.f32");
  std::error_code error;
  const std::uintmax_t bytes = std::filesystem::file_size(path, error);
  std::ifstream file(path, std::ios::binary);
  if (error || !file) return fail(ErrorCode::Io, "cannot read {}", path.string());
  const std::size_t n = input.columns;
  // In this order, so that no product overflows whatever the index says.
  const std::uintmax_t numbers = bytes / sizeof(float);
  if (bytes % sizeof(float) != 0 || n > numbers || numbers != n * (n + 1) / 2) {
    return fail(ErrorCode::ShapeMismatch, "{}: {} bytes for a triangle of {} columns", path.string(), bytes,
                n);
  }
  std::vector<float> triangle(numbers);
  if (!file.read(reinterpret_cast<char*>(triangle.data()), static_cast<std::streamsize>(bytes))) {
    return fail(ErrorCode::Io, "cannot read {}", path.string());
  }
  std::vector<float> full(n * n);
  for (std::size_t i = 0, at = 0; i < n; ++i) {
    for (std::size_t j = 0; j <= i; ++j) full[i * n + j] = full[j * n + i] = triangle[at++];
  }
  return full;
}

}  // namespace quantfit::test
