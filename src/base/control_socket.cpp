// Paths go through /proc/self/fd/<directory>, since a socket's own path may have 107 bytes only (unix(7)).
#include "qtrp/base/control_socket.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <system_error>
#include <utility>

#include "qtrp/base/file.h"

namespace qtrp {
namespace {

constexpr std::size_t kMostRequest = 4096;
constexpr auto kPatience = std::chrono::seconds(1);  // with a caller

sockaddr_un address_in(int directory, const std::string& name) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  const std::string path = fmt::format("/proc/self/fd/{}/{}", directory, name);
  path.copy(address.sun_path, sizeof address.sun_path - 1);
  return address;
}

bool wait_for(int fd, short events, TimePoint deadline) {
  for (;;) {
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - Clock::now()).count();
    if (left <= 0) return false;
    pollfd p{fd, events, 0};
    const int n = ::poll(&p, 1, static_cast<int>(std::min<std::int64_t>(left, 60'000)));
    if (n > 0) return true;
    if (n < 0 && errno != EINTR) return false;
  }
}

bool send_all(int fd, std::string_view text, TimePoint deadline) {
  while (!text.empty()) {
    if (!wait_for(fd, POLLOUT, deadline)) return false;
    const ssize_t n = ::send(fd, text.data(), text.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) continue;
    if (n <= 0) return false;
    text.remove_prefix(static_cast<std::size_t>(n));
  }
  return true;
}

int connect_in(int directory, const std::string& name) {
  const int fd = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  const sockaddr_un address = address_in(directory, name);
  if (fd >= 0 && ::connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
    const int code = errno;
    ::close(fd);
    errno = code;
    return -1;
  }
  return fd;
}

}  // namespace

ControlSocket::ControlSocket(int fd, int directory, std::string name)
    : fd_(fd), directory_(directory), name_(std::move(name)) {}

ControlSocket::~ControlSocket() {
  ::unlinkat(directory_, name_.c_str(), 0);
  ::close(fd_);
  ::close(directory_);
}

Result<std::unique_ptr<ControlSocket>> ControlSocket::listen(const std::filesystem::path& directory,
                                                             const std::string& name) {
  std::error_code error;
  if (std::filesystem::create_directories(directory, error))
    std::filesystem::permissions(directory, std::filesystem::perms::owner_all, error);
  Descriptor at(::open(directory.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  if (!at) return fail_errno("opening " + directory.string(), errno);
  if (const Descriptor other(connect_in(at.get(), name)); other)
    return fail(ErrorKind::closed, fmt::format("another daemon answers on {}", (directory / name).string()));
  ::unlinkat(at.get(), name.c_str(), 0);
  Descriptor fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  const sockaddr_un address = address_in(at.get(), name);
  // Linux takes the mode of the socket over for its name (unix(7)): at no moment may others connect.
  if (!fd || ::fchmod(fd.get(), 0600) != 0 ||
      ::bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0 ||
      ::fchmodat(at.get(), name.c_str(), 0600, 0) != 0 || ::listen(fd.get(), 8) != 0)
    return fail_errno("making " + (directory / name).string(), errno);
  return std::unique_ptr<ControlSocket>(new ControlSocket(fd.release(), at.release(), name));
}

void ControlSocket::serve(const std::function<std::string(std::string_view request)>& handle) {
  const Descriptor caller(::accept4(fd_, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
  if (!caller) return;
  const TimePoint deadline = Clock::now() + kPatience;
  std::string request;
  char piece[512];
  while (request.find('\n') == std::string::npos) {
    if (request.size() > kMostRequest || !wait_for(caller.get(), POLLIN, deadline)) return;
    const ssize_t n = ::recv(caller.get(), piece, sizeof piece, MSG_DONTWAIT);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) continue;
    if (n <= 0) return;
    request.append(piece, static_cast<std::size_t>(n));
  }
  send_all(caller.get(), handle(std::string_view(request).substr(0, request.find('\n'))), Clock::now() + kPatience);
}

Result<std::string> ask_control_socket(const std::filesystem::path& directory, const std::string& name,
                                       std::string_view request, Duration limit) {
  const TimePoint deadline = Clock::now() + limit;
  const Descriptor at(::open(directory.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  const Descriptor fd(at ? connect_in(at.get(), name) : -1);
  if (!fd) {
    const int code = errno;
    return fail(code == EACCES || code == EPERM ? ErrorKind::denied : ErrorKind::closed,
                fmt::format("{}: {}", (directory / name).string(), std::generic_category().message(code)), code);
  }
  std::string answer;
  if (send_all(fd.get(), fmt::format("{}\n", request), deadline)) {
    char piece[4096];
    while (wait_for(fd.get(), POLLIN, deadline)) {
      const ssize_t n = ::recv(fd.get(), piece, sizeof piece, 0);
      if (n < 0 && errno == EINTR) continue;
      if (n <= 0) {
        if (!answer.empty()) return answer;
        break;
      }
      answer.append(piece, static_cast<std::size_t>(n));
    }
  }
  return fail(ErrorKind::timeout, "the running daemon gave no answer; its log may say more");
}

std::string control_socket_name(std::string_view role, const std::filesystem::path& config_file) {
  std::error_code error;
  std::filesystem::path path = std::filesystem::weakly_canonical(config_file, error);
  if (error) path = std::filesystem::absolute(config_file, error);
  std::uint64_t hash = 0xcbf29ce484222325U;  // FNV-1a, 64 bits
  for (const char c : path.string()) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3U;
  return fmt::format("{}-{:016x}.sock", role, hash);
}

}  // namespace qtrp
