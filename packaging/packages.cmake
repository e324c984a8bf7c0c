# What is installed besides the program, and packages by cpack: `cpack -G DEB` and `cpack -G TGZ` in the build folder.
include(GNUInstallDirs)

set(documentation ${CMAKE_INSTALL_DATADIR}/doc/quantfit)
install(FILES ${CMAKE_SOURCE_DIR}/README.md DESTINATION ${documentation})
install(FILES ${CMAKE_SOURCE_DIR}/packaging/copyright DESTINATION ${documentation})
install(DIRECTORY ${CMAKE_SOURCE_DIR}/docs/ DESTINATION ${documentation}/docs)

# The texts of the licences of libraries that are compiled in, as Debian ships them.
foreach(library libcli11-dev nlohmann-json3-dev libboost1.74-dev libfmt-dev libhwy-dev libtbb-dev libsqlite3-dev
                libxxhash-dev libpcre2-dev)
  if(EXISTS ${CMAKE_SYSROOT}/usr/share/doc/${library}/copyright)
    install(FILES ${CMAKE_SYSROOT}/usr/share/doc/${library}/copyright DESTINATION ${documentation}/licences RENAME ${library}.txt)
  endif()
endforeach()

# The program is all that a package needs: neither tests nor benchmarks are built for one.
set(CMAKE_SKIP_INSTALL_ALL_DEPENDENCY ON)

set(CPACK_PACKAGE_NAME quantfit)
set(CPACK_PACKAGE_VENDOR "the quantfit authors")
set(CPACK_PACKAGE_CONTACT "the quantfit authors <quantfit@localhost>")
set(CPACK_PACKAGE_DESCRIPTION_SUMMARY "fits a language model into an exact number of bits")
set(CPACK_RESOURCE_FILE_LICENSE ${CMAKE_SOURCE_DIR}/LICENSE)
set(CPACK_STRIP_FILES ON)
set(CPACK_PACKAGE_CHECKSUM SHA256)
# The same commit gives the same bytes: files carry the time of the commit that is packed, not that of the build.
file(WRITE ${CMAKE_BINARY_DIR}/package_time.cmake "if(NOT DEFINED ENV{SOURCE_DATE_EPOCH})
  execute_process(COMMAND git log -1 --format=%ct WORKING_DIRECTORY \"${CMAKE_SOURCE_DIR}\" OUTPUT_VARIABLE epoch
                  OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
  if(epoch)
    set(ENV{SOURCE_DATE_EPOCH} \${epoch})
  endif()
endif()\n")
set(CPACK_PROJECT_CONFIG_FILE ${CMAKE_BINARY_DIR}/package_time.cmake)

set(CPACK_DEBIAN_PACKAGE_SECTION science)
if(CMAKE_CROSSCOMPILING)
  # What the libraries are called is known to the other machine's dpkg only; these are what it says for amd64.
  set(CPACK_DEBIAN_PACKAGE_ARCHITECTURE arm64)
  set(CPACK_DEBIAN_PACKAGE_DEPENDS "libboost-regex1.74.0-icu72, libc6 (>= 2.34), libfmt9 (>= 9.1.0+ds1), libgcc-s1 (>= 3.4), \
libhwy1 (>= 0.16.0), libpcre2-8-0 (>= 10.32), libsqlite3-0 (>= 3.12.0), libstdc++6 (>= 11), libtbb12 (>= 2021.4.0), \
libxxhash0 (>= 0.8.0)")
else()
  set(CPACK_DEBIAN_PACKAGE_SHLIBDEPS ON)
endif()
set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
set(CPACK_DEBIAN_PACKAGE_DESCRIPTION "Quantizes GGUF models to an exact size, with the lowest error that fits.
It measures what every GGUF format costs every tensor, chooses the best mix for a size or a memory, proves how
near to optimal that is, and writes a file that llama.cpp loads.")
set(CPACK_INSTALL_PREFIX /usr)
set(CPACK_PACKAGING_INSTALL_PREFIX /usr)
include(CPack)
