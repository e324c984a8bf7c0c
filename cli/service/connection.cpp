#include "cli/service/connection.h"

#include <fmt/format.h>
#include <unistd.h>

#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/write.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/read.hpp>
#include <boost/beast/http/string_body.hpp>
#include <chrono>
#include <optional>

#include "core/text.h"

namespace quantfit::service {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = boost::beast::http;
using Clock = std::chrono::steady_clock;

constexpr std::size_t kReadAhead = 4096;
constexpr std::size_t kFilePiece = std::size_t{256} << 10;
// What is still read from a client whose request was refused, so that it sees the reply.
constexpr std::size_t kMostDrained = std::size_t{1} << 20;
constexpr std::chrono::seconds kDrainTime{2};

std::string_view reason_of(unsigned status) {
  const auto reason = http::obsolete_reason(static_cast<http::status>(status));
  return {reason.data(), reason.size()};
}

class HttpConnection final : public Connection, public std::enable_shared_from_this<HttpConnection> {
 public:
  HttpConnection(asio::ip::tcp::socket socket, Shared& shared, std::function<void(Connection*)> gone)
      : stream_(std::move(socket)),
        buffer_(shared.limits.header_bytes + kReadAhead),
        timer_(stream_.get_executor()),
        shared_(shared),
        gone_(std::move(gone)) {
    boost::system::error_code ignored;
    remote_ = stream_.socket().remote_endpoint(ignored).address().to_string(ignored);
    ++shared_.metrics.connections;
  }

  ~HttpConnection() override {
    --shared_.metrics.connections;
    if (streaming_) --shared_.metrics.streams;
    gone_(this);
  }
  HttpConnection(const HttpConnection&) = delete;
  HttpConnection& operator=(const HttpConnection&) = delete;

  void start() override { wait_for_request(); }

  void wind_up() override {
    winding_up_ = true;
    if (waiting_ || streaming_) close();
  }

  void cut_off() override { close(); }

 private:
  // Binds a member function to the connection's life.
  template <class Function>
  auto then(Function function) {
    return [self = shared_from_this(), function](auto&&... values) {
      (self.get()->*function)(std::forward<decltype(values)>(values)...);
    };
  }

  void close() {
    waiting_ = false;
    timer_.cancel();
    if (waiter_) shared_.events.stop_waiting(events_.job, *std::exchange(waiter_, std::nullopt));
    boost::system::error_code ignored;
    stream_.socket().shutdown(asio::ip::tcp::socket::shutdown_both, ignored);
    stream_.close();
  }

  void wait_for_request() {
    if (winding_up_) return close();
    if (buffer_.size() != 0) return read_header();
    waiting_ = true;
    stream_.expires_after(shared_.limits.idle_time);
    stream_.async_read_some(buffer_.prepare(kReadAhead), then(&HttpConnection::on_first_bytes));
  }

  void on_first_bytes(boost::system::error_code error, std::size_t count) {
    waiting_ = false;
    if (error) return close();
    buffer_.commit(count);
    read_header();
  }

  // Time for what is read next. The stream's own clock would close the socket, and take the reply away.
  void allow(std::chrono::seconds time) {
    reading_ = true;
    too_slow_ = false;
    stream_.expires_never();
    timer_.expires_after(time);
    timer_.async_wait([self = shared_from_this()](boost::system::error_code stopped) {
      // It may have been set anew, or be needed no more, while this was on its way.
      if (stopped || !self->reading_ || Clock::now() < self->timer_.expiry()) return;
      self->too_slow_ = true;
      self->stream_.cancel();
    });
  }

  void read_header() {
    parser_.emplace();
    parser_->header_limit(shared_.limits.header_bytes);
    parser_->body_limit(shared_.limits.body_bytes);
    allow(shared_.limits.header_time);
    http::async_read_header(stream_, buffer_, *parser_, then(&HttpConnection::on_header));
  }

  void on_header(boost::system::error_code error, std::size_t /*count*/) {
    started_ = Clock::now();
    if (error) return refuse(error);
    allow(shared_.limits.body_time);
    if (beast::iequals(parser_->get()[http::field::expect], "100-continue") && !parser_->is_done()) {
      static constexpr std::string_view kContinue = "HTTP/1.1 100 Continue\r\n\r\n";
      asio::async_write(stream_, asio::buffer(kContinue), then(&HttpConnection::on_continued));
      return;
    }
    read_body();
  }

  void on_continued(boost::system::error_code error, std::size_t /*count*/) {
    if (error) return close();
    read_body();
  }

  void read_body() { http::async_read(stream_, buffer_, *parser_, then(&HttpConnection::on_request)); }

  void on_request(boost::system::error_code error, std::size_t /*count*/) {
    if (error) return refuse(error);
    reading_ = false;
    timer_.cancel();
    auto& message = parser_->get();
    Request request;
    const auto method = message.method_string();
    request.method = std::string(method.data(), method.size());
    request.target = std::string(message.target().data(), message.target().size());
    const auto field = [&](auto name) {
      const auto value = message[name];
      return std::string(value.data(), value.size());
    };
    request.host = field(http::field::host);
    request.one_host = message.count(http::field::host) == 1;
    request.origin = field(http::field::origin);
    request.fetch_site = field("Sec-Fetch-Site");
    request.authorization = field(http::field::authorization);
    request.cookie = field(http::field::cookie);
    request.content_type = field(http::field::content_type);
    request.idempotency_key = field("Idempotency-Key");
    request.last_event_id = field("Last-Event-ID");
    request.range = field(http::field::range);
    request.if_range = field(http::field::if_range);
    request.if_none_match = field(http::field::if_none_match);
    request.body = std::move(message.body());
    request.remote = remote_;
    method_ = request.method;
    path_ = request.target.substr(0, request.target.find('?'));
    keep_alive_ = parser_->keep_alive();
    parser_.reset();
    shared_.handler.handle(std::move(request), [self = shared_from_this()](Response response) {
      self->reply(std::move(response));
    });
  }

  // A request that is no HTTP, or too long, or too slow.
  void refuse(boost::system::error_code error) {
    reading_ = false;
    timer_.cancel();
    if (std::exchange(too_slow_, false)) {
      ++shared_.metrics.timeouts;
      return refuse(problem(ProblemKind::TooSlow, "the request took too long to come"));
    }
    const bool gone = error == http::error::end_of_stream || error == asio::error::connection_reset ||
                      error == asio::error::broken_pipe || error == asio::error::operation_aborted;
    if (gone) return close();
    ++shared_.metrics.requests_malformed;
    if (error == http::error::header_limit || error == http::error::buffer_overflow)
      return refuse(problem(ProblemKind::TooLarge, "the request's header is too long"), 431);
    if (error == http::error::body_limit)
      return refuse(problem(ProblemKind::TooLarge, fmt::format("the request's body is longer than {} bytes",
                                                               shared_.limits.body_bytes)));
    refuse(problem(ProblemKind::InvalidArgument, "the request is no HTTP"));
  }

  // Replies to what could not be read to its end; nothing more is read on this connection.
  void refuse(const Problem& why, unsigned status = 0) {
    method_ = "-";
    path_ = "-";
    keep_alive_ = false;
    drain_ = true;
    Response response = problem_response(why);
    if (status != 0) response.status = status;
    reply(std::move(response));
  }

  void reply(Response response) {
    const double seconds = std::chrono::duration<double>(Clock::now() - started_).count();
    shared_.metrics.count_answer(seconds);
    ++shared_.metrics.responses[response.status];
    response_ = std::move(response);
    const bool head = method_ == "HEAD";
    if (response_.close || winding_up_) keep_alive_ = false;
    std::uint64_t length = 0;
    if (const auto* text = std::get_if<Text>(&response_.body)) length = *text ? (*text)->size() : 0;
    if (const auto* file = std::get_if<FileBody>(&response_.body)) length = file->length;
    auto* const events = std::get_if<EventBody>(&response_.body);
    if (events != nullptr) keep_alive_ = false;
    header_ = fmt::format("HTTP/1.1 {} {}\r\n", response_.status, reason_of(response_.status));
    for (const auto& [name, value] : response_.fields) header_ += fmt::format("{}: {}\r\n", name, value);
    if (events == nullptr && response_.status != 204 && response_.status != 304)
      header_ += fmt::format("Content-Length: {}\r\n", length);
    if (!keep_alive_) header_ += "Connection: close\r\n";
    header_ += "\r\n";
    sent_ = 0;
    std::vector<asio::const_buffer> pieces = {asio::buffer(header_)};
    if (const auto* text = std::get_if<Text>(&response_.body); text != nullptr && *text && !head)
      pieces.push_back(asio::buffer(**text));
    stream_.expires_after(shared_.limits.write_time);
    if (head || std::holds_alternative<Text>(response_.body))
      return asio::async_write(stream_, pieces, then(&HttpConnection::on_replied));
    if (events != nullptr) {
      events_ = std::move(*events);
      header_ += events_.first;
      streaming_ = true;
      ++shared_.metrics.streams;
      return asio::async_write(stream_, asio::buffer(header_), then(&HttpConnection::on_events_begun));
    }
    asio::async_write(stream_, pieces, then(&HttpConnection::on_file_piece));
  }

  void on_replied(boost::system::error_code error, std::size_t count) {
    count_sent(count);
    log(error);
    response_ = {};
    if (error) return close();
    if (!keep_alive_) return finish();
    wait_for_request();
  }

  // Sends the end. Closing with unread bytes would take the reply away from the client.
  void finish() {
    boost::system::error_code ignored;
    stream_.socket().shutdown(asio::ip::tcp::socket::shutdown_send, ignored);
    if (!drain_) return close();
    stream_.expires_after(kDrainTime);
    drained_ = 0;
    drain();
  }
  void drain() {
    buffer_.clear();
    stream_.async_read_some(buffer_.prepare(kReadAhead), then(&HttpConnection::on_drained));
  }
  void on_drained(boost::system::error_code error, std::size_t count) {
    drained_ += count;
    if (error || drained_ > kMostDrained) return close();
    drain();
  }

  // A file, piece by piece: the disk is waited for by a worker.
  void on_file_piece(boost::system::error_code error, std::size_t count) {
    count_sent(count);
    auto& file = std::get<FileBody>(response_.body);
    if (error || file.length == 0) {
      log(error);
      response_ = {};
      if (error) return close();
      if (!keep_alive_) return finish();
      return wait_for_request();
    }
    stream_.expires_never();
    asio::post(shared_.workers, [self = shared_from_this(), number = file.file.number(), offset = file.offset,
                                 wanted = std::min<std::uint64_t>(file.length, kFilePiece)] {
      self->piece_.resize(wanted);
      ssize_t got = -1;
      do got = pread(number, self->piece_.data(), wanted, static_cast<off_t>(offset));
      while (got < 0 && errno == EINTR);
      asio::post(self->stream_.get_executor(), [self, got] { self->on_piece_read(got); });
    });
  }

  void on_piece_read(ssize_t got) {
    auto& file = std::get<FileBody>(response_.body);
    if (got <= 0) {  // cut short meanwhile: the client sees fewer bytes than it was promised
      log(asio::error::eof);
      return close();
    }
    file.offset += static_cast<std::uint64_t>(got);
    file.length -= static_cast<std::uint64_t>(got);
    stream_.expires_after(shared_.limits.write_time);
    asio::async_write(stream_, asio::buffer(piece_.data(), static_cast<std::size_t>(got)),
                      then(&HttpConnection::on_file_piece));
  }

  void on_events_begun(boost::system::error_code error, std::size_t count) {
    count_sent(count);
    if (error) return end_events(error);
    // Of a client that listens nothing more is expected; what can be read is its end.
    stream_.socket().async_wait(asio::ip::tcp::socket::wait_read,
                                [self = shared_from_this()](boost::system::error_code gone) {
                                  if (!gone) self->close();
                                });
    next_events();
  }

  void next_events() {
    if (!stream_.socket().is_open()) return end_events(asio::error::operation_aborted);
    EventSource::Batch batch = shared_.events.read(events_.job, events_.after);
    if (!batch.text.empty()) {
      events_.after = batch.last;
      batch_ = std::move(batch.text);
      return send_events();
    }
    if (batch.over || winding_up_) return end_events({});
    waiter_ = shared_.events.wait(events_.job, [weak = weak_from_this()] {
      const auto self = weak.lock();
      if (!self) return;
      self->waiter_.reset();
      self->timer_.cancel();
    });
    timer_.expires_after(shared_.limits.heartbeat);
    timer_.async_wait([self = shared_from_this()](boost::system::error_code) {
      if (!self->stream_.socket().is_open()) return self->end_events(asio::error::operation_aborted);
      if (!self->waiter_) return self->next_events();
      self->shared_.events.stop_waiting(self->events_.job, *std::exchange(self->waiter_, std::nullopt));
      self->batch_ = ":\n\n";
      self->send_events();
    });
  }

  void send_events() {
    stream_.expires_after(shared_.limits.write_time);
    asio::async_write(stream_, asio::buffer(batch_), then(&HttpConnection::on_events_sent));
  }

  void on_events_sent(boost::system::error_code error, std::size_t count) {
    count_sent(count);
    stream_.expires_never();
    if (error) return end_events(error);
    next_events();
  }

  void end_events(boost::system::error_code error) {
    log(error);
    if (error) return close();
    boost::system::error_code ignored;
    stream_.socket().shutdown(asio::ip::tcp::socket::shutdown_send, ignored);
    close();
  }

  void count_sent(std::size_t count) {
    sent_ += count;
    shared_.metrics.bytes_sent += count;
  }

  // Without query and fields: no secret is in what remains.
  void log(boost::system::error_code error) {
    const double seconds = std::chrono::duration<double>(Clock::now() - started_).count();
    shared_.logger.log(LogLevel::Info,
                       fmt::format("{} {} {} {} {} bytes {:.1f} ms{}", remote_,
                                   cut_utf8(to_utf8(method_), 16), cut_utf8(to_utf8(path_), 200),
                                   response_.status, sent_, 1e3 * seconds, error ? ", cut off" : ""));
  }

  beast::tcp_stream stream_;
  beast::flat_buffer buffer_;
  std::optional<http::request_parser<http::string_body>> parser_;
  asio::steady_timer timer_;
  Shared& shared_;
  std::function<void(Connection*)> gone_;
  std::string remote_, method_, path_;
  Clock::time_point started_;
  Response response_;
  std::string header_, piece_, batch_;
  EventBody events_;
  std::optional<EventSource::Waiter> waiter_;
  std::uint64_t sent_ = 0;
  std::size_t drained_ = 0;
  bool keep_alive_ = true;
  bool drain_ = false;
  bool waiting_ = false;    // for the first byte of a request
  bool reading_ = false;    // a request, within a time
  bool too_slow_ = false;   // that time has passed
  bool streaming_ = false;  // counted as a stream
  bool winding_up_ = false;
};

}  // namespace

std::shared_ptr<Connection> make_connection(asio::ip::tcp::socket socket, Shared& shared,
                                            std::function<void(Connection*)> gone) {
  return std::make_shared<HttpConnection>(std::move(socket), shared, std::move(gone));
}

}  // namespace quantfit::service
