#include "server/quic_listener.h"

#include "qtrp/base/log.h"
#include "server/worker.h"

#ifdef QTRP_HAVE_QUIC
#include "qtrp/quic/endpoint.h"
#endif

namespace qtrp::server {

#ifdef QTRP_HAVE_QUIC

Result<io::Endpoint> listen_quic(const std::vector<std::unique_ptr<Worker>>& workers, const io::Endpoint& bind,
                                 const config::ServerConfig& config, const identity::Certificate& certificate,
                                 const StatsPage* page) {
  quic::ServerOptions options;
  options.congestion = config.quic.congestion;
  if (config.brutal.enabled) options.brutal_target = static_cast<std::uint64_t>(config.brutal.target_mbps * 1e6);
  options.identity = certificate;
  if (config.quic.masquerade != "404" && config.quic.masquerade != "stats")
    options.site.directory = config.quic.masquerade;
  if (page)
    options.site.stats = [page](const io::Endpoint& visitor, std::string_view token) {
      return page->show(visitor, token);
    };
  const auto count = static_cast<unsigned>(workers.size());
  auto sockets = quic::bind_workers(bind, count, options.socket_buffer);
  if (!sockets) return std::unexpected(sockets.error());
  io::Endpoint local = bind;
  for (unsigned i = 0; i < count; ++i) {
    Worker& worker = *workers[i];
    auto server = quic::Server::listen(
        worker.loop(), std::move((*sockets)[i]), i, count, options,
        [&worker](std::unique_ptr<quic::QuicSession> session) { worker.adopt(std::move(session)); });
    if (!server) return std::unexpected(server.error());
    local = (*server)->local();
    worker.own(std::move(*server));
  }
  log::info("quic: congestion control {}", quic::congestion_name(options));
  return local;
}

#else

Result<io::Endpoint> listen_quic(const std::vector<std::unique_ptr<Worker>>&, const io::Endpoint&,
                                 const config::ServerConfig&, const identity::Certificate&, const StatsPage*) {
  return fail(ErrorKind::config,
              "transport quic: this build has no QUIC; ngtcp2 with its GnuTLS helper and nghttp3 were not found");
}

#endif

}  // namespace qtrp::server
