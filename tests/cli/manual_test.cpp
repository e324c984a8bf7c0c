// Man pages, the reference and completion: every option of every command is in all of them, and shells take
// them.

#include "cli/manual.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "core/file_util.h"
#include "tests/support/process.h"
#include "tests/support/test_paths.h"

namespace quantfit {
namespace {

using test::ProcessResult;
using test::TemporaryFolder;
using testing::HasSubstr;
using testing::Not;

std::string printed(std::vector<std::string> words) {
  words.insert(words.begin(), QUANTFIT_BINARY);
  const ProcessResult result = test::run(words);
  EXPECT_EQ(result.exit_code, 0) << result.err;
  return result.out;
}

bool has_program(const std::string& name) {
  return test::run({"/bin/sh", "-c", "command -v " + name}).exit_code == 0;
}

const cli::Command* find(std::span<const cli::Command> commands, std::string_view path) {
  const std::size_t blank = std::min(path.find(' '), path.size());
  for (const cli::Command& command : commands)
    if (command.name == path.substr(0, blank))
      return blank == path.size() ? &command : find(command.commands, path.substr(blank + 1));
  return nullptr;
}

std::string without_backslashes(std::string text) {
  std::erase(text, '\\');
  return text;
}

TEST(Manual, NamesEveryOptionOfEveryCommand) {
  const auto commands = cli::all_commands();
  const std::string bash = cli::bash_completion(commands), zsh = cli::zsh_completion(commands),
                    fish = cli::fish_completion(commands), reference = cli::markdown_reference(commands);
  std::size_t options = 0;
  for (const std::string& path : cli::manual_paths(commands)) {
    if (path.empty()) continue;
    const cli::Command* command = find(commands, path);
    ASSERT_NE(command, nullptr) << path;
    const std::string page = without_backslashes(cli::man_page(commands, path));
    EXPECT_THAT(reference, HasSubstr("\n## " + path + "\n"));
    EXPECT_THAT(fish, HasSubstr("-a " + command->name + " "));
    for (const cli::Option& option : command->table.options()) {
      if (option.hidden || option.positional) continue;
      ++options;
      EXPECT_THAT(page, HasSubstr("fB" + option.name + "fR")) << path;
      EXPECT_THAT(reference, HasSubstr("`" + option.name + "`")) << path;
      EXPECT_THAT(bash, HasSubstr(' ' + option.name)) << path;
      EXPECT_THAT(zsh, HasSubstr(option.name + '[')) << path;
      EXPECT_THAT(fish, HasSubstr(" -l " + option.name.substr(2) + ' ')) << path;
    }
  }
  EXPECT_GT(options, 100U);
  EXPECT_THAT(bash, Not(HasSubstr("--rest"))) << "what help hides is not completed";
}

TEST(Manual, TheReferenceInTheDocumentsIsCurrent) {
  const std::string stored =
      read_text_file(test::data_dir().parent_path().parent_path() / "docs" / "reference.md", 1 << 20).value();
  EXPECT_EQ(printed({"manual", "--markdown"}), stored)
      << "quantfit manual --markdown > docs/reference.md mends it";
}

TEST(Manual, PagesAreSound) {
  if (!has_program("groff")) GTEST_SKIP() << "groff is not installed";
  for (const std::string& path : cli::manual_paths(cli::all_commands())) {
    const ProcessResult page = test::run(
        {"/bin/sh", "-c", fmt::format("{} manual {} | groff -man -Tutf8 -ww", QUANTFIT_BINARY, path)});
    EXPECT_EQ(page.exit_code, 0) << path;
    EXPECT_EQ(page.err, "") << path;
    EXPECT_THAT(page.out, HasSubstr("(1)")) << path;
  }
}

// What bash offers behind these words.
std::string offered(const std::string& words) {
  const ProcessResult result = test::run({"bash", "--norc", "-c",
                                          fmt::format("source <({} completion bash); COMP_WORDS=({}); "
                                                      "COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); _quantfit; "
                                                      "echo \"${{COMPREPLY[*]}}\"",
                                                      QUANTFIT_BINARY, words)});
  EXPECT_EQ(result.err, "") << words;
  return result.out;
}

TEST(Completion, BashOffersWhatFits) {
  if (!has_program("bash")) GTEST_SKIP() << "bash is not installed";
  EXPECT_EQ(offered("quantfit quan"), "quantize\n");
  EXPECT_EQ(offered("quantfit quantize --target-b"), "--target-bpw\n");
  EXPECT_EQ(offered("quantfit quantize --effort ''"), "fast default max\n");
  EXPECT_EQ(offered("quantfit plan m.gguf --effort = f"), "fast\n");
  EXPECT_THAT(offered("quantfit plan --preset Q4_K"), HasSubstr("Q4_K_M"));
  EXPECT_EQ(offered("quantfit state mer"), "merge\n");
  EXPECT_EQ(offered("quantfit quantize --target-bpw ''"), "\n");
  const TemporaryFolder folder;
  test::write_file(folder / "a model.gguf", {});
  EXPECT_EQ(offered(fmt::format("quantfit quantize {}/a", folder.path().string())),
            (folder / "a model.gguf").string() + "\n");
  EXPECT_EQ(offered(fmt::format("quantfit quantize --imatrix {}/a", folder.path().string())),
            (folder / "a model.gguf").string() + "\n");
}

TEST(Completion, OtherShellsAcceptTheScripts) {
  const TemporaryFolder folder;
  for (const char* shell : {"zsh", "fish"}) {
    if (!has_program(shell)) continue;
    const ProcessResult checked = test::run(
        {"/bin/sh", "-c", fmt::format("{0} completion {1} > \"$0\" && {1} -n \"$0\"", QUANTFIT_BINARY, shell),
         (folder / "script").string()});
    EXPECT_EQ(checked.exit_code, 0) << shell << ": " << checked.err;
    EXPECT_EQ(checked.err, "") << shell;
  }
  if (!has_program("fish")) GTEST_SKIP() << "fish is not installed";
  const ProcessResult offered =
      test::run({"fish", "--no-config", "-c",
                 fmt::format("{} completion fish | source; complete -C 'quantfit quantize --effort '",
                             QUANTFIT_BINARY)});
  EXPECT_THAT(offered.out, HasSubstr("fast"));
  EXPECT_THAT(offered.out, HasSubstr("max"));
}

TEST(Completion, UnknownShellsAndPagesAreRefused) {
  EXPECT_EQ(test::run({QUANTFIT_BINARY, "completion", "tcsh"}).exit_code, 2);
  EXPECT_EQ(test::run({QUANTFIT_BINARY, "manual", "nonsense"}).exit_code, 2);
}

}  // namespace
}  // namespace quantfit
