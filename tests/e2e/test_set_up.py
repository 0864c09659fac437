"""Set-up in a minute: what `qtrp-server init` prints is pasted as it stands; clients without a file; the service's files below a root."""

import os
import pathlib
import re
import shlex
import signal
import stat
import subprocess

import pytest
import yaml

from lab import BIN, SLOW, TRANSPORT, echo_works, wait_until

CIPHERS = ["tls"] if TRANSPORT == "quic" else ["tls", "chacha20", "none"]
PIN = "sha256:" + 64 * "0"


@pytest.fixture
def world(lab, tmp_path):
    """Where the commands run: PATH has the two programs, state goes to a directory of the test's own."""
    class World:
        dir = tmp_path
        env = {"PATH": f"{BIN}:/usr/bin:/bin", "XDG_STATE_HOME": str(tmp_path / "state"), "HOME": str(tmp_path), "LC_ALL": "C.UTF-8"}

        def run(self, *words, env=None, **options):
            return subprocess.run(list(map(str, words)), cwd=self.dir, env=self.env | (env or {}), capture_output=True, text=True,
                                  timeout=30 * SLOW, **options)

        def start(self, name, *words, env=None):
            """A daemon that ends with the test."""
            log = self.dir / f"{name}.log"
            with open(log, "ab") as out:
                process = subprocess.Popen(list(map(str, words)), cwd=self.dir, env=self.env | (env or {}), stdin=subprocess.DEVNULL,
                                           stdout=out, stderr=out)
            lab.processes.append(process)
            return process, log

        def init(self, *options, port=None):
            port = port or lab.ports.take()
            done = self.run("qtrp-server", "init", "--bind", f"127.0.0.1:{port}", "--transport", TRANSPORT, *options)
            assert done.returncode == 0, done.stderr
            return done.stdout

        def serve(self):
            """Starts the server of server.yaml; its statistics are off, because their port would be the same for every test."""
            with open(self.dir / "server.yaml", "a") as file:
                file.write("stats: false\n")
            _, log = self.start("server", "qtrp-server", "-c", "server.yaml")
            wait_until(lambda: "listening for tunnels" in log.read_text(), "the server to listen")
            return log

    return World()


def printed_command(output):
    """The one line to paste."""
    commands = [line.strip() for line in output.splitlines() if line.strip().startswith("qtrp-client -p")]
    assert len(commands) == 1, output
    return commands[0]


def mode(path):
    return stat.S_IMODE(os.stat(path).st_mode)


@pytest.mark.parametrize("crypto", CIPHERS)
def test_the_printed_command_works_as_it_stands(world, lab, crypto):
    service, public = lab.echo(), lab.ports.take()
    output = world.init("--crypto", crypto, "-p", f"{public}:{service.address}")
    assert mode(world.dir / "server.yaml") == 0o600
    config = yaml.safe_load((world.dir / "server.yaml").read_text())
    token = config["auth"]["tokens"][0]["token"]
    assert re.fullmatch("[0-9a-f]{48}", token)
    assert ("pin=sha256:" in output) == (crypto == "tls")
    if crypto == "tls":
        assert mode(world.dir / "server.key") == 0o600
    checked = world.run("qtrp-server", "--check", "-c", "server.yaml")
    assert checked.returncode == 0 and checked.stderr.count("warning") == (1 if crypto == "none" else 0), checked.stderr
    server_log = world.serve()
    process, client_log = world.start("client", "sh", "-c", "exec " + printed_command(output))
    wait_until(lambda: echo_works(public), "the pasted command to work", 20)
    # The string that was on the command line is not in the process list, and no log has the token.
    shown = pathlib.Path(f"/proc/{process.pid}/cmdline").read_text()
    assert "qtrp-client" in shown and token not in shown
    assert token not in server_log.read_text() + client_log.read_text()
    assert "fewer than" not in server_log.read_text() + client_log.read_text()


@pytest.mark.parametrize("way", ["environment", "file", "standard input"])
def test_ways_to_give_the_string_that_leave_no_trace(world, lab, way):
    service = lab.echo()
    first = lab.ports.take(3)
    output = world.init()
    string = shlex.split(printed_command(output))[-1]
    assert string.startswith("qtrp://")
    world.serve()
    (world.dir / "string").write_text(string + "\n")
    # Two mappings, one of them a range.
    command = ["qtrp-client", "-p", f"{first}:{service.port}", "--proxy", f"twice={first + 1}-{first + 2}:127.0.0.1:{service.port}"]
    if way == "environment":
        world.start("client", *command, env={"QTRP_JOIN": string})
    elif way == "file":
        world.start("client", *command, "--join-file", "string")
    else:
        world.start("client", "sh", "-c", "exec " + shlex.join([*command, "--join-file", "-"]) + " < string")
    for port in (first, first + 1):
        wait_until(lambda port=port: echo_works(port), f"port {port} to work", 20)


def test_a_client_without_a_file_ends_with_its_terminal(world, lab):
    """SIGHUP reads a file anew; where there is none it means what it means to other programs. The server, which has one, runs on."""
    service, public = lab.echo(), lab.ports.take()
    string = shlex.split(printed_command(world.init()))[-1]
    world.serve()
    process, log = world.start("client", "qtrp-client", "-p", f"{public}:{service.address}", "--join", string)
    wait_until(lambda: echo_works(public), "the client", 20)
    process.send_signal(signal.SIGHUP)
    assert process.wait(20 * SLOW) == 0
    assert "shutting down" in log.read_text()
    lab.processes[0].send_signal(signal.SIGHUP)
    wait_until(lambda: "reloaded " in (world.dir / "server.log").read_text(), "the server to reload")


def test_a_pin_that_is_not_the_servers_is_refused(world, lab):
    service, public = lab.echo(), lab.ports.take()
    command = printed_command(world.init("-p", f"{public}:{service.port}"))
    wrong = re.sub("sha256:[0-9a-f]{64}", PIN, command)
    assert wrong != command
    world.serve()
    _, log = world.start("client", "sh", "-c", "exec " + wrong)
    wait_until(lambda: "pin" in log.read_text(), "the pin's difference to be told")
    assert not echo_works(public)


@pytest.mark.parametrize("readme", ["README.md", "README.zh.md"])
def test_the_transcript_in_the_readme_is_what_init_prints(world, readme):
    """Line by line; what differs each time stands there as its first digits and dots, or is this test's directory."""
    text = (pathlib.Path(__file__).resolve().parents[2] / readme).read_text()
    shown = re.search(r"^    vps\$ qtrp-server init --address vps\.example\.com\n((?:    .*\n|\n)*?)    vps\$ ", text, re.M).group(1)
    done = world.run("qtrp-server", "init", "--address", "vps.example.com")
    assert done.returncode == 0, done.stderr
    printed = done.stdout.replace(str(world.dir), "/root").splitlines()
    for line in shown.rstrip().splitlines():
        line = re.escape(line.removeprefix("    ")).replace(r"\.\.\.", "[0-9a-f]+")
        pattern = re.compile(re.sub(r"(5f0c|8e2c41d2)(?=\[)", "", line))
        assert pattern.fullmatch(printed[0]), (line, printed[0])
        printed.pop(0)


def test_init_never_overwrites(world):
    world.init()
    before = {name: (world.dir / name).read_bytes() for name in ("server.yaml", "server.crt", "server.key")}
    again = world.run("qtrp-server", "init", "--address", "vps.example.com")
    assert again.returncode == 2
    assert "server.yaml is there already" in again.stderr and "--force" in again.stderr
    assert {name: (world.dir / name).read_bytes() for name in before} == before
    # With --force there is a new token, and the certificate that clients have pinned stays.
    forced = world.run("qtrp-server", "init", "--address", "vps.example.com", "--force")
    assert forced.returncode == 0
    assert (world.dir / "server.yaml").read_bytes() != before["server.yaml"]
    assert (world.dir / "server.crt").read_bytes() == before["server.crt"]
    assert "the certificate that was there" in forced.stdout


def test_join_shows_the_same_string_again(world):
    command = printed_command(world.init("--address", "vps.example.com", "-p", "80:8080"))
    again = world.run("qtrp-server", "join", "--address", "vps.example.com", "-p", "80:8080")
    assert again.returncode == 0, again.stderr
    assert again.stdout.strip() == command
    other = world.run("qtrp-server", "join", "--address", "[2001:db8::1]:443")
    assert "@[2001:db8::1]:443?" in other.stdout


@pytest.mark.parametrize("options,says", [
    (["--address", "a b"], "--address 'a b'"),
    (["--address", ":6000"], "--address ':6000'"),
    (["--bind", "nowhere"], "--bind"),
    (["--bind", "127.0.0.1:0"], "port"),
    (["--crypto", "rot13"], "rot13"),
    (["--transport", "quic", "--crypto", "none"], "always encrypted"),
    (["-p", "22"], "no port mapping"),
])
def test_init_tells_mistakes_and_writes_nothing(world, options, says):
    told = world.run("qtrp-server", "init", *options)
    assert told.returncode == 2
    assert says in told.stderr
    assert not (world.dir / "server.yaml").exists()


@pytest.mark.parametrize("words,says", [
    (["-p", "2222:22"], "--join 'qtrp://...', --join-file FILE, or QTRP_JOIN"),
    (["-p", "2222:22", "--join", "vps:6000"], "does not begin with qtrp://"),
    (["--join", "qtrp://0123456789abcdef@vps:6000"], "found no -p"),
    (["-p", "2222", "--join", "qtrp://0123456789abcdef@vps:6000"], "'2222' is no port mapping"),
    (["-p", "1:1", "-p", "1:2", "--join", "qtrp://0123456789abcdef@vps:6000"], "port 1 in two -p"),
    (["-p", "1:1", "--join-file", "absent"], "absent: No such file"),
    (["-p", "1:1", "-c", "client.yaml", "--join", "qtrp://0123456789abcdef@vps:6000"], "both -c and"),
    (["-p", "1:1", "--join", "qtrp://0123456789abcdef@vps:6000", "--join-file", "x"], "excludes"),
])
def test_the_client_tells_mistakes_of_the_command_line(world, words, says):
    told = world.run("qtrp-client", *words)
    assert told.returncode == 2, told.stderr
    assert says in told.stderr
    assert "0123456789abcdef" not in told.stderr


def test_check_shows_what_the_command_line_means(world):
    shown = world.run("qtrp-client", "-p", "ssh=2222:22", "--join", f"qtrp://0123456789abcdef@vps:6000?pin={PIN}&transport=epoll", "--check")
    assert shown.returncode == 0, shown.stderr
    meant = yaml.safe_load(shown.stdout)
    assert meant["server"] == "vps:6000" and meant["transport"] == "epoll" and meant["tls"]["pin"] == [PIN]
    assert meant["proxies"] == [{"name": "ssh", "remote_port": 2222, "local_addr": "127.0.0.1:22"}]
    assert "0123456789abcdef" not in shown.stdout


# The service's files. No test installs anything into this machine.


def install(world, program, *words):
    return world.run(program, "install", "--root", world.dir / "root", *words)


def tree(root):
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()) if root.exists() else []


def test_a_server_becomes_a_service(world):
    world.init()
    root = world.dir / "root"
    plan = install(world, "qtrp-server", "-c", "server.yaml", "--dry-run")
    assert plan.returncode == 0, plan.stderr
    assert "would write" in plan.stdout
    assert tree(root) == []
    done = install(world, "qtrp-server", "-c", "server.yaml", "--low-ports")
    assert done.returncode == 0, done.stderr
    assert tree(root) == ["etc/qtrp/server.crt", "etc/qtrp/server.key", "etc/qtrp/server.yaml", "etc/systemd/system/qtrp-server.service",
                          "etc/systemd/system/qtrp-server.service.d/low-ports.conf", "usr/local/bin/qtrp-server"]
    assert mode(root / "etc/qtrp/server.yaml") == mode(root / "etc/qtrp/server.key") == 0o640
    assert mode(root / "usr/local/bin/qtrp-server") == 0o755
    unit = (root / "etc/systemd/system/qtrp-server.service").read_text()
    assert "\nExecStart=/usr/local/bin/qtrp-server -c /etc/qtrp/server.yaml\n" in unit
    assert "left to the machine that has this root: systemctl enable qtrp-server.service" in done.stdout
    # Its identity came along: the same join string.
    names = ["--address", "vps.example.com"]
    assert world.run("qtrp-server", "join", *names).stdout == world.run("qtrp-server", "join", *names, "-c", root / "etc/qtrp/server.yaml").stdout
    # Again: nothing to do. With another configuration: only when told.
    assert "write" not in install(world, "qtrp-server", "-c", "server.yaml", "--low-ports").stdout
    assert install(world, "qtrp-server").returncode == 0
    with open(world.dir / "server.yaml", "a") as file:
        file.write("workers: 1\n")
    refused = install(world, "qtrp-server", "-c", "server.yaml")
    assert refused.returncode == 2 and "--force replaces it" in refused.stderr
    assert "workers" not in (root / "etc/qtrp/server.yaml").read_text()
    assert install(world, "qtrp-server", "-c", "server.yaml", "--force").returncode == 0
    assert "workers" in (root / "etc/qtrp/server.yaml").read_text()
    # And out again; what is the user's stays unless told otherwise.
    gone = world.run("qtrp-server", "uninstall", "--root", root)
    assert gone.returncode == 0, gone.stderr
    assert tree(root) == ["etc/qtrp/server.crt", "etc/qtrp/server.key", "etc/qtrp/server.yaml", "usr/local/bin/qtrp-server"]
    assert world.run("qtrp-server", "uninstall", "--root", root).returncode == 2
    assert world.run("qtrp-server", "uninstall", "--root", root, "--purge").returncode == 0
    assert tree(root) == ["usr/local/bin/qtrp-server"]


def test_a_client_becomes_a_service_without_a_file(world):
    root = world.dir / "root"
    string = f"qtrp://0123456789abcdef@vps.example.com:6000?pin={PIN}"
    done = install(world, "qtrp-client", "-p", "ssh=2222:22", "--join", string, "--brutal")
    assert done.returncode == 0, done.stderr
    assert tree(root) == ["etc/qtrp/client.yaml", "etc/systemd/system/qtrp-client.service",
                          "etc/systemd/system/qtrp-client.service.d/brutal.conf", "usr/local/bin/qtrp-client"]
    assert mode(root / "etc/qtrp/client.yaml") == 0o640
    written = yaml.safe_load((root / "etc/qtrp/client.yaml").read_text())
    assert written["token"] == "0123456789abcdef" and written["tls"]["pin"] == PIN
    assert "0123456789abcdef" not in done.stdout + done.stderr


def test_a_configuration_with_mistakes_is_not_installed(world):
    (world.dir / "client.yaml").write_text("server: vps:6000\ntoken_file: token\nproxies: [{remote_port: 1, local_addr: 'h:1'}]\n")
    told = install(world, "qtrp-client", "-c", "client.yaml")
    assert told.returncode == 2 and "client.yaml:2:13" in told.stderr
    # Right here, but wrong there: the file that it names stays behind.
    (world.dir / "token").write_text("a-token-of-16-or-more\n")
    told = install(world, "qtrp-client", "-c", "client.yaml")
    assert told.returncode == 2 and "belong into" in told.stderr
    assert tree(world.dir / "root") == []
    nothing = install(world, "qtrp-client")
    assert nothing.returncode == 2 and "--join and -p" in nothing.stderr
    nothing = install(world, "qtrp-server")
    assert nothing.returncode == 2 and "qtrp-server init" in nothing.stderr


@pytest.mark.parametrize("program", ["qtrp-server", "qtrp-client"])
def test_without_systemd_it_says_so_and_changes_nothing(world, program):
    """In a namespace of its own, where /run is empty: no systemd, whatever this machine has."""
    config = "bind: 127.0.0.1:6000\nauth: {tokens: [a-token-of-16-or-more]}\n" if program == "qtrp-server" else \
        "server: vps:6000\ntoken: a-token-of-16-or-more\nproxies: [{remote_port: 1, local_addr: 'h:1'}]\n"
    (world.dir / "it.yaml").write_text(config)
    inner = f"mount -t tmpfs none /run && mount -t tmpfs none /etc/systemd && exec {BIN / program} install -c it.yaml; exit 99"
    told = world.run("unshare", "--map-root-user", "--mount", "sh", "-c", inner)
    assert told.returncode == 2, told.stderr
    assert "systemd does not run this machine" in told.stderr and "--root DIR" in told.stderr
    assert told.stdout == ""
