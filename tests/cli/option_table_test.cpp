// One table, read from a command line and from JSON, with the same values and the same errors.
#include "cli/option_table.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

namespace quantfit::cli {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

struct Values {
  std::string model, output;
  std::optional<std::string> label;
  std::vector<std::string> sizes, pins;
  std::uint32_t threads = 0;
  std::optional<double> kappa;
  std::string effort = "default";
  bool force = false;
  bool json = false;
  bool csv = false;
};

struct Sample {
  Values values;
  OptionTable table;
  Sample() {
    table.add("model", values.model, "MODEL", "what to read").needed().file();
    table.add("--output", values.output, "FILE", "what to write").alias("-o");
    table.add("--label", values.label, "TEXT", "a name");
    table.add("--sizes", values.sizes, "SIZE", "how large").split_at_commas();
    table.add("--pin", values.pins, "REGEX=TYPE", "pins");
    table.group("Work", "how hard");
    table.add("--threads", values.threads, "N", "threads")
        .alias("-t")
        .alias("-nt")
        .range(1, 64)
        .default_is("all");
    table.add("--kappa", values.kappa, "X", "a factor").range(1, 100);
    table.add("--effort", values.effort, "NAME", "how long").one_of({"fast", "default", "max"});
    table.flag("--force", values.force, "replace");
    table.flag("--json", values.json, "one document");
    table.flag("--csv", values.csv, "lines").not_with("--json");
  }
  Result<void> arguments(std::vector<std::string> words) { return table.read_arguments(words); }
  std::string error(const std::vector<std::string>& words) {
    auto read = table.read_arguments(words);
    return read ? "" : read.error().message;
  }
  std::string json_error(const char* body) {
    auto read = table.read_json(nlohmann::json::parse(body));
    return read ? "" : read.error().message;
  }
};

TEST(OptionTable, ReadsArguments) {
  Sample sample;
  auto read = sample.arguments({"m.gguf", "--sizes", "1,2", "-t4", "--pin=a=b,c", "--sizes=3", "--pin",
                                "-x=y", "-o", "", "--effort", "max", "--force", "--kappa", "2.5"});
  ASSERT_TRUE(read) << read.error().message;
  const Values& values = sample.values;
  EXPECT_EQ(values.model, "m.gguf");
  EXPECT_THAT(values.sizes, ElementsAre("1", "2", "3"));
  EXPECT_THAT(values.pins, ElementsAre("a=b,c", "-x=y")) << "commas belong to the pattern, dashes too";
  EXPECT_EQ(values.threads, 4U);
  EXPECT_EQ(values.kappa, 2.5);
  EXPECT_EQ(values.effort, "max");
  EXPECT_TRUE(values.force);
  EXPECT_FALSE(values.json);
  EXPECT_FALSE(values.label);
}

TEST(OptionTable, AcceptsOtherSpellings) {
  Sample sample;
  ASSERT_TRUE(sample.arguments({"--label", "", "-nt", "3", "--", "-m.gguf"}));
  EXPECT_EQ(sample.values.threads, 3U);
  EXPECT_EQ(sample.values.label, "");
  EXPECT_EQ(sample.values.model, "-m.gguf");
  Sample underscores;
  EXPECT_FALSE(underscores.arguments({"m", "--pin_", "x"}));
  OptionTable table;
  std::string target;
  table.add("--target-bpw", target, "BPW", "bits");
  const std::vector<std::string> words = {"--target_bpw=4_5"};
  ASSERT_TRUE(table.read_arguments(words));
  EXPECT_EQ(target, "4_5") << "values stay as they are";
}

TEST(OptionTable, SaysWhatIsWrong) {
  Sample sample;
  EXPECT_THAT(sample.error({"m", "--treads", "4"}),
              HasSubstr("no option --treads; did you mean '--threads'?"));
  EXPECT_THAT(sample.error({"m", "--threads", "65"}), HasSubstr("'65' is no whole number from 1 to 64"));
  EXPECT_THAT(sample.error({"m", "--threads", "4x"}), HasSubstr("--threads"));
  EXPECT_THAT(sample.error({"m", "--kappa", "nan"}), HasSubstr("no number from 1 to 100"));
  EXPECT_THAT(sample.error({"m", "--kappa", "2,5"}), HasSubstr("written with a point"));
  EXPECT_THAT(sample.error({"m", "--effort", "maxx"}), HasSubstr("did you mean 'max'?"));
  EXPECT_THAT(sample.error({"m", "--output"}), HasSubstr("needs a value"));
  EXPECT_THAT(sample.error({"m", "--force=yes"}), HasSubstr("takes no value"));
  EXPECT_THAT(sample.error({"m", "-o", "a", "-o", "b"}), HasSubstr("--output is given twice"));
  EXPECT_THAT(sample.error({"m", "n"}), HasSubstr("'n' is one argument too many"));
  EXPECT_THAT(sample.error({"m", "--csv", "--json"}), HasSubstr("exclude one another"));
  EXPECT_THAT(sample.error({"--force"}), HasSubstr("MODEL is needed"));
}

TEST(OptionTable, ReadsJsonWithTheSameErrors) {
  Sample sample;
  EXPECT_EQ(
      sample.json_error(R"({"model": "m", "sizes": ["1", 2.5], "threads": 4, "force": true, "json": false,
                                  "kappa": 2, "label": "x", "pin": "a=b"})"),
      "");
  EXPECT_THAT(sample.values.sizes, ElementsAre("1", "2.5"));
  EXPECT_EQ(sample.values.threads, 4U);
  EXPECT_TRUE(sample.values.force);
  EXPECT_FALSE(sample.values.json);
  EXPECT_THAT(sample.values.pins, ElementsAre("a=b"));
  const std::vector<std::pair<std::vector<std::string>, const char*>> same = {
      {{"m", "--threads", "65"}, R"({"model": "m", "threads": 65})"},
      {{"m", "--effort", "maxx"}, R"({"model": "m", "effort": "maxx"})"},
      {{"--force"}, R"({"force": true})"},
      {{"m", "--csv", "--json"}, R"({"model": "m", "csv": true, "json": true})"},
      {{"m", "-o", "a", "-o", "b"}, R"({"model": "m", "output": ["a", "b"]})"}};
  for (std::size_t i = 0; i + 1 < same.size(); ++i)
    EXPECT_EQ(Sample().error(same[i].first), Sample().json_error(same[i].second));
  EXPECT_THAT(Sample().json_error(same.back().second), HasSubstr("--output"));
  EXPECT_THAT(Sample().json_error(R"({"model": "m", "treads": 4})"), HasSubstr("did you mean 'threads'?"));
  EXPECT_THAT(Sample().json_error(R"({"model": "m", "force": "yes"})"), HasSubstr("true or false"));
  EXPECT_THAT(Sample().json_error("[]"), HasSubstr("no JSON object"));
}

TEST(OptionTable, DescribesItself) {
  const Sample sample;
  const auto schema = sample.table.json_schema();
  EXPECT_EQ(schema["properties"]["threads"]["maximum"], 64);
  EXPECT_EQ(schema["properties"]["effort"]["enum"].size(), 3U);
  EXPECT_EQ(schema["properties"]["output"]["x-placeholder"], "FILE");
  EXPECT_EQ(schema["required"], nlohmann::ordered_json::array({"model"}));
  const std::string help = sample.table.help_text(60);
  EXPECT_THAT(help, HasSubstr("  -o, --output FILE"));
  EXPECT_THAT(help, HasSubstr("fast, default, max"));
  std::size_t longest = 0;
  for (std::size_t start = 0; start < help.size();) {
    const std::size_t end = help.find('\n', start);
    longest = std::max(longest, end - start);
    start = end + 1;
  }
  EXPECT_LE(longest, 60U);
}

}  // namespace
}  // namespace quantfit::cli
