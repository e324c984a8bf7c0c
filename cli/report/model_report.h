// What is in a GGUF file, as plain data.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "cli/report/plan_report.h"
#include "core/model.h"

namespace quantfit::cli {

struct ModelReport {
  struct File {
    std::string path;
    std::uint64_t bytes = 0;
  };
  struct Tensor {
    std::string name;
    std::string role;                    // as in an answer
    std::optional<std::uint32_t> layer;  // likewise
    std::vector<std::uint64_t> shape;
    std::string format;
    std::uint64_t elements = 0;
    std::uint64_t bytes = 0;
    std::uint32_t shard = 0;
  };
  // One metadata entry. Arrays and other values without a short form have a text only.
  struct Entry {
    std::string key;
    std::string text;  // one line, cut where it is long
    std::variant<std::monostate, bool, std::int64_t, double, std::string> value;
  };

  std::vector<File> files;
  std::uint32_t gguf_version = 0;
  std::string architecture;
  std::optional<std::string> name;
  std::uint64_t elements = 0;
  std::uint64_t tensor_bytes = 0;
  std::uint64_t file_bytes = 0;  // of all files
  double bpw = 0;
  std::vector<FormatUse> formats;
  std::vector<Tensor> tensors;
  std::vector<Entry> metadata;
  std::vector<Entry> provenance;  // of them, those by which this program said how it made the file
};

[[nodiscard]] ModelReport make_model_report(const Model& model);

}  // namespace quantfit::cli
