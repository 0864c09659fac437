// How a command reaches the daemon that runs already: a UNIX socket in its state directory, for its own user alone
// (mode 0600 in a directory of mode 0700). One line goes there, a text comes back.
#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "qtrp/base/error.h"
#include "qtrp/base/time.h"

namespace qtrp {

class ControlSocket {
 public:
  /// Makes the directory (0700) if need be, and the socket in it. One that a dead daemon left is replaced; while
  /// another daemon answers there it fails with kind closed.
  static Result<std::unique_ptr<ControlSocket>> listen(const std::filesystem::path& directory, const std::string& name);
  /// Removes the socket.
  ~ControlSocket();
  ControlSocket(const ControlSocket&) = delete;
  ControlSocket& operator=(const ControlSocket&) = delete;

  int fd() const { return fd_; }  ///< readable: somebody asks
  /// Takes one caller, answers his line (4 KiB at most, a second to come) with what `handle` makes of it, and hangs up.
  void serve(const std::function<std::string(std::string_view request)>& handle);

 private:
  ControlSocket(int fd, int directory, std::string name);
  int fd_, directory_;
  std::string name_;
};

/// Asks the daemon behind the socket. Fails with kind closed where nobody listens, with kind timeout where the answer
/// is not there within `limit`.
Result<std::string> ask_control_socket(const std::filesystem::path& directory, const std::string& name,
                                       std::string_view request, Duration limit);

/// The socket's name for a daemon of `role` that runs on this configuration file: differs for each file.
std::string control_socket_name(std::string_view role, const std::filesystem::path& config_file);

}  // namespace qtrp
