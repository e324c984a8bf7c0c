# Man pages and completion scripts, written by the program itself into FOLDER. Run with -DQUANTFIT=program, or
# an emulator, its arguments and the program.
function(write path)
  execute_process(COMMAND ${QUANTFIT} ${ARGN} OUTPUT_VARIABLE text COMMAND_ERROR_IS_FATAL ANY)
  file(WRITE ${FOLDER}/${path} "${text}")
endfunction()

file(REMOVE_RECURSE ${FOLDER})
execute_process(COMMAND ${QUANTFIT} manual --names OUTPUT_VARIABLE names OUTPUT_STRIP_TRAILING_WHITESPACE
                COMMAND_ERROR_IS_FATAL ANY)
string(REPLACE "\n" ";" names "${names}")
foreach(name IN LISTS names)
  string(REGEX REPLACE "^quantfit-?" "" words "${name}")
  string(REPLACE "-" ";" words "${words}")
  write(man/man1/${name}.1 manual ${words})
endforeach()
write(bash-completion/completions/quantfit completion bash)
write(zsh/site-functions/_quantfit completion zsh)
write(fish/vendor_completions.d/quantfit.fish completion fish)
