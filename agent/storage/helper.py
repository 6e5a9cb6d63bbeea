"""The extraction helper: a process that unpacks one archive and owns nothing but the directory it fills.

Started by `agent.storage.extract` as `python -I -c "…; main()" <config json>` with the archive as standard input. It gives up
the host step by step: limits on memory, CPU time and file size; own user, network, IPC and UTS namespaces; chroot;
no_new_privs; Landlock without execution; all capabilities but those that restore owners and modes; a system call filter. Then it
reads the first byte of the archive. Everything it needs is imported before the chroot: there is no library to load afterwards.
"""

from __future__ import annotations

import hashlib
import json
import os
import queue
import resource
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any, Final

from agent.protocol.errors import WharfError
from agent.storage import compression, confine
from agent.storage.errors import ExtractionFailed
from agent.storage.limits import Limits, Rights
from agent.storage.tarread import TarReader
from agent.storage.unpack import Unpacker
from agent.sys import cred, landlock, process

ISOLATED: Final = b"isolated\n"
NOT_ISOLATED: Final = b"shared\n"
_CAP_CHOWN, _CAP_DAC_OVERRIDE, _CAP_FOWNER, _CAP_FSETID, _CAP_SETFCAP = 0, 1, 3, 4, 31
_AHEAD: Final = 8  # chunks of at most 1 MiB
_LANDLOCK_EXECUTE, _LANDLOCK_MAKE_SOCK, _LANDLOCK_MAKE_BLOCK = 0x1, 0x200, 0x800
_NAMESPACES: Final = process.CLONE_NEWUSER | process.CLONE_NEWNET | process.CLONE_NEWIPC | process.CLONE_NEWUTS


def main() -> None:
    """Entry point; the answer is one JSON object on standard output: the result, or {"error": …}."""
    config = json.loads(sys.argv[1])
    try:
        answer = _extract(config)
    except WharfError as error:
        answer = {"error": error.as_dict()}
    except MemoryError:
        answer = {"error": ExtractionFailed("the extraction helper ran out of its memory limit").as_dict()}
    except OSError as error:
        answer = {"error": ExtractionFailed(f"extraction: {error}").as_dict()}
    os.write(1, b"\n")
    with os.fdopen(1, "wb", closefd=False) as output:
        output.write(json.dumps(answer).encode())


def _extract(config: dict[str, Any]) -> dict[str, Any]:
    limits = Limits(**config["limits"])
    rights = Rights(**config["rights"])
    _limit(limits)
    _isolate(config["go_fd"])
    os.fchdir(config["root_fd"])
    os.chroot(".")
    _drop(rights)
    return _unpack(limits, rights, config)


def _limit(limits: Limits) -> None:
    process.prctl(process.PR_SET_PDEATHSIG, signal.SIGKILL)
    for what, value in (
        (resource.RLIMIT_AS, limits.memory),
        (resource.RLIMIT_CPU, limits.seconds),
        (resource.RLIMIT_FSIZE, limits.max_bytes),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, 1024),
    ):
        hard = resource.getrlimit(what)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(what, (value, value))


def _isolate(go_fd: int) -> None:
    try:
        process.unshare(_NAMESPACES)
    except OSError:
        os.write(1, NOT_ISOLATED)
    else:
        # unshare made us undumpable, and then our parent could not open the uid_map it has to write.
        process.prctl(process.PR_SET_DUMPABLE, 1)
        os.write(1, ISOLATED)
    if os.read(go_fd, 1) != b"+":
        raise ExtractionFailed("the agent could not write the extraction helper's user mapping")
    os.close(go_fd)


def _drop(rights: Rights) -> None:
    process.prctl(process.PR_SET_NO_NEW_PRIVS, 1)
    handled = landlock.handled_by(landlock.abi())
    if landlock.abi():
        refused = _LANDLOCK_EXECUTE | _LANDLOCK_MAKE_SOCK | _LANDLOCK_MAKE_BLOCK
        landlock.restrict([(b"/", handled & ~refused)], handled)
    keep = [_CAP_CHOWN, _CAP_DAC_OVERRIDE, _CAP_FOWNER, _CAP_FSETID]
    if rights.keep_capabilities:
        keep.append(_CAP_SETFCAP)
    mask = sum(1 << number for number in keep) & cred.permitted_capabilities()
    cred.set_capabilities(mask, mask, 0)
    confine.load()


class _Ahead:
    """Decompress and hash in a second thread, a few chunks ahead of the thread that writes files.

    zlib, zstd and hashlib release the interpreter lock, so both processors work.
    """

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._queue: queue.Queue[bytes | BaseException | None] = queue.Queue(maxsize=_AHEAD)
        threading.Thread(target=self._work, daemon=True).start()

    def _work(self) -> None:
        try:
            for chunk in self._chunks:
                self._queue.put(chunk)
            self._queue.put(None)
        except BaseException as error:  # noqa: BLE001  # carried over to the reading thread, which raises it
            self._queue.put(error)

    def __iter__(self) -> Iterator[bytes]:
        while (chunk := self._queue.get()) is not None:
            if isinstance(chunk, BaseException):
                raise chunk
            yield chunk


def _unpack(limits: Limits, rights: Rights, config: dict[str, Any]) -> dict[str, Any]:
    compressed, plain = hashlib.new(config["algorithm"]), hashlib.sha256()
    tar_size = 0

    def observed() -> Iterator[bytes]:
        nonlocal tar_size
        for chunk in compression.plain_chunks(lambda size: os.read(0, size), limits, compressed.update):
            plain.update(chunk)
            tar_size += len(chunk)
            yield chunk

    root = os.open("/", os.O_RDONLY | os.O_DIRECTORY)
    unpacker = Unpacker(root, limits=limits, rights=rights, merged=config["merged"])
    os.umask(0)
    unpacker.run(TarReader(iter(_Ahead(observed())), limits))
    return {
        "compressed": f"{config['algorithm']}:{compressed.hexdigest()}",
        "diff_id": f"sha256:{plain.hexdigest()}",
        "tar_size": tar_size,
        "size": unpacker.size,
        "entries": unpacker.entries,
        "root_seen": unpacker.root_seen,
        "opaque": [path.decode("latin-1") for path in sorted(unpacker.tree.opaque)],
        "implicit": [path.decode("latin-1") for path in sorted(unpacker.tree.implicit)],
        "devices": [(path.decode("latin-1"), *device) for path, device in sorted(unpacker.tree.devices.items())],
    }
