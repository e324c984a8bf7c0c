// What only Linux has, in one place: another system needs these few functions written anew, and nothing else.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace quantfit::port {

// A file open for writing that has no name yet and vanishes with its last descriptor. -1 where the folder's
// file system knows no such files; callers then make one with a name.
[[nodiscard]] int open_unnamed(const char* folder);

// Gives an open file the name `name`, which must be free. 0 or an error number, EEXIST when it is not.
[[nodiscard]] int name_open_file(int file, const char* name);

// Renames unless something has the new name, even a link that leads nowhere: then EEXIST. Otherwise 0 or an
// error number. Atomic where the system or the file system can do it, and by a look beforehand elsewhere.
[[nodiscard]] int rename_to_free_name(const char* from, const char* to);

// Fills `bytes` with numbers that nobody can guess; 0 or an error number.
[[nodiscard]] int random_bytes(std::span<std::byte> bytes);

// Hints. Begins to write bytes of the file to the disk; waits until they are written and forgets their pages.
void begin_writing(int file, std::uint64_t offset, std::uint64_t bytes);
void finish_writing(int file, std::uint64_t offset, std::uint64_t bytes);

}  // namespace quantfit::port
