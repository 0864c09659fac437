"""Runs a program under the restrictions of a systemd unit where systemd is not there to impose them: its system-call filter, address
families, write-xor-execute and NoNewPrivileges, by seccomp. What the unit answers with EPERM kills the process here, so that a test
notices a call that the unit's author did not think of.

    under_unit.py UNIT [DROP-IN...] -- PROGRAM ARGUMENT...

Capabilities are the caller's to drop (setpriv)."""

import ctypes
import errno
import functools
import os
import platform
import socket
import subprocess
import sys

PR_SET_NO_NEW_PRIVS = 38
PROT_WRITE, PROT_EXEC = 2, 4
AF = {"AF_INET": socket.AF_INET, "AF_INET6": socket.AF_INET6, "AF_UNIX": socket.AF_UNIX, "AF_NETLINK": socket.AF_NETLINK}


def settings(*files):
    """The [Service] section: each key with its values in order; an empty assignment forgets the earlier ones."""
    found = {}
    for file in files:
        section = ""
        for line in open(file):
            line = line.strip()
            if line.startswith("["):
                section = line
            elif section == "[Service]" and "=" in line and not line.startswith("#"):
                key, value = line.split("=", 1)
                if value.strip():
                    found.setdefault(key, []).append(value.strip())
                else:
                    found[key] = []
    return found


def last(unit, key, default=""):
    return unit.get(key, [default])[-1]


@functools.cache
def expand(word):
    """A system call's name, or the calls of one of systemd's sets."""
    if not word.startswith("@"):
        return frozenset([word])
    listed = subprocess.run(["systemd-analyze", "syscall-filter", word], capture_output=True, text=True, check=True).stdout
    words = [line.strip() for line in listed.splitlines() if line.startswith("    ") and not line.strip().startswith("#")]
    return frozenset().union(*(expand(inner) for inner in words))


def allowed_calls(unit):
    """SystemCallFilter of systemd.exec(5): an allow-list that later lines add to, or with ~ take from."""
    values = unit["SystemCallFilter"]
    assert not values[0].startswith("~"), "the first line says whether it is an allow-list"
    calls = set(expand("@default"))
    for value in values:
        words = frozenset().union(*(expand(word) for word in value.lstrip("~").split()))
        calls = calls - words if value.startswith("~") else calls | words
    return calls


def confine(unit):
    import seccomp

    rules = seccomp.SyscallFilter(seccomp.KILL_PROCESS)
    families = [AF[name] for name in last(unit, "RestrictAddressFamilies").split()]
    exclusive = last(unit, "MemoryDenyWriteExecute") == "yes"
    for call in sorted(allowed_calls(unit)):
        try:
            number = seccomp.resolve_syscall(seccomp.Arch(), call)
        except ValueError:
            continue
        if number < 0:
            continue  # another architecture's
        if call == "socket" and families:
            for family in families:
                rules.add_rule(seccomp.ALLOW, call, seccomp.Arg(0, seccomp.EQ, int(family)))
        elif call in ("mprotect", "pkey_mprotect") and exclusive:
            rules.add_rule(seccomp.ALLOW, call, seccomp.Arg(2, seccomp.MASKED_EQ, PROT_EXEC, 0))
        elif call == "mmap" and exclusive:
            for protection in (0, PROT_WRITE, PROT_EXEC):  # anything but both
                rules.add_rule(seccomp.ALLOW, call, seccomp.Arg(2, seccomp.MASKED_EQ, PROT_WRITE | PROT_EXEC, protection))
        else:
            rules.add_rule(seccomp.ALLOW, call)
    if last(unit, "NoNewPrivileges") == "yes":
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    rules.load()


if __name__ == "__main__":
    split = sys.argv.index("--")
    command = sys.argv[split + 1:]
    confine(settings(*sys.argv[1:split]))
    os.execv(command[0], command)
