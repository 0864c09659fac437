// qtrp-client: the side behind NAT. Reads its command line and configuration and hands over to the client and setup
// rooms.
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iostream>
#include <iterator>

#include "daemon.h"
#include "qtrp/client/client.h"
#include "qtrp/client/speed_test.h"
#include "qtrp/config/join.h"
#include "reload.h"
#include "service.h"

namespace qtrp::apps {
namespace {

const Program program{
    .name = "qtrp-client",
    .purpose = "dials a qtrp-server and exposes local services as ports of it",
    .default_file = "client.yaml",
    .sections = {
        {"Without a file",
         "qtrp-client -p 2222:127.0.0.1:22 --join 'qtrp://...'     the string is what qtrp-server init printed\n"
         "QTRP_JOIN='qtrp://...' qtrp-client -p 8000-8005:8000     the same from the environment; a range of ports\n"
         "qtrp-client -p web=80:192.168.1.5:8080 -p 2222:22 --join-file FILE\n"
         "sudo qtrp-client install -p 2222:22 --join 'qtrp://...'  as a systemd service from now on"},
        {"The least client.yaml",
         "server: vps.example.com:6000\n"
         "token: a-long-random-text\n"
         "proxies: [{remote_port: 2222, local_addr: 127.0.0.1:22}]"},
        {"Environment", "QTRP_JOIN    the join string, where -p is given and neither --join nor --join-file"},
        {"Files",
         "/etc/qtrp/client.yaml    the service's configuration; /usr/share/doc/qtrp/configuration.md has every key\n"
         "$STATE_DIRECTORY, $XDG_STATE_HOME/qtrp or ~/.local/state/qtrp    where the client's identity is kept"},
        {"Signals",
         "TERM or INT ends it; running connections get shutdown.grace. HUP reads the file anew, as reload does"},
        {"Exit codes",
         "0 ended as asked, 1 failure at run time, 2 mistake in the configuration or on the command line"},
    }};

struct JoinOptions {
  std::string join, join_file;
  std::vector<std::string> mappings;
  bool used() const { return !mappings.empty() || !join.empty() || !join_file.empty(); }
};

void add_join(CLI::App& to, JoinOptions& options) {
  CLI::Option* join = to.add_option("--join", options.join,
                                    "The server's join string, qtrp://...; it is taken out of the process list, "
                                    "but shells keep a history: --join-file or QTRP_JOIN do not");
  join->type_name("STRING");
  to.add_option("--join-file", options.join_file, "A file that holds the join string; - for standard input")
      ->type_name("FILE")
      ->excludes(join);
  to.add_option("-p,--proxy", options.mappings,
                "Open PORT of the server, or a range, and lead it to HOST:PORT (127.0.0.1 without HOST) here, "
                "with --join and without a configuration file; may be repeated")
      ->type_name("[NAME=]PORT:[HOST:]PORT")
      ->allow_extra_args(false);
}

/// The process list shows a program's arguments as they stand in its memory: from here on without the secret.
void hide_join(int argc, char** argv) {
  for (int i = 1; i < argc; ++i) {
    char* begin = std::strstr(argv[i], "qtrp://");
    if (begin != nullptr) std::memset(begin + 7, '*', std::strlen(begin + 7));
  }
}

Result<std::string> join_text(const JoinOptions& options) {
  if (!options.join.empty()) return options.join;
  if (!options.join_file.empty()) {
    std::ifstream opened;
    if (options.join_file != "-") {
      opened.open(options.join_file, std::ios::binary);
      if (!opened) return fail_errno(options.join_file, errno);
    }
    std::istream& from = options.join_file == "-" ? std::cin : opened;
    std::string text(16384, '\0');
    from.read(text.data(), static_cast<std::streamsize>(text.size()));
    text.resize(static_cast<std::size_t>(from.gcount()));
    return text;
  }
  if (const char* value = std::getenv("QTRP_JOIN"); value != nullptr && *value != '\0') return std::string(value);
  return fail(
      ErrorKind::config,
      "-p needs the server's join string: --join 'qtrp://...', --join-file FILE, or QTRP_JOIN in the environment");
}

struct Joined {
  config::Join join;
  std::vector<config::Mapping> mappings;
};
Result<Joined> read_join(const JoinOptions& options) {
  Joined joined;
  for (const std::string& text : options.mappings) {
    auto mapping = config::parse_mapping(text);
    if (!mapping) return std::unexpected(std::move(mapping.error()));
    joined.mappings.push_back(std::move(*mapping));
  }
  auto text = join_text(options);
  if (!text) return std::unexpected(std::move(text.error()));
  auto join = config::parse_join(*text);
  if (!join) return std::unexpected(std::move(join.error()));
  joined.join = std::move(*join);
  return joined;
}

config::Loaded<config::ClientConfig> load_joined(const JoinOptions& options) {
  const auto joined = read_join(options);
  if (!joined) {
    Error error = joined.error();
    error.message = program.name + ": " + error.message;
    return std::unexpected(std::vector{std::move(error)});
  }
  return config::client_config(joined->join, joined->mappings);
}

constexpr const char* both = "found both -c and -p or --join, expected one: a configuration file, or none";

/// What `install` puts in place: the file of -c, what --join and -p amount to, or what is there.
std::string configure(const CommandLine& line, const JoinOptions& options, setup::ServiceRequest& request) {
  namespace fs = std::filesystem;
  request.check = [](const fs::path& file) { return mistakes_of(config::load_client(file)); };
  if (options.used()) {
    if (line.file_given()) return program.name + ": " + both;
    const auto loaded = load_joined(options);
    if (!loaded) return mistakes_of(loaded);
    const auto joined = read_join(options);
    request.config =
        "# Written by \"qtrp-client install\". docs/configuration.md has every key; after a change: "
        "qtrp-client -c THIS-FILE --check\n" +
        config::client_yaml(joined->join, joined->mappings);
    return "";
  }
  const fs::path place = request.root / "etc/qtrp/client.yaml";
  std::error_code error;
  if (!line.file_given() || fs::equivalent(line.file, place, error)) return "";
  const auto loaded = config::load_client(line.file);
  if (!loaded) return mistakes_of(loaded);
  std::ifstream file(line.file, std::ios::binary);
  request.config.emplace(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
  request.config_from = line.file;
  for (const std::string& companion : {loaded->tls.ca, loaded->stats.cert, loaded->stats.key})
    if (!companion.empty() &&
        fs::equivalent(fs::absolute(companion).parent_path(), fs::absolute(line.file).parent_path(), error))
      request.companions.emplace_back(companion);
  return "";
}

/// `speedtest`: measures both ways and prints the lines for both files.
int speed_test(const CommandLine& line, const JoinOptions& options, unsigned seconds) {
  const auto config = options.used() ? load_joined(options) : config::load_client(line.file);
  if (!config) {
    std::fprintf(stderr, "%s\n", mistakes_of(config).c_str());
    return exit_config;
  }
  log::set_level(line.verbose > 0 ? log_level(config->log.level, line.verbose, false) : log::Level::warn);
  const auto speed = client::measure_speed(*config, {.measured = std::chrono::seconds(seconds)});
  if (!speed) return complain(program, speed.error().message, exit_failure);
  return print(fmt::format(
      "download  {:8.1f} Mbit/s  (server to client)\nupload    {:8.1f} Mbit/s  (client to server)\n\n"
      "If the line is yours alone and loses packets, nine tenths of that as Brutal's targets (docs/brutal.md):\n\n{}",
      speed->download_mbps, speed->upload_mbps, client::suggest(*speed)));
}

int run(int argc, char** argv) {
  CommandLine line(program);
  JoinOptions options;
  add_join(line.app(), options);
  unsigned seconds = 7;
  CLI::App& test = line.command(
      "speedtest",
      "Measure both ways through a tunnel of its own, without Brutal, and print brutal.target_mbps for both files",
      [&] { return speed_test(line, options, seconds); });
  line.add_config_option(test, "The client's configuration file");
  add_join(test, options);
  test.add_option("--seconds", seconds, "How long each way is measured, after 3 s of warming up")
      ->check(CLI::Range(1U, 50U))
      ->capture_default_str();
  add_reload_command<config::ClientConfig>(line, "client", config::load_client);
  CLI::App& install = add_service_commands(
      line, setup::Role::client, [&](setup::ServiceRequest& request) { return configure(line, options, request); });
  add_join(install, options);
  std::vector<std::string> words(argv, argv + argc);
  std::vector<char*> copies;
  for (std::string& word : words) copies.push_back(word.data());
  hide_join(argc, argv);
  if (const auto done = line.parse(argc, copies.data())) return *done;

  config::Loaded<config::ClientConfig> (*const from_file)(const std::filesystem::path&) = config::load_client;
  if (!options.used())
    return run_daemon<config::ClientConfig>(line, {line.file, [&] { return from_file(line.file); }, line.file},
                                            client::run);
  if (line.file_given()) return complain(program, both, exit_config);
  // Read once: standard input and the environment are what they were at the start.
  const auto loaded = load_joined(options);
  return run_daemon<config::ClientConfig>(line, {"the command line", [&] { return loaded; }}, client::run);
}

}  // namespace
}  // namespace qtrp::apps

int main(int argc, char** argv) {
  return qtrp::apps::guarded(qtrp::apps::program.name, [&] { return qtrp::apps::run(argc, argv); });
}
