// One digest of what every encoder writes, the same on every machine: tables of one machine are compared with
// each other elsewhere, here those of different machines.
#include <gtest/gtest.h>

#include <random>
#include <span>
#include <vector>

#include "core/digest.h"
#include "core/format.h"
#include "kernels/row_kernels.h"
#include "kernels/row_quantizer.h"

namespace quantfit::kernels {
namespace {

// Changes when bytes of any format change, and then kEncoderVersion does too.
constexpr std::string_view kDigest = "0c2c467bd3e8d92b9e6337930686a9fa";

TEST(EncodedBytes, AreTheSameOnEveryMachine) {
  constexpr std::size_t kColumns = 1024;
  for (const RowKernels& table : runnable_kernels()) {
    std::mt19937 random(7);  // the standard says what it gives
    Digest digest;
    RowQuantizer quantizer(table, kColumns);
    for (int row = 0; row < 4; ++row) {
      std::vector<float> x(kColumns), moments(kColumns), means(kColumns);
      for (std::size_t i = 0; i < kColumns; ++i) {
        const float value = static_cast<float>(static_cast<int>(random() % 20001) - 10000) * 1e-4F;
        x[i] = value * (random() % 50 == 0 ? 9.0F : 1.0F);
        means[i] = static_cast<float>(static_cast<int>(random() % 2001) - 1000) * 1e-3F;
        moments[i] = means[i] * means[i] + static_cast<float>(random() % 1000 + 1) * 1e-3F;
      }
      const ColumnMetric metric(kColumns, moments, means, 5.0F, nullptr);
      for (const FormatTraits& format : all_formats()) {
        if (!quantizer.can_encode(format.format)) continue;
        for (const Effort effort : {Effort::Fast, Effort::Default}) {
          ASSERT_TRUE(quantizer.load(Format::F32, std::as_bytes(std::span(x)), metric));
          std::vector<std::byte> bytes(row_bytes(format.format, kColumns).value());
          quantizer.encode(format.format, effort, bytes.data());
          digest.bytes(bytes);
        }
      }
    }
    EXPECT_EQ(digest.hex(), kDigest) << table.isa;
  }
}

}  // namespace
}  // namespace quantfit::kernels
