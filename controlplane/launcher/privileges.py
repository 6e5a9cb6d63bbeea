"""How a child loses root's rights, and how it still reaches our files when they lie where its user may not go.

A clone in /root is common, and /root has mode 0700: the user `wharfinger` cannot even enter it, so no interpreter below would
start. Opening /root to everybody is not ours to do. Instead the child gets a mount namespace of its own in which /root is an
almost empty tmpfs (mode 0755) that holds just the needed directories, bind-mounted back: the program, the virtual environment and
the interpreter read-only, WHARF_HOME writable. Nothing else of /root exists for the child, and nothing changes for anybody else.

util-linux does the work (unshare, mount, setpriv: all in Debian's essential packages); system calls belong to the agent.
"""

from __future__ import annotations

import os
import pwd
import shlex
import sys
from collections.abc import Iterable
from pathlib import Path

from agent.protocol.errors import InvalidInput
from controlplane.launcher.layout import SYSTEM_USER

ROOT = Path(__file__).resolve().parents[2]  # of the clone or of site-packages

# The parent may have died before the kernel was asked to tell us: then nobody would ever end us.
_ORPHAN_CHECK = '[ "$PPID" = "$1" ] || exit 1; shift; exec "$@"'


class SystemUser:
    """The user that web, worker and Valkey run as when the launcher is root."""

    def __init__(self, entry: pwd.struct_passwd) -> None:
        self.name = entry.pw_name
        self.uid = entry.pw_uid
        self.gid = entry.pw_gid

    @classmethod
    def find(cls) -> SystemUser | None:
        """None when we are not root. Raises InvalidInput when the user does not exist."""
        if os.geteuid() != 0:
            return None
        try:
            return cls(pwd.getpwnam(SYSTEM_USER))
        except KeyError:
            raise InvalidInput(
                f"The control plane never runs as root, and the user {SYSTEM_USER} does not exist. `make up` makes it, or"
                f" useradd --system --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin {SYSTEM_USER}"
            ) from None

    def may_enter(self, directory: Path) -> bool:
        """May the user search `directory`? Its groups are cleared, so only its own one counts."""
        found = directory.stat()
        if found.st_uid == self.uid:
            return bool(found.st_mode & 0o100)
        return bool(found.st_mode & (0o010 if found.st_gid == self.gid else 0o001))


def obstacle(user: SystemUser, path: Path) -> Path | None:
    """The uppermost directory above `path` that `user` may not enter, None when the way is free."""
    for parent in reversed(path.parents):
        if not user.may_enter(parent):
            return parent
    return None


def links_on_the_way(path: Path) -> list[tuple[Path, str]]:
    """(link, target) of every symbolic link that is followed from `path` to the file."""
    found: list[tuple[Path, str]] = []
    walked = Path("/")
    parts = list(path.parts[1:])
    while parts and len(found) < 40:  # the kernel's own limit of nested links
        part = parts.pop(0)
        if part == "..":
            walked = walked.parent
            continue
        walked = walked / part
        if walked.is_symlink():
            target = str(walked.readlink())
            found.append((walked, target))
            following = Path(target)
            parts = [*(following.parts[1:] if following.is_absolute() else following.parts), *parts]
            walked = Path("/") if following.is_absolute() else walked.parent
    return found


class View:
    """The mount namespace of a child: what is hidden, what is bound back."""

    def __init__(self, user: SystemUser, read_only: Iterable[Path], writable: Iterable[Path], stage: Path) -> None:
        self.stage = stage
        self.hidden: list[Path] = []
        self.binds: list[tuple[Path, bool]] = []
        self.links: list[tuple[Path, str]] = []
        for path, writes in [*((path, False) for path in read_only), *((path, True) for path in writable)]:
            wall = obstacle(user, path)
            if wall is None or any(path == bound or bound in path.parents for bound, w in self.binds if w == writes):
                continue
            if wall not in self.hidden:
                self.hidden.append(wall)
            self.binds.append((path, writes))
        for link, target in links_on_the_way(Path(sys.executable)):
            if self._hidden(link) and not any(bound in link.parents for bound, _ in self.binds):
                self.links.append((link, target))

    def _hidden(self, path: Path) -> bool:
        return any(wall in path.parents for wall in self.hidden)

    @property
    def needed(self) -> bool:
        return bool(self.hidden)

    def script(self) -> str:
        """Shell text that builds the view and then becomes its arguments."""
        lines = ["set -e"]
        stage = shlex.quote(str(self.stage))
        for wall in self.hidden:
            lines.append(f"mount -t tmpfs -o mode=0755,size=1m,nosuid,nodev wharf-view {stage}")
            # shortest first, so that a home inside the clone is bound over the clone and not under it
            for path, writes in sorted(self.binds, key=lambda bind: len(bind[0].parts)):
                if wall in path.parents:
                    lines += self._bind(path, Path(str(self.stage)) / path.relative_to(wall), writes)
            for link, target in self.links:
                if wall in link.parents:
                    at = shlex.quote(str(self.stage / link.relative_to(wall)))
                    lines += [f"mkdir -p $(dirname {at})", f"ln -sfn {shlex.quote(target)} {at}"]
            lines += [f"mount -o remount,ro {stage}", f"mount --move {stage} {shlex.quote(str(wall))}"]
        return "\n".join([*lines, 'exec "$@"'])

    def _bind(self, path: Path, at: Path, writes: bool) -> list[str]:
        source, target = shlex.quote(str(path)), shlex.quote(str(at))
        lines = [f"mkdir -p {target}", f"mount --bind {source} {target}"]
        return lines if writes else [*lines, f"mount -o remount,bind,ro,nosuid {target}"]


def bind_fate(command: list[str]) -> list[str]:
    """`command` as a child of this very process that dies with it, with all its rights: for the agent alone.

    It must not carry no_new_privs either: its containers would inherit that, and no sudo in them would work.
    """
    return ["setpriv", "--pdeathsig", "KILL", "--", "/bin/sh", "-c", _ORPHAN_CHECK, "sh", str(os.getpid()), *command]


def drop(command: list[str], user: SystemUser | None, view: View | None) -> list[str]:
    """`command` as a child of this very process: dies with us, gains no rights by exec, is `user` in `view` when given."""
    fate = ["--pdeathsig", "KILL", "--no-new-privs"]
    become = (
        [f"--reuid={user.uid}", f"--regid={user.gid}", "--clear-groups", "--inh-caps=-all", "--bounding-set=-all"] if user else []
    )
    inner = ["setpriv", *become, *fate, "--", "/bin/sh", "-c", _ORPHAN_CHECK, "sh", str(os.getpid()), *command]
    if view is not None and view.needed:
        return ["unshare", "--mount", "--propagation", "private", "--", "/bin/sh", "-c", view.script(), "sh", *inner]
    return inner


def needed_paths() -> list[Path]:
    """What a child reads: the program, the virtual environment, the interpreter."""
    interpreter = Path(os.path.realpath(sys.executable))
    candidates = [ROOT, Path(sys.prefix), Path(os.path.realpath(sys.prefix)), Path(sys.base_prefix), interpreter.parent.parent]
    return [path for path in dict.fromkeys(candidates) if path not in {Path("/"), Path("/usr"), Path("/usr/local")}]
