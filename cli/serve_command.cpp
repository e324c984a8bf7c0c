// `quantfit serve`: jobs over HTTP, and a page for people.
#include <memory>

#include "cli/commands.h"
#include "cli/exit_code.h"
#include "cli/job_options.h"
#include "cli/service/service.h"
#include "core/byte_size.h"

namespace quantfit::cli {
namespace {

struct ServeOptions {
  service::ServiceOptions service;
  std::string memory;
};

constexpr double kMostJobs = 64;
constexpr double kMostConnections = 100'000;

int serve(ServeOptions& options, Console& console) {
  if (!options.memory.empty()) {
    const auto bytes = parse_byte_size(options.memory);
    if (!bytes) return console.fail(fail(bytes.error().code, "--memory: {}", bytes.error().message));
    options.service.memory = bytes.value();
  }
  if (auto done = service::run_service(options.service, console); !done) return console.fail(done.error());
  return kDone;
}

}  // namespace

Command make_serve_command() {
  auto options = std::make_shared<ServeOptions>();
  service::ServiceOptions& o = options->service;
  Command command;
  command.name = "serve";
  command.sentence = "Run as a service: jobs over HTTP, and a page for a browser";
  command.notes = {
      "Example, then open the address that is printed:", "  quantfit serve --root /srv/models", "",
      "Only files beneath the roots are read, written, listed or named. Jobs survive whatever happens to "
      "the service: after the next start they go on. The interface is described at /api/v1/openapi.json."};
  OptionTable& table = command.table;
  table
      .add("--root", o.roots, "[NAME=]FOLDER[:ro]",
           "a folder of models, texts, state files and results; several may be given. :ro: nothing is "
           "written there")
      .needed()
      .folder();
  table.add("--listen", o.listen, "ADDRESS:PORT", "where to listen; port 0: a free one");
  table
      .add("--token-file", o.token_file, "FILE",
           "answer only those who send one of these tokens, one a line; needed for other addresses than "
           "loopback")
      .file();
  table
      .flag("--insecure", o.insecure,
            "listen on other addresses than loopback without tokens: everybody may do everything")
      .not_with("--token-file");
  table.add("--host", o.hosts, "NAME",
            "a name by which the service is reached through a proxy; requests for other names are refused");
  table.add("--data", o.data, "FOLDER", "where the queue and the history of jobs are kept")
      .default_is("$STATE_DIRECTORY, or .quantfit in the first root that may be written to")
      .folder();
  table.group("Work");
  table.add("--jobs", o.jobs, "N", "jobs that compute at a time; threads and memory are shared out")
      .range(1, kMostJobs);
  add_threads_option(table, o.threads, "threads of all jobs together");
  table.add("--memory", options->memory, "SIZE", "memory of all jobs together that running a model may take")
      .in("bytes")
      .default_is("what makes it fast");
  table.group("Limits");
  table.add("--max-connections", o.connections, "N", "connections at a time")
      .range(1, kMostConnections)
      .default_is("2048");
  table.add("--max-streams", o.streams, "N", "of them, streams of events")
      .range(1, kMostConnections)
      .default_is("1200");
  table
      .add("--request-seconds", o.request_seconds, "N",
           "time that the header of a request may take to come, its body has twice as long")
      .range(1, 3600)
      .default_is("10");
  add_console_options(table, *command.console);
  command.run = [options](Console& console) { return serve(*options, console); };
  return command;
}

}  // namespace quantfit::cli
