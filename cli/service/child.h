// A job's process: this program again, with the words of a command line.
#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

#include "cli/service/roots.h"
#include "core/error.h"

namespace quantfit::service {

struct Child {
  pid_t process = -1;
  Descriptor out, err;  // what it prints; end when it does
};

// Starts the program in the present working folder with these words behind its name. It is killed when the
// calling thread ends, however that ends; `inherited` (a lock) stays open in it as long as it runs. It is a
// process group of its own, and the first that the system ends when memory runs out. Io.
[[nodiscard]] Result<Child> start_child(const std::vector<std::string>& words, int inherited);

}  // namespace quantfit::service
