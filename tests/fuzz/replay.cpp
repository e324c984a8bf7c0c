// The fuzz targets without a fuzzer: every file of the given folders, whole, cut short and with a few bytes
// changed in fixed ways. usage: fuzz_replay TARGET MUTATIONS FOLDER_OR_FILE...

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <string_view>
#include <vector>

using Target = int (*)(const std::uint8_t*, std::size_t);

#define QF_FUZZ_TARGET(name) extern "C" int fuzz_##name(const std::uint8_t* data, std::size_t size);
#include "fuzz_targets.inc"
#undef QF_FUZZ_TARGET

namespace {

struct Entry {
  std::string_view name;
  Target run;
};
constexpr Entry kTargets[] = {
#define QF_FUZZ_TARGET(name) {#name, fuzz_##name},
#include "fuzz_targets.inc"
#undef QF_FUZZ_TARGET
};

std::vector<std::uint8_t> read(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

// One of the changes that a fuzzer makes: cut, byte replaced, bit turned, number made extreme, part repeated.
std::vector<std::uint8_t> mutated(std::vector<std::uint8_t> bytes, std::mt19937& random) {
  if (bytes.empty()) return bytes;
  const std::size_t at = random() % bytes.size();
  switch (random() % 5) {
    case 0:
      bytes.resize(at);
      break;
    case 1:
      bytes[at] = static_cast<std::uint8_t>(random());
      break;
    case 2:
      bytes[at] ^= static_cast<std::uint8_t>(1U << (random() % 8));
      break;
    case 3: {
      const std::uint8_t extreme = random() % 2 == 0 ? 0xFF : 0x00;
      for (std::size_t i = at; i < std::min(bytes.size(), at + 8); ++i) bytes[i] = extreme;
      break;
    }
    default: {
      const std::size_t end = std::min(bytes.size(), at + 1 + random() % 64);
      const std::vector<std::uint8_t> part(bytes.begin() + static_cast<std::ptrdiff_t>(at),
                                           bytes.begin() + static_cast<std::ptrdiff_t>(end));
      bytes.insert(bytes.begin() + static_cast<std::ptrdiff_t>(end), part.begin(), part.end());
    }
  }
  return bytes;
}

}  // namespace

int main(int argc, char** argv) {
  const Entry* target = nullptr;
  for (const Entry& entry : kTargets)
    if (argc >= 4 && entry.name == argv[1]) target = &entry;
  if (target == nullptr) {
    std::fprintf(stderr, "usage: fuzz_replay TARGET MUTATIONS FOLDER_OR_FILE...; targets:");
    for (const Entry& entry : kTargets) std::fprintf(stderr, " %s", entry.name.data());
    std::fputc('\n', stderr);
    return 2;
  }
  const int mutations = std::atoi(argv[2]);
  std::vector<std::filesystem::path> files;
  for (int i = 3; i < argc; ++i) {
    if (!std::filesystem::is_directory(argv[i])) {
      files.emplace_back(argv[i]);
      continue;
    }
    for (const auto& file : std::filesystem::recursive_directory_iterator(argv[i]))
      if (file.is_regular_file()) files.push_back(file.path());
  }
  std::ranges::sort(files);
  if (files.empty()) {
    std::fprintf(stderr, "%s: no inputs\n", argv[1]);
    return 1;
  }
  for (std::size_t i = 0; i < files.size(); ++i) {
    const std::vector<std::uint8_t> bytes = read(files[i]);
    std::fprintf(stderr, "%s: %s\n", argv[1], files[i].c_str());  // the last line names what broke
    target->run(bytes.data(), bytes.size());
    std::mt19937 random(static_cast<std::mt19937::result_type>(i));
    for (int round = 0; round < mutations; ++round) {
      const std::vector<std::uint8_t> other = mutated(bytes, random);
      target->run(other.data(), other.size());
    }
  }
  std::printf("%s: %zu inputs, %d variants of each\n", argv[1], files.size(), mutations);
  return 0;
}
