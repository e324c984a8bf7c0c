// The service as a whole: put together, run until it is told to stop.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "cli/console.h"
#include "core/error.h"

namespace quantfit::service {

struct ServiceOptions {
  std::vector<std::string> roots;
  std::string listen = "127.0.0.1:7340";
  std::string token_file;
  bool insecure = false;
  std::vector<std::string> hosts;
  std::string data;  // folder of the service's own files; empty: in the first writable root
  unsigned jobs = 1;
  unsigned threads = 0;         // of all jobs together; 0: all cores
  std::uint64_t memory = 0;     // likewise, bytes; 0: no limit
  std::size_t connections = 0;  // 0: the usual number
  std::size_t streams = 0;
  unsigned request_seconds = 0;  // for a header, and twice that for a body; 0: the usual time
};

// Until a signal comes. Prints the address on standard output once it listens. Errors of what it needs:
// roots, address, token file, its own files.
[[nodiscard]] Result<void> run_service(const ServiceOptions& options, cli::Console& console);

}  // namespace quantfit::service
