// By hand: our tokenizer against the real client on much text, for every pre-tokenizer and tokenizer model.
//   build/release/tests/compare_tokenizers [--bytes N] [--seed N] [--file TEXT] [--vocabulary GGUF] [NAME...]
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "core/model.h"
#include "tests/client/compare_tokenizers.h"
#include "tests/support/generated_vocabulary.h"

int main(int argc, char** argv) {
  using namespace quantfit;
  using namespace quantfit::test;
  CLI::App app("our tokens beside those of llama.cpp");
  std::size_t bytes = 1 << 20;
  unsigned seed = 7;
  std::string file;
  std::vector<std::string> names, files;
  app.add_option("--bytes", bytes, "bytes of generated text")->capture_default_str();
  app.add_option("--seed", seed, "of the generated text")->capture_default_str();
  app.add_option("--file", file, "a text in place of the generated one");
  app.add_option("--vocabulary", files, "GGUF files whose vocabularies are used in place of generated ones");
  app.add_option("names", names, "pre-tokenizers; all when none is named");
  CLI11_PARSE(app, argc, argv);

  std::string text;
  if (file.empty()) {
    text = mixed_text(bytes, seed);
  } else {
    std::ifstream in(file, std::ios::binary);
    text.assign(std::istreambuf_iterator<char>(in), {});
  }
  std::vector<NamedVocabulary> vocabularies;
  for (const std::string& path : files) {
    const auto model = Model::open(path, OpenMode::MetadataOnly);
    if (!model) {
      fmt::print(stderr, "{}\n", model.error().message);
      return 1;
    }
    vocabularies.push_back({std::filesystem::path(path).filename().string(), model.value().metadata()});
  }
  if (files.empty()) vocabularies = vocabularies_of_every_kind(mixed_text(100000, seed + 1));
  int wrong = 0;
  for (const NamedVocabulary& vocabulary : vocabularies) {
    if (!names.empty() && std::find(names.begin(), names.end(), vocabulary.name) == names.end()) continue;
    const auto result = compare_tokenizers(vocabulary.metadata, text);
    const std::string verdict = !result ? result.error().message
                                : result.value().difference.empty()
                                    ? fmt::format("the same {} tokens", result.value().tokens)
                                    : result.value().difference;
    if (!result || !result.value().difference.empty()) ++wrong;
    fmt::print("{:<28} {}\n", vocabulary.name, verdict);
    std::fflush(stdout);
  }
  fmt::print("{} bytes; {} of {} vocabularies differ\n", text.size(), wrong, vocabularies.size());
  return wrong == 0 ? 0 : 1;
}
