// What clients may take: every connection and stream is bounded in bytes and time.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>

namespace quantfit::service {

struct Limits {
  std::size_t connections = 2048;
  std::size_t streams = 1200;              // of events, in connections
  std::uint32_t header_bytes = 16U << 10;  // request line included
  std::uint64_t body_bytes = std::uint64_t{256} << 10;
  std::chrono::seconds header_time{10};  // from its first byte to its last
  std::chrono::seconds body_time{20};    // likewise
  std::chrono::seconds idle_time{60};    // between requests
  std::chrono::seconds write_time{30};   // for a piece of a reply to be taken
  std::chrono::seconds heartbeat{15};    // comments in a silent stream
};

}  // namespace quantfit::service
