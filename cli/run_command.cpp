#include "cli/run_command.h"

#include <algorithm>
#include <variant>

#include "core/format.h"
#include "core/text.h"

namespace quantfit::cli {
namespace {

// More layers than any model has: all of them on the GPU.
constexpr const char* kAllLayers = "999";

bool is_harmless(char letter) {
  constexpr std::string_view kHarmless = "+,-./:=@_%";
  return (letter >= 'a' && letter <= 'z') || (letter >= 'A' && letter <= 'Z') ||
         (letter >= '0' && letter <= '9') || kHarmless.find(letter) != std::string_view::npos;
}

}  // namespace

std::vector<std::string> llama_server_command(const optimizer::Target& target, std::uint64_t ctx_size,
                                              std::span<const std::string> overrides,
                                              const std::string& file) {
  // A name that starts with a dash would be read as an option.
  std::vector<std::string> words = {"llama-server", "-m", file.starts_with('-') ? "./" + file : file};
  const auto* memory = std::get_if<optimizer::MemoryTarget>(&target);
  if (memory == nullptr) return words;
  const optimizer::MemoryRequest& request = memory->request;
  const auto add = [&](const char* option, std::string value) {
    words.emplace_back(option);
    words.push_back(std::move(value));
  };
  if (ctx_size != 0) add("-c", std::to_string(ctx_size));
  const auto type = [](Format format) { return to_lower(name_of(format)); };
  if (request.cache_type_k != Format::F16) add("-ctk", type(request.cache_type_k));
  if (request.cache_type_v != Format::F16) {
    add("-ctv", type(request.cache_type_v));
    add("-fa", "on");  // without it llama.cpp refuses quantized values
  }
  add("-np", std::to_string(request.parallel));
  const optimizer::MemoryRequest usual;
  if (request.ubatch != usual.ubatch) {
    add("-b", std::to_string(std::max<std::uint64_t>(request.ubatch, 2048)));
    add("-ub", std::to_string(request.ubatch));
  }
  if (request.swa_full) words.emplace_back("--swa-full");
  add("-ngl", !request.vram_bytes  ? "0"
              : request.gpu_layers ? std::to_string(*request.gpu_layers)
                                   : kAllLayers);
  if (request.cpu_moe) words.emplace_back("--cpu-moe");
  if (request.n_cpu_moe != 0) add("--n-cpu-moe", std::to_string(request.n_cpu_moe));
  for (const std::string& rules : overrides) add("-ot", rules);
  return words;
}

std::string shell_text(std::span<const std::string> words) {
  std::string text;
  for (const std::string& word : words) {
    if (!text.empty()) text += ' ';
    if (!word.empty() && std::ranges::all_of(word, is_harmless)) {
      text += word;
      continue;
    }
    text += '\'';
    for (const char letter : word)
      if (letter == '\'')
        text += "'\\''";
      else
        text += letter;
    text += '\'';
  }
  return text;
}

}  // namespace quantfit::cli
