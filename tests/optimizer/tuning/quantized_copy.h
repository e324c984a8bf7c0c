// The trained example model in block formats, for tests of tuning.
#pragma once

#include <gtest/gtest.h>

#include <filesystem>
#include <functional>
#include <string_view>

#include "core/gguf_writer.h"
#include "kernels/row_quantizer.h"
#include "tests/optimizer/calibration/trained_text.h"

namespace quantfit::test {

// `source` with every matrix in the format that `format_of` gives for its name; others are copied.
[[nodiscard]] inline Model quantized_copy(const Model& source, const std::filesystem::path& path,
                                          const std::function<Format(std::string_view)>& format_of) {
  const kernels::RowKernels& kernels = *kernels::default_kernels().value();
  std::vector<TensorInfo> infos(source.tensors().begin(), source.tensors().end());
  for (TensorInfo& info : infos)
    if (info.significant_dims() > 1) info.format = format_of(info.name);
  auto writer = GgufWriter::create(path, source.metadata(), infos).value();
  for (std::size_t i = 0; i < infos.size(); ++i) {
    const TensorInfo& tensor = source.tensors()[i];
    if (infos[i].format == tensor.format) {
      EXPECT_TRUE(writer.append(source.data(tensor)));
      continue;
    }
    kernels::RowQuantizer quantizer(kernels, tensor.ne[0]);
    const kernels::ColumnMetric metric(tensor.ne[0], {}, {}, 1);
    std::vector<std::byte> row(row_bytes(infos[i].format, tensor.ne[0]).value());
    for (std::uint64_t r = 0; r < tensor.rows(); ++r) {
      EXPECT_TRUE(quantizer.load(tensor.format, source.row(tensor, r), metric));
      quantizer.encode(infos[i].format, kernels::Effort::Fast, row.data());
      EXPECT_TRUE(writer.append(row));
    }
  }
  EXPECT_TRUE(writer.commit());
  return Model::open(path).value();
}

// Few bits and every kind of scale: with minimum and without, of blocks and super-blocks.
[[nodiscard]] inline Format mixed_format(std::string_view name) {
  if (name.starts_with("token_embd")) return Format::Q2_K;
  if (name.starts_with("output")) return Format::Q4_1;
  if (name.find("attn_q") != name.npos) return Format::IQ1_M;
  if (name.find("attn") != name.npos) return Format::Q4_0;
  if (name.find("down") != name.npos) return Format::Q3_K;
  return Format::IQ2_XXS;
}

}  // namespace quantfit::test
