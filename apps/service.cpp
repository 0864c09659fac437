#include "service.h"

#include <cstdio>

namespace qtrp::apps {
namespace {

struct Options {
  std::string root = "/";
  bool dry_run = false, force = false, no_start = false, brutal = false, low_ports = false, purge = false;
};

int finish(const CommandLine& line, const Result<void>& done) {
  if (done) return exit_ok;
  return complain(line.program(), done.error().message,
                  done.error().kind == ErrorKind::config ? exit_config : exit_failure);
}

void say(const std::string& text) {
  std::printf("%s\n", text.c_str());
  std::fflush(stdout);  // in step with what systemctl writes
}

}  // namespace

CLI::App& add_service_commands(CommandLine& line, setup::Role role,
                               std::function<std::string(setup::ServiceRequest&)> configure) {
  const std::string kind = role == setup::Role::server ? "server" : "client";
  auto options = std::make_shared<Options>();
  const auto shared = [options](CLI::App& command) {
    command
        .add_option("--root", options->root, "Work on the files below DIR only: no account is made, systemd not called")
        ->type_name("DIR");
    command.add_flag("--dry-run", options->dry_run, "Say what would be done and do nothing");
  };

  CLI::App& install = line.command(
      "install", "Make it a systemd service that starts with the machine (as root)",
      [=, &line, configure = std::move(configure)] {
        setup::ServiceRequest request;
        request.role = role;
        request.root = options->root;
        request.dry_run = options->dry_run;
        request.force = options->force;
        request.start = !options->no_start;
        if (options->brutal) request.drop_ins.emplace_back("brutal");
        if (options->low_ports) request.drop_ins.emplace_back("low-ports");
        if (const std::string wrong = configure(request); !wrong.empty()) {
          std::fprintf(stderr, "%s\n", wrong.c_str());
          return exit_config;
        }
        const int code = finish(line, setup::install_service(request, say));
        if (code == exit_ok && !request.dry_run && request.root == "/") {
          say("look at it:  systemctl status qtrp-" + kind + "      its log:  journalctl -u qtrp-" + kind + " -f");
          if (!request.start) say("start it:    systemctl enable --now qtrp-" + kind);
        }
        return code;
      });
  line.add_config_option(install,
                         "The configuration to put in place as /etc/qtrp/" + kind + ".yaml (default: the one there)");
  shared(install);
  install.add_flag("--force", options->force, "Replace a configuration that is there and differs");
  install.add_flag("--no-start", options->no_start, "Neither enable nor start it");
  install.add_flag("--brutal", options->brutal,
                   "Give it the capabilities that Brutal over TCP is best with (BPF, PERFMON, NET_ADMIN)");
  if (role == setup::Role::server)
    install.add_flag("--low-ports", options->low_ports, "Give it the capability for ports below 1024");

  CLI::App& uninstall =
      line.command("uninstall", "Stop and remove the systemd service; the configuration stays", [=, &line] {
        setup::ServiceRequest request;
        request.role = role;
        request.root = options->root;
        request.dry_run = options->dry_run;
        return finish(line, setup::uninstall_service(request, options->purge, say));
      });
  shared(uninstall);
  uninstall.add_flag("--purge", options->purge, "Remove its configuration, certificate and state as well");
  return install;
}

}  // namespace qtrp::apps
