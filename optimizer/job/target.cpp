#include "optimizer/job/target.h"

namespace quantfit::optimizer {

std::string to_text(const Target& target) {
  if (const auto* bpw = std::get_if<BpwTarget>(&target)) return bpw->text + " bpw";
  if (const auto* file = std::get_if<FileSizeTarget>(&target)) return "file of " + format_bytes(file->bytes);
  if (const auto* recipe = std::get_if<RecipeTarget>(&target)) return "recipe " + recipe->name;
  const MemoryRequest& request = std::get<MemoryTarget>(target).request;
  std::string text;
  if (request.vram_bytes) text += "VRAM of " + format_bytes(*request.vram_bytes);
  if (request.ram_bytes) text += (text.empty() ? "RAM of " : ", RAM of ") + format_bytes(*request.ram_bytes);
  return text;
}

}  // namespace quantfit::optimizer
