#include "core/gguf_reader.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mman.h>

#include <cstring>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <random>
#include <set>

#include "tests/core/gguf_bytes.h"
#include "tests/support/test_paths.h"

namespace quantfit {
namespace {

using nlohmann::json;
using test::GgufBytes;
using ::testing::HasSubstr;

std::filesystem::path gguf_dir() {
  return test::data_dir() / "gguf";
}

json manifest() {
  std::ifstream in(gguf_dir() / "manifest.json");
  return json::parse(in);
}

// The value at `index` of an array, or the scalar, as a pair of its own.
json to_json(const GgufKeyValue& pair) {
  if (pair.type == GgufType::String) return std::string(*pair.as_string());
  if (pair.type == GgufType::Array) {
    if (auto strings = pair.as_string_array()) return *strings;
    json values = json::array();
    const std::uint64_t size = fixed_size(pair.element_type);
    for (std::uint64_t i = 0; i < pair.count; ++i) {
      const auto begin = pair.bytes.begin() + static_cast<std::ptrdiff_t>(i * size);
      values.push_back(to_json({"", pair.element_type, GgufType::UInt8, 1, std::span(begin, size)}));
    }
    return values;
  }
  if (const auto value = pair.as_uint()) return *value;
  if (const auto value = pair.as_int()) return *value;
  return pair.as_double().value();
}

TEST(GgufReader, FindsWhatTheManifestSays) {
  const json all = manifest();
  for (const auto& [file_name, expected] : all["files"].items()) {
    SCOPED_TRACE(file_name);
    const auto bytes = test::read_file(gguf_dir() / file_name);
    const auto parsed = parse_gguf(bytes, file_name);
    ASSERT_VALUE(parsed);
    const GgufContents& gguf = parsed.value();
    EXPECT_EQ(gguf.version, expected["version"]);
    ASSERT_EQ(gguf.metadata.all().size(), expected["kv"].size());
    for (const GgufKeyValue& pair : gguf.metadata.all()) {
      SCOPED_TRACE(pair.key);
      ASSERT_TRUE(expected["kv"].contains(pair.key));
      const json& wanted = expected["kv"][pair.key];
      EXPECT_EQ(static_cast<std::uint32_t>(pair.type), wanted["type"]);
      if (pair.type == GgufType::Array) {
        EXPECT_EQ(static_cast<std::uint32_t>(pair.element_type), wanted["element_type"]);
      }
      EXPECT_EQ(to_json(pair), wanted["value"]);
    }
    ASSERT_EQ(gguf.tensors.size(), expected["tensors"].size());
    for (std::size_t i = 0; i < gguf.tensors.size(); ++i) {
      const json& wanted = expected["tensors"][i];
      const TensorInfo& tensor = gguf.tensors[i];
      EXPECT_EQ(tensor.name, wanted["name"]);
      const auto ne = wanted["ne"].get<std::vector<std::uint64_t>>();
      EXPECT_EQ(tensor.n_dims, ne.size());
      for (std::size_t d = 0; d < 4; ++d) EXPECT_EQ(tensor.ne[d], d < ne.size() ? ne[d] : 1);
      EXPECT_EQ(name_of(tensor.format), wanted["type"]);
      EXPECT_EQ(tensor.offset, wanted["offset"]);
      EXPECT_EQ(tensor.bytes, wanted["bytes"]);
      EXPECT_LE(gguf.data_offset + tensor.offset + tensor.bytes, bytes.size());
    }
  }
}

TEST(GgufReader, RefusesEveryBrokenFileWithItsOwnMessage) {
  const std::map<std::string, std::string> expected = {
      {"align_48", "general.alignment is 48"},
      {"align_type", "general.alignment has value type"},
      {"align_zero", "general.alignment is 0"},
      {"array_past_end", "array 'k' claims 5 elements"},
      {"bad_value_type", "value type of 'k' is 13"},
      {"byteorder", "big-endian"},
      {"data_missing", "data section should start"},
      {"data_truncated", "truncated"},
      {"dims_overflow", "4294967296 x 4294967296 x 1 x 1 multiply"},
      {"dims_overflow3", "2147483648 x 2147483648 x 8 x 1 multiply"},
      {"dup_key", "metadata key 'general.architecture' occurs twice"},
      {"dup_tensor", "tensor name 'a.weight' occurs twice"},
      {"empty_key", "1 metadata keys do not fit"},
      {"five_dims", "5 dimensions"},
      {"huge_array", "array 'k' claims 2305843009213693952 elements"},
      {"huge_kv", "1099511627776 metadata keys do not fit"},
      {"huge_string", "claims a length of 4611686018427387904"},
      {"huge_tensors", "1099511627776 tensors do not fit"},
      {"info_truncated", "the name of tensor 1"},
      {"magic", "not a GGUF file"},
      {"name_64_bytes", "has 64 bytes"},
      {"neg_dim", "dimension 1 is -2"},
      {"neg_kv", "number of metadata keys, -1"},
      {"neg_tensors", "number of tensors, -1"},
      {"nested_array", "arrays of arrays"},
      {"offset_first_nonzero", "offset 32 of the first tensor"},
      {"offset_gap", "leaves a gap"},
      {"offset_overlap", "overlaps"},
      {"offset_unaligned", "offset 20 is not a multiple of alignment 32"},
      {"row_not_multiple", "not a whole number of Q4_0 blocks"},
      {"short_header", "the file ends inside the number of metadata keys"},
      {"string_past_end", "claims a length of 100 bytes, but 3 are left"},
      {"type_unknown", "type 99"},
      {"type_withdrawn", "type 4,"},
      {"version0", "version 0"},
      {"version1", "version 1;"},
      {"version4", "version 4;"},
  };
  std::set<std::string> messages;
  std::size_t files = 0;
  for (const auto& entry : std::filesystem::directory_iterator(gguf_dir() / "bad")) {
    ++files;
    const std::string name = entry.path().stem().string();
    SCOPED_TRACE(name);
    ASSERT_TRUE(expected.contains(name));
    const auto parsed = parse_gguf(test::read_file(entry.path()), "FILE");
    ASSERT_FALSE(parsed);
    const Error& error = parsed.error();
    const bool other_version = name == "byteorder" || name == "version1" || name == "version4";
    EXPECT_EQ(error.code, other_version ? ErrorCode::Unsupported : ErrorCode::Malformed) << error.message;
    EXPECT_THAT(error.message, HasSubstr(expected.at(name)));
    EXPECT_THAT(error.message, ::testing::StartsWith("FILE: "));
    EXPECT_TRUE(messages.insert(error.message).second) << "said before: " << error.message;
  }
  EXPECT_EQ(files, expected.size());
  EXPECT_EQ(files, manifest()["bad"].size());
}

TEST(GgufReader, RefusesWhatTheFilesDoNotCover) {
  const auto message = [](const GgufBytes& file, OpenMode mode = OpenMode::Data) {
    const auto parsed = parse_gguf(file.bytes(), "f", mode);
    return parsed ? std::string("accepted") : parsed.error().message;
  };
  const auto one = [](std::string_view name, const std::vector<std::uint64_t>& ne, std::uint32_t type,
                      std::uint64_t offset = 0) {
    return GgufBytes(1, 0).tensor(name, ne, type, offset).pad().zeros(64);
  };
  constexpr std::uint64_t kHuge = std::uint64_t{1} << 40;
  EXPECT_EQ(message(one("t", {4}, 0)), "accepted");
  EXPECT_THAT(message(one("", {4}, 0)), HasSubstr("0 bytes"));
  EXPECT_THAT(message(one(std::string_view("a\0b", 3), {4}, 0)), HasSubstr("zero byte"));
  EXPECT_THAT(message(one("t", {256}, 15)), HasSubstr("only at run time"));
  EXPECT_THAT(message(one("t", {0, kHuge, kHuge}, 0)), HasSubstr("multiply to 2^63"));
  EXPECT_THAT(message(one("t", {kHuge, kHuge, 0}, 0)), HasSubstr("multiply to 2^63"));
  EXPECT_THAT(message(one("t", {(std::uint64_t{1} << 63) - 1}, 28)), HasSubstr("64-bit"));
  EXPECT_THAT(message(one("\x1b[31m", {3, 3}, 99)), HasSubstr("\\x1b[31m"));
  EXPECT_THAT(message(GgufBytes(0, 1).text("").put(std::uint32_t{0}).zeros(20)), HasSubstr("key 0 is empty"));
  EXPECT_THAT(message(GgufBytes(0, 1).key("general.alignment", GgufType::UInt32, std::uint32_t{1} << 21)),
              HasSubstr("2097152"));
  // The end of all data wraps 64 bits even though every tensor alone does not.
  GgufBytes wrapping(5, 0);
  constexpr std::uint64_t kQuarter = std::uint64_t{1} << 62;
  for (std::uint64_t i = 0; i < 5; ++i)
    wrapping.tensor(std::string(1, static_cast<char>('a' + i)), {kQuarter}, 24, i * kQuarter);
  EXPECT_THAT(message(wrapping.pad(), OpenMode::MetadataOnly), HasSubstr("64-bit positions"));
}

TEST(GgufReader, KeepsNumbersAboveTwoToTheFifty) {
  constexpr std::uint64_t kBig = (std::uint64_t{1} << 51) + 32;
  const GgufBytes file = GgufBytes(2, 1)
                             .key("k", GgufType::UInt64, kBig + 1)
                             .tensor("a", {kBig}, 24, 0)
                             .tensor("b", {kBig / 32, 1, 32}, 24, kBig)
                             .pad();
  EXPECT_FALSE(parse_gguf(file.bytes(), "f"));
  const auto parsed = parse_gguf(file.bytes(), "f", OpenMode::MetadataOnly);
  ASSERT_VALUE(parsed);
  EXPECT_EQ(parsed.value().metadata.uint("k"), kBig + 1);
  EXPECT_EQ(parsed.value().tensors[0].bytes, kBig);
  EXPECT_EQ(parsed.value().tensors[1].offset, kBig);
  EXPECT_EQ(parsed.value().tensors[1].elements(), kBig);
}

TEST(GgufReader, AcceptsEmptyTensorsAndScalars) {
  const GgufBytes file = GgufBytes(4, 0)
                             .tensor("empty", {0, 7}, 8, 0)
                             .tensor("scalar", {}, 0, 0)
                             .tensor("empty2", {32, 0}, 8, 32)
                             .tensor("last", {1, 1, 1, 1}, 0, 32)
                             .pad()
                             .zeros(36);
  const auto parsed = parse_gguf(file.bytes(), "f");
  ASSERT_VALUE(parsed);
  const auto& tensors = parsed.value().tensors;
  EXPECT_EQ(tensors[0].bytes, 0U);
  EXPECT_EQ(tensors[0].elements(), 0U);
  EXPECT_EQ(tensors[1].elements(), 1U);
  EXPECT_EQ(tensors[2].rows(), 0U);
  EXPECT_EQ(tensors[3].significant_dims(), 1U);
}

TEST(GgufReader, TruncationAtEveryByteIsRefused) {
  const auto whole = test::read_file(gguf_dir() / "tiny.gguf");
  const auto parsed = parse_gguf(whole, "tiny");
  ASSERT_VALUE(parsed);
  const std::uint64_t data_offset = parsed.value().data_offset;
  std::uint64_t last_byte = 0;  // where the data of the last tensor ends
  for (const TensorInfo& tensor : parsed.value().tensors)
    last_byte = std::max(last_byte, data_offset + tensor.offset + tensor.bytes);
  for (std::uint64_t size = 0; size < data_offset + 64; ++size) {
    // A copy of exactly that size, so that AddressSanitizer sees any read past its end.
    const std::vector<std::byte> cut(whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(size));
    const auto result = parse_gguf(cut, "cut");
    ASSERT_FALSE(result) << size;
    ASSERT_EQ(result.error().code, ErrorCode::Malformed) << size << ": " << result.error().message;
  }
  EXPECT_FALSE(parse_gguf(std::span(whole).first(last_byte - 1), "cut"));
  EXPECT_TRUE(parse_gguf(std::span(whole).first(last_byte), "cut"));
  // The header alone is enough where only metadata are wanted.
  EXPECT_TRUE(parse_gguf(std::span(whole).first(data_offset), "cut", OpenMode::MetadataOnly));
  EXPECT_FALSE(parse_gguf(std::span(whole).first(data_offset - 64), "cut", OpenMode::MetadataOnly));
}

TEST(GgufReader, RandomDamageNeverEscapes) {
  const auto whole = test::read_file(gguf_dir() / "tiny.gguf");
  const auto parsed = parse_gguf(whole, "tiny");
  ASSERT_VALUE(parsed);
  const std::uint64_t header = parsed.value().data_offset;
  std::mt19937_64 random(20240607);
  std::size_t refused = 0;
  for (int round = 0; round < 20000; ++round) {
    std::vector<std::byte> bytes(whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(header));
    const int flips = 1 + static_cast<int>(random() % 4);
    for (int i = 0; i < flips; ++i) {
      // Lengths and counts are full of zero bytes: put extreme ones there too, not only flipped bits.
      const std::uint64_t value = random();
      constexpr unsigned kExtreme[] = {0x00, 0x01, 0x7f, 0x80, 0xff};
      bytes[random() % header] =
          static_cast<std::byte>(value % 2 == 0 ? (value >> 8) & 0xff : kExtreme[(value >> 8) % 5]);
    }
    const auto result = parse_gguf(bytes, "damaged", OpenMode::MetadataOnly);
    if (!result) {
      ++refused;
      ASSERT_TRUE(result.error().code == ErrorCode::Malformed ||
                  result.error().code == ErrorCode::Unsupported);
      ASSERT_FALSE(result.error().message.empty());
      continue;
    }
    // Whatever was accepted keeps every promise.
    for (const GgufKeyValue& pair : result.value().metadata.all()) ASSERT_TRUE(pair.consistent());
    for (const TensorInfo& tensor : result.value().tensors) {
      ASSERT_EQ(tensor.offset % result.value().alignment, 0U);
      ASSERT_EQ(tensor.bytes, tensor_bytes(tensor.format, tensor.ne[0], tensor.rows()).value());
    }
  }
  EXPECT_GT(refused, 5000U);
  EXPECT_LT(refused, 20000U);
}

// So many bytes of memory that take none until they are written to, as a sparse file has them.
class SparseBytes {
 public:
  SparseBytes(std::size_t size, const std::vector<std::byte>& start)
      : size_(size),
        data_(
            mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)) {
    std::memcpy(data_, start.data(), start.size());
  }
  ~SparseBytes() { munmap(data_, size_); }
  SparseBytes(const SparseBytes&) = delete;
  SparseBytes& operator=(const SparseBytes&) = delete;
  [[nodiscard]] std::span<const std::byte> bytes() const { return {static_cast<std::byte*>(data_), size_}; }

 private:
  std::size_t size_;
  void* data_;
};

TEST(GgufReader, HeadersBeyondAllReasonAreRefused) {
  constexpr std::size_t kFile = std::size_t{5} << 30;
  const auto message = [&](const GgufBytes& start) {
    const SparseBytes file(kFile, start.bytes());
    const auto parsed = parse_gguf(file.bytes(), "sparse.gguf");
    if (parsed) return std::string();
    EXPECT_EQ(parsed.error().code, ErrorCode::Unsupported);
    return parsed.error().message;
  };
  // 2^29 empty strings, of 8 bytes each; and 2^30 bytes.
  for (const auto& [type, count] : {std::pair{GgufType::String, std::uint64_t{1} << 29},
                                    std::pair{GgufType::UInt8, std::uint64_t{1} << 30}}) {
    GgufBytes start(0, 1);
    start.text("k").put(static_cast<std::uint32_t>(GgufType::Array));
    start.put(static_cast<std::uint32_t>(type)).put(count);
    EXPECT_THAT(message(start), HasSubstr("its header is larger than 256.00 MiB"));
  }
}

TEST(GgufReader, ManyKeysTakeLinearTime) {
  // 200,000 keys: a pairwise comparison of keys would take 2e10 steps.
  constexpr std::uint64_t kKeys = 200000;
  GgufBytes file(0, kKeys);
  for (std::uint64_t i = 0; i < kKeys; ++i) file.key(std::to_string(i), GgufType::UInt8, std::uint8_t{1});
  const auto parsed = parse_gguf(file.bytes(), "f");
  ASSERT_VALUE(parsed);
  EXPECT_EQ(parsed.value().metadata.uint("199999"), 1U);
}

}  // namespace
}  // namespace quantfit
