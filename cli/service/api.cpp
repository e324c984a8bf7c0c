#include "cli/service/api.h"

#include <fmt/format.h>

#include <algorithm>
#include <boost/asio/post.hpp>
#include <exception>
#include <nlohmann/json.hpp>
#include <utility>

#include "cli/report/json.h"
#include "cli/service/assets.h"
#include "cli/service/openapi.h"
#include "core/digest.h"

namespace quantfit::service {
namespace {

namespace asio = boost::asio;
using Json = nlohmann::ordered_json;

// The page loads its own files and talks to its own service, and nothing else; nobody frames it.
constexpr std::string_view kPagePolicy =
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "manifest-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
constexpr std::string_view kClosedPolicy = "default-src 'none'; frame-ancestors 'none'";

std::string_view type_of_asset(std::string_view name) {
  constexpr std::pair<std::string_view, std::string_view> kTypes[] = {
      {".html", "text/html; charset=utf-8"},
      {".css", "text/css; charset=utf-8"},
      {".js", "text/javascript; charset=utf-8"},
      {".svg", "image/svg+xml"},
      {".json", "application/json"},
      {".webmanifest", "application/manifest+json"},
      {".txt", "text/plain; charset=utf-8"},
  };
  for (const auto& [tail, type] : kTypes)
    if (name.ends_with(tail)) return type;
  return "application/octet-stream";
}

std::string tag_of(std::string_view text) {
  Digest digest;
  digest.text(text);
  return '"' + digest.hex() + '"';
}

Response answer(unsigned status, const Answer<Json>& result) {
  return result ? json_response(status, result.value()) : problem_response(result.error());
}

}  // namespace

struct Api::Call {
  Request request;
  RequestTarget target;
  Reply reply;

  // The value of a member of the query; empty where it is not given.
  [[nodiscard]] std::string query(std::string_view name) const {
    for (const auto& [key, value] : target.query)
      if (key == name) return value;
    return {};
  }
  // InvalidArgument for members that a path does not know.
  [[nodiscard]] Answer<void> only(std::initializer_list<std::string_view> known) const {
    for (const auto& [key, value] : target.query)
      if (std::ranges::find(known, key) == known.end())
        return problem(ProblemKind::InvalidArgument, fmt::format("the query has no member '{}' here", key));
    return outcome::success();
  }
};

// What a path answers to one method. In `pattern` a '*' stands for any segment.
struct Api::Route {
  std::string_view method;
  std::vector<std::string_view> pattern;
  void (*answer)(Api& api, Call& call);

  [[nodiscard]] bool matches(std::span<const std::string> path) const {
    if (path.size() != pattern.size()) return false;
    for (std::size_t i = 0; i < path.size(); ++i)
      if (pattern[i] != "*" && pattern[i] != path[i]) return false;
    return true;
  }
};

Api::Api(const Parts& parts) : parts_(parts), openapi_(cli::line_text(openapi_document())) {}

void Api::later(Reply reply, std::function<Response()> work) {
  asio::post(parts_.workers, [this, reply = std::move(reply), work = std::move(work)]() mutable {
    Response response;
    try {
      response = work();
    } catch (const std::bad_alloc&) {
      response = problem_response(problem(ProblemKind::Unavailable, "out of memory"));
    } catch (const std::exception& error) {  // from libraries that throw
      response = problem_response(problem(ProblemKind::Internal, error.what()));
    }
    asio::post(parts_.io,
               [reply = std::move(reply), response = std::make_shared<Response>(std::move(response))] {
                 reply(std::move(*response));
               });
  });
}

void Api::ask_planner(Call& call, std::string_view command) {
  later(call.reply, [this, command, body = std::move(call.request.body)] {
    Answer<Text> result = parts_.planner.answer(command, body);
    if (!result) return problem_response(result.error());
    Response response = text_response(200, "application/json", "");
    response.body = std::move(result).value();
    return response;
  });
}

void Api::handle(Request request, Reply reply) {
  const bool api = request.target.starts_with("/api/");
  Call call{std::move(request), {}, {}};
  // What every reply says.
  call.reply = [reply = std::move(reply), api](Response response) {
    const auto has = [&](std::string_view name) {
      return std::ranges::find(response.fields, name, &std::pair<std::string, std::string>::first) !=
             response.fields.end();
    };
    if (!has("Content-Security-Policy"))
      response.with("Content-Security-Policy", std::string(api ? kClosedPolicy : kPagePolicy));
    if (!has("Cache-Control")) response.with("Cache-Control", api ? "no-store" : "no-cache");
    response.with("X-Content-Type-Options", "nosniff");
    response.with("Referrer-Policy", "no-referrer");
    response.with("Cross-Origin-Resource-Policy", "same-origin");
    reply(std::move(response));
  };
  try {
    route(call);
  } catch (const std::exception& error) {
    call.reply(problem_response(problem(ProblemKind::Internal, error.what())));
  }
}

void Api::route(Call& call) {
  static const std::vector<Route> kRoutes = {
      {"GET",
       {"health"},
       [](Api&, Call& c) {
         c.reply(json_response(200, {{"status", "ok"}}));
       }},
      {"GET",
       {"version"},
       [](Api& api, Call& c) {
         Json roots = Json::array();
         for (const Root& root : api.parts_.roots.all())
           roots.push_back({{"name", root.name}, {"writable", root.writable}});
         c.reply(json_response(200, {{"program", "quantfit " QUANTFIT_VERSION},
                                     {"api", 1},
                                     {"roots", roots},
                                     {"needs_token", api.parts_.needs_token},
                                     {"jobs_at_a_time", api.parts_.shares.jobs},
                                     {"threads_per_job", api.parts_.shares.threads}}));
       }},
      {"GET",
       {"openapi.json"},
       [](Api& api, Call& c) { c.reply(text_response(200, "application/json", api.openapi_)); }},
      {"GET",
       {"metrics"},
       [](Api& api, Call& c) {
         c.reply(text_response(
             200, "text/plain; version=0.0.4; charset=utf-8",
             prometheus_text(api.parts_.metrics, api.parts_.planner.figures(), {api.parts_.jobs.counts()})));
       }},
      {"POST",
       {"session"},
       [](Api& api, Call& c) {
         auto cookie = api.parts_.access.open_session(c.request);
         if (!cookie) return c.reply(problem_response(cookie.error()));
         c.reply(empty_response(204).with("Set-Cookie", std::move(cookie).value()));
       }},
      {"DELETE",
       {"session"},
       [](Api& api, Call& c) {
         c.reply(empty_response(204).with("Set-Cookie", api.parts_.access.close_session(c.request)));
       }},
      {"GET",
       {"files"},
       [](Api& api, Call& c) {
         if (auto known = c.only({"kind"}); !known) return c.reply(problem_response(known.error()));
         api.later(c.reply, [&api, kind = c.query("kind")] {
           return json_response(200, api.parts_.catalog.files(kind));
         });
       }},
      {"GET",
       {"models"},
       [](Api& api, Call& c) {
         api.later(c.reply, [&api] { return json_response(200, api.parts_.catalog.models()); });
       }},
      {"GET",
       {"models", "inspect"},
       [](Api& api, Call& c) {
         if (auto known = c.only({"file", "metadata"}); !known)
           return c.reply(problem_response(known.error()));
         api.later(c.reply, [&api, file = c.query("file"), metadata = c.query("metadata") == "true"] {
           return answer(200, api.parts_.catalog.inspect(file, metadata));
         });
       }},
      {"POST", {"plan"}, [](Api& api, Call& c) { api.ask_planner(c, "plan"); }},
      {"POST", {"frontier"}, [](Api& api, Call& c) { api.ask_planner(c, "frontier"); }},
      {"GET",
       {"jobs"},
       [](Api& api, Call& c) {
         if (auto known = c.only({"status", "limit", "before"}); !known)
           return c.reply(problem_response(known.error()));
         c.reply(answer(200, api.parts_.jobs.list(c.query("status"), c.query("before"), c.query("limit"))));
       }},
      {"POST",
       {"jobs"},
       [](Api& api, Call& c) {
         auto created = api.parts_.jobs.create(c.request.body, c.request.idempotency_key);
         if (!created) return c.reply(problem_response(created.error()));
         const Json& job = created.value().job;
         c.reply(json_response(created.value().before ? 200 : 201, job)
                     .with("Location", "/api/v1/jobs/" + job["id"].get<std::string>()));
       }},
      {"GET",
       {"jobs", "*"},
       [](Api& api, Call& c) { c.reply(answer(200, api.parts_.jobs.show(c.target.segments[3]))); }},
      {"DELETE",
       {"jobs", "*"},
       [](Api& api, Call& c) {
         auto removed = api.parts_.jobs.remove(c.target.segments[3]);
         c.reply(removed ? empty_response(204) : problem_response(removed.error()));
       }},
      {"POST",
       {"jobs", "*", "cancel"},
       [](Api& api, Call& c) { c.reply(answer(200, api.parts_.jobs.cancel(c.target.segments[3]))); }},
      {"POST",
       {"jobs", "*", "retry"},
       [](Api& api, Call& c) { c.reply(answer(200, api.parts_.jobs.retry(c.target.segments[3]))); }},
      {"GET",
       {"jobs", "*", "events"},
       [](Api& api, Call& c) {
         auto stream = api.events(c);
         c.reply(stream ? std::move(stream).value() : problem_response(stream.error()));
       }},
      {"GET",
       {"jobs", "*", "results"},
       [](Api& api, Call& c) { c.reply(answer(200, api.parts_.jobs.results(c.target.segments[3]))); }},
      {"GET",
       {"jobs", "*", "results", "*"},
       [](Api& api, Call& c) {
         auto file = api.parts_.jobs.result(c.target.segments[3], c.target.segments[5], c.request);
         c.reply(file ? std::move(file).value() : problem_response(file.error()));
       }},
      {"GET",
       {"jobs", "*", "results", "*", "*"},
       [](Api& api, Call& c) {
         const std::string name = c.target.segments[5] + '/' + c.target.segments[6];
         auto file = api.parts_.jobs.result(c.target.segments[3], name, c.request);
         c.reply(file ? std::move(file).value() : problem_response(file.error()));
       }},
  };
  const Request& request = call.request;
  if (auto source = parts_.access.check_source(request); !source)
    return call.reply(problem_response(source.error()));
  auto target = parse_target(request.target);
  if (!target) return call.reply(problem_response(target.error()));
  call.target = std::move(target).value();
  const std::vector<std::string>& path = call.target.segments;
  const std::string method = request.method == "HEAD" ? "GET" : request.method;
  if (path.empty() || path[0] != "api") {
    if (method != "GET")
      return call.reply(problem_response(problem(ProblemKind::MethodNotAllowed, "only GET is answered here"))
                            .with("Allow", "GET, HEAD"));
    if (path.size() <= 1) return call.reply(page(path.empty() ? "index.html" : path[0], request));
  }
  const bool versioned = path.size() > 2 && path[0] == "api" && path[1] == "v1";
  const std::span<const std::string> rest =
      versioned ? std::span(path).subspan(2) : std::span<const std::string>();
  const bool open_to_all = versioned && rest.size() == 1 && (rest[0] == "health" || rest[0] == "session");
  if (!open_to_all)
    if (auto client = parts_.access.check_client(request); !client)
      return call.reply(problem_response(client.error()));
  if (!request.body.empty() && !is_json(request.content_type))
    return call.reply(problem_response(
        problem(ProblemKind::UnsupportedMediaType, "a body is expected as application/json")));
  std::string allowed;
  for (const Route& one : kRoutes) {
    if (!versioned || !one.matches(rest)) continue;
    if (one.method == method) return one.answer(*this, call);
    allowed += fmt::format("{}{}", allowed.empty() ? "" : ", ", one.method);
  }
  if (allowed.empty())
    return call.reply(problem_response(problem(ProblemKind::NotFound, "there is nothing at this address")));
  call.reply(problem_response(
                 problem(ProblemKind::MethodNotAllowed, fmt::format("only {} is answered here", allowed)))
                 .with("Allow", allowed));
}

Answer<Response> Api::events(Call& call) {
  QF_TRY(call.only({"after"}));
  const std::string& id = call.target.segments[3];
  const std::string after =
      call.request.last_event_id.empty() ? call.query("after") : call.request.last_event_id;
  const auto number = after.empty() ? std::optional<std::uint64_t>(0) : parse_whole_number(after);
  if (!number) return problem(ProblemKind::InvalidArgument, "Last-Event-ID: a whole number is expected");
  QF_ASSIGN(const Json job, parts_.jobs.show(id));
  const bool over = job["status"] != "queued" && job["status"] != "running";
  // Browsers come back whenever a stream ends, until they are told that there is nothing more.
  if (over && !after.empty() && *number >= parts_.events.last(id)) return empty_response(204);
  if (parts_.metrics.streams >= parts_.limits.streams)
    return problem(ProblemKind::Busy,
                   fmt::format("{} streams of events are open already", parts_.metrics.streams));
  Response response;
  response.with("Content-Type", "text/event-stream");
  response.with("X-Accel-Buffering", "no");
  std::string text = cli::line_text(job);
  text.pop_back();
  response.body = EventBody{id, *number, fmt::format("retry: 2000\n\nevent: job\ndata: {}\n\n", text)};
  return response;
}

Response Api::page(const std::string& name, const Request& request) const {
  std::string_view text;
  bool found = false;
  for (const Asset& asset : page_assets())
    if (asset.name == name) {
      text = asset.text;
      found = true;
    }
  if (!found) return problem_response(problem(ProblemKind::NotFound, "there is nothing at this address"));
  const std::string tag = tag_of(text);
  if (matches_tag(request.if_none_match, tag)) return empty_response(304).with("ETag", tag);
  return text_response(200, std::string(type_of_asset(name)), std::string(text)).with("ETag", tag);
}

}  // namespace quantfit::service
