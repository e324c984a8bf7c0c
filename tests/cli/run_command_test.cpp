// The command that runs a file, and shells that read it back.

#include "cli/run_command.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/process.h"

namespace quantfit {
namespace {

using cli::llama_server_command;
using testing::ElementsAre;

TEST(RunCommand, SaysWhatWasPlanned) {
  EXPECT_THAT(llama_server_command(optimizer::BpwTarget{"4.5"}, 0, {}, "m.gguf"),
              ElementsAre("llama-server", "-m", "m.gguf"));
  optimizer::MemoryRequest request;
  request.vram_bytes = 24;
  EXPECT_THAT(llama_server_command(optimizer::MemoryTarget{request}, 4096, {}, "-m.gguf"),
              ElementsAre("llama-server", "-m", "./-m.gguf", "-c", "4096", "-np", "1", "-ngl", "999"));
  request.cache_type_k = Format::Q8_0;
  request.cache_type_v = Format::Q4_0;
  request.parallel = 4;
  request.ubatch = 4096;
  request.swa_full = true;
  request.gpu_layers = 7;
  request.cpu_moe = true;
  request.n_cpu_moe = 3;
  const std::vector<std::string> rules = {"ffn_.*_exps=CPU"};
  EXPECT_THAT(llama_server_command(optimizer::MemoryTarget{request}, 512, rules, "m.gguf"),
              ElementsAre("llama-server", "-m", "m.gguf", "-c", "512", "-ctk", "q8_0", "-ctv", "q4_0", "-fa",
                          "on", "-np", "4", "-b", "4096", "-ub", "4096", "--swa-full", "-ngl", "7",
                          "--cpu-moe", "--n-cpu-moe", "3", "-ot", "ffn_.*_exps=CPU"));
  optimizer::MemoryRequest ram;
  ram.ram_bytes = 64;
  EXPECT_THAT(llama_server_command(optimizer::MemoryTarget{ram}, 512, {}, "m.gguf"),
              ElementsAre("llama-server", "-m", "m.gguf", "-c", "512", "-np", "1", "-ngl", "0"));
}

TEST(RunCommand, ShellsReadItBack) {
  const std::vector<std::string> words = {"printf", "%s|", "a b",   "it's",  "$HOME", "`id`",
                                          "",       "*",   "a\\nb", "x=1;y", "-c",    "(|)"};
  const std::string text = cli::shell_text(words);
  std::string expected;
  for (std::size_t i = 2; i < words.size(); ++i) expected += words[i] + '|';
  EXPECT_EQ(test::run({"/bin/sh", "-c", text}).out, expected) << text;
  EXPECT_EQ(cli::shell_text(std::vector<std::string>{"a-b_c/d.gguf", "4.5%"}), "a-b_c/d.gguf 4.5%");
}

}  // namespace
}  // namespace quantfit
