#include "qtrp/config/reload.h"

#include <fmt/format.h>
#include <signal.h>

#include <utility>

#include "qtrp/base/log.h"

namespace qtrp::config {
namespace {

/// Names the settings that differ and puts them back.
class Fixed {
 public:
  template <typename T>
  void keep(const char* name, const T& running, T& wanted) {
    if (running == wanted) return;
    wanted = running;
    names_.emplace_back(name);
  }
  std::vector<std::string> take() { return std::move(names_); }

 private:
  std::vector<std::string> names_;
};

void keep_common(Fixed& fixed, const Common& running, Common& wanted) {
  fixed.keep("transport", running.transport, wanted.transport);
  fixed.keep("crypto", running.crypto, wanted.crypto);
  fixed.keep("mux", running.mux, wanted.mux);
  fixed.keep("brutal.mode", running.brutal.mode, wanted.brutal.mode);
  fixed.keep("quic.congestion", running.quic.congestion, wanted.quic.congestion);
  fixed.keep("quic.masquerade", running.quic.masquerade, wanted.quic.masquerade);
  fixed.keep("tcp.congestion", running.tcp.congestion, wanted.tcp.congestion);
  fixed.keep("tcp.buffer", running.tcp.buffer, wanted.tcp.buffer);
  fixed.keep("stats", running.stats.enabled, wanted.stats.enabled);
  fixed.keep("stats.listen", running.stats.listen, wanted.stats.listen);
  fixed.keep("stats.token", running.stats.token, wanted.stats.token);
  if (running.stats.cert.empty() != wanted.stats.cert.empty()) {
    fixed.keep("stats.tls", running.stats.cert, wanted.stats.cert);
    wanted.stats.key = running.stats.key;
  }
  fixed.keep("stats.allow", running.stats.allow, wanted.stats.allow);
  fixed.keep("workers", running.workers, wanted.workers);
  fixed.keep("state_dir", running.state_dir, wanted.state_dir);
}

}  // namespace

std::vector<std::string> keep_fixed(const ServerConfig& running, ServerConfig& wanted) {
  Fixed fixed;
  fixed.keep("bind", running.bind, wanted.bind);
  keep_common(fixed, running, wanted);
  return fixed.take();
}

std::vector<std::string> keep_fixed(const ClientConfig& running, ClientConfig& wanted) {
  Fixed fixed;
  fixed.keep("server", running.server, wanted.server);
  fixed.keep("tunnels", running.tunnels, wanted.tunnels);
  keep_common(fixed, running, wanted);
  return fixed.take();
}

template <typename Config>
void Reloader<Config>::listen(Signals& signals, std::string_view role,
                              const std::optional<std::filesystem::path>& directory) {
  if (source_.file.empty() || !directory) return;
  auto socket = ControlSocket::listen(*directory, control_socket_name(role, source_.file));
  if (!socket) {
    log::warn("no control socket, so `reload` can't reach this process (SIGHUP can): {}", socket.error().message);
    return;
  }
  socket_ = std::move(*socket);
  signals.watch(socket_->fd());
}

template <typename Config>
bool Reloader<Config>::handle(int what) {
  if (what == SIGHUP) {
    if (source_.file.empty()) return false;  // the terminal was closed
    reload();
    return true;
  }
  if (what != Signals::kReadable || !socket_) return false;
  socket_->serve([this](std::string_view request) {
    return request == "reload" ? reload() : fmt::format("{}\nunknown request\n", reload_failed);
  });
  return true;
}

template <typename Config>
std::string Reloader<Config>::reload() {
  if (source_.file.empty()) {
    log::warn("reload: the configuration did not come from a file, so there is nothing to read");
    return fmt::format("{}\nthe configuration did not come from a file\n", reload_failed);
  }
  auto loaded = source_.load();
  if (!loaded) {
    std::string text(reload_mistakes);
    for (const Error& mistake : loaded.error()) {
      log::error("reload: {}", mistake.message);
      text += "\n" + mistake.message;
    }
    log::error("reload: {} has mistakes, nothing was changed", source_.file.string());
    return text + "\n";
  }
  const std::vector<std::string> fixed = keep_fixed(running_, *loaded);
  if (const auto applied = apply_(*loaded); !applied) {
    log::error("reload: {}; nothing was changed", applied.error().message);
    return fmt::format("{}\n{}\n", reload_failed, applied.error().message);
  }
  running_ = std::move(*loaded);
  if (source_.set_log_level) source_.set_log_level(running_.log);
  std::string text(reload_done);
  const auto note = [&](std::string line) {
    log::warn("reload: {}", line);
    text += "\n" + line;
  };
  for (const std::string& warning : running_.warnings) note(warning);
  for (const std::string& name : fixed) note(fmt::format("'{}' changes with a restart only, it stays as it was", name));
  log::info("reloaded {}", source_.file.string());
  return text + "\n";
}

template class Reloader<ServerConfig>;
template class Reloader<ClientConfig>;

}  // namespace qtrp::config
