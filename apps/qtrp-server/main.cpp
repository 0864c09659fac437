// qtrp-server: the public side. Reads its command line and configuration and hands over to the server and setup rooms.
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>

#include "daemon.h"
#include "qtrp/server/server.h"
#include "qtrp/setup/init.h"
#include "reload.h"
#include "service.h"

namespace qtrp::apps {
namespace {

const Program program{
    .name = "qtrp-server",
    .purpose = "accepts tunnels of qtrp-client and opens public ports for the services behind them",
    .default_file = "server.yaml",
    .sections = {
        {"Set-up",
         "qtrp-server init --address vps.example.com   writes server.yaml, prints the client's command\n"
         "qtrp-server -c server.yaml                   runs in the foreground\n"
         "sudo qtrp-server install -c server.yaml      or runs as a systemd service from now on"},
        {"The least server.yaml", "bind: 0.0.0.0:6000\nauth: {tokens: [a-long-random-text]}"},
        {"Files",
         "/etc/qtrp/server.yaml    the service's configuration; /usr/share/doc/qtrp/configuration.md has every key\n"
         "$STATE_DIRECTORY, $XDG_STATE_HOME/qtrp or ~/.local/state/qtrp    where the certificate is kept, unless\n"
         "                         the configuration names one"},
        {"Signals",
         "TERM or INT ends it; running connections get shutdown.grace. HUP reads the file anew, as reload does"},
        {"Exit codes",
         "0 ended as asked, 1 failure at run time, 2 mistake in the configuration or on the command line"},
        {"Figures", "curl http://127.0.0.1:7500/stats, or a browser at http://127.0.0.1:7500/"},
    }};

const std::map<std::string, config::Transport> transports{
    {"net", config::Transport::net}, {"epoll", config::Transport::epoll}, {"quic", config::Transport::quic}};
const std::map<std::string, config::Crypto> ciphers{
    {"tls", config::Crypto::tls}, {"chacha20", config::Crypto::chacha20}, {"none", config::Crypto::none}};

int failed(const Error& error) {
  return complain(program, error.message, error.kind == ErrorKind::config ? exit_config : exit_failure);
}

std::string client_command(const setup::Initiated& made, const config::Mapping& example) {
  return fmt::format("qtrp-client -p {} --join {}", config::format_mapping(example),
                     setup::shell_quoted(config::format_join(made.join)));
}

struct InitOptions {
  std::string address, bind, transport = "net", crypto = "tls", example = "2222:127.0.0.1:22", token_name;
  bool force = false;
};

void add_address(CLI::App& command, InitOptions& options) {
  command
      .add_option("--address", options.address,
                  "Under what name or address clients reach the server, with :PORT where that differs from its own "
                  "(default: what this machine's interfaces suggest)")
      ->type_name("HOST");
  command.add_option("-p", options.example, "The port mapping that the printed command has as its example")
      ->type_name("PORT:HOST:PORT")
      ->capture_default_str();
}

int init(const CommandLine& line, const InitOptions& options) {
  setup::InitRequest request;
  request.file = line.file;
  request.address = options.address;
  request.force = options.force;
  request.transport = transports.at(options.transport);
  request.crypto = ciphers.at(options.crypto);
  if (!config::available(request.transport))
    return complain(program, "transport " + options.transport + " is not built into this binary", exit_config);
  if (!options.bind.empty()) {
    auto bind = io::parse_host_port(options.bind);
    if (!bind) return complain(program, "--bind: " + bind.error().message, exit_config);
    request.bind = *bind;
  }
  const auto example = config::parse_mapping(options.example);
  if (!example) return failed(example.error());
  const auto made = setup::init_server(request);
  if (!made) return failed(made.error());

  const std::string file = line.file;
  std::string out = fmt::format("{}: written (mode 0600, it holds the token)\n", file);
  if (!made->certificate.empty())
    out += fmt::format("{}: {}, {}\n", made->certificate.string(),
                       made->certificate_kept ? "the certificate that was there" : "a new certificate", made->join.pin);
  const bool udp = request.transport == config::Transport::quic;
  const io::HostPort& server = made->join.server;
  out += fmt::format(
      "\n1. Let {} port {} through the firewall, and the ports that clients shall open.\n"
      "2. Start it:              qtrp-server -c {}\n"
      "   or for good:           sudo qtrp-server install -c {}\n"
      "3. On the machine behind NAT{}:\n\n     {}\n\n"
      "   or for good, by sudo:  qtrp-client install with the same options\n",
      udp ? "UDP" : "TCP", server.port, file, file,
      options.example == "2222:127.0.0.1:22" ? ", for example for its ssh" : "", client_command(*made, *example));
  if (options.example == "2222:127.0.0.1:22")
    out += fmt::format("4. From anywhere:         ssh -p 2222 you@{}\n", server.host);
  out += "\nThe string holds the token: whoever has it can open ports on this server.\n";
  if (!made->remark.empty()) out += "Note: " + made->remark + ".\n";
  return print(out);
}

int join(const CommandLine& line, const InitOptions& options) {
  const auto example = config::parse_mapping(options.example);
  if (!example) return failed(example.error());
  const auto loaded = config::load_server(line.file);
  if (!loaded) return complain(program, mistakes_of(loaded), exit_config);
  const auto made = setup::join_server(*loaded, options.token_name, options.address);
  if (!made) return failed(made.error());
  if (!made->remark.empty()) std::fprintf(stderr, "note: %s\n", made->remark.c_str());
  return print(client_command(*made, *example) + "\n");
}

/// What `install` puts in place: the file of -c, or what is there.
std::string configure(const CommandLine& line, setup::ServiceRequest& request) {
  namespace fs = std::filesystem;
  request.check = [](const fs::path& file) { return mistakes_of(config::load_server(file)); };
  const fs::path place = request.root / "etc/qtrp/server.yaml";
  std::error_code error;
  const fs::path source = line.file_given() ? fs::path(line.file) : place;
  if (!line.file_given() && !fs::exists(place, error)) return "";  // install_service says what is missing
  const auto loaded = config::load_server(source);
  if (!loaded) return mistakes_of(loaded);
  if (!fs::equivalent(source, place, error)) {
    std::ifstream file(source, std::ios::binary);
    request.config.emplace(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
    request.config_from = source;
  }
  for (const std::string& companion : {loaded->tls.cert, loaded->tls.key, loaded->stats.cert, loaded->stats.key})
    if (!companion.empty() &&
        fs::equivalent(fs::absolute(companion).parent_path(), fs::absolute(source).parent_path(), error))
      request.companions.emplace_back(companion);
  return "";
}

int run(int argc, char** argv) {
  CommandLine line(program);
  InitOptions options;
  CLI::App& make = line.command(
      "init", "Write a first configuration with a fresh token and certificate, and print the client's command",
      [&] { return init(line, options); });
  line.add_config_option(make, "The file to write (default: server.yaml)");
  add_address(make, options);
  make.add_option("--bind", options.bind, "Where clients connect (default: port 6000 of every address)")
      ->type_name("HOST:PORT");
  make.add_option("--transport", options.transport, "net, epoll or quic")
      ->type_name("NAME")
      ->check(CLI::IsMember({"net", "epoll", "quic"}).description(""))
      ->capture_default_str();
  make.add_option("--crypto", options.crypto, "tls, chacha20 or none")
      ->type_name("NAME")
      ->check(CLI::IsMember({"tls", "chacha20", "none"}).description(""))
      ->capture_default_str();
  make.add_flag("--force", options.force, "Replace a file that is there; its certificate and so its pin stay");

  CLI::App& show = line.command("join", "Print the client's command for a server that is set up already",
                                [&] { return join(line, options); });
  line.add_config_option(show, "The server's configuration (default: server.yaml)");
  add_address(show, options);
  show.add_option("--token-name", options.token_name, "The name of the client's token, where there are several")
      ->type_name("NAME");
  add_reload_command<config::ServerConfig>(line, "server", config::load_server);
  add_service_commands(line, setup::Role::server,
                       [&](setup::ServiceRequest& request) { return configure(line, request); });

  if (const auto done = line.parse(argc, argv)) return *done;
  return run_daemon<config::ServerConfig>(line, {line.file, [&] { return config::load_server(line.file); }, line.file},
                                          server::run);
}

}  // namespace
}  // namespace qtrp::apps

int main(int argc, char** argv) {
  return qtrp::apps::guarded(qtrp::apps::program.name, [&] { return qtrp::apps::run(argc, argv); });
}
