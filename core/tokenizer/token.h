// What a text becomes: numbers of vocabulary entries.
#pragma once

#include <cstdint>

namespace quantfit {

using TokenId = std::uint32_t;

}  // namespace quantfit
