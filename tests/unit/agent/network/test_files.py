"""The three files in /etc."""

from __future__ import annotations

import os
from pathlib import Path

from agent.network import files
from agent.sys.mount import Mount


def written(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


def test_the_nodes_resolvers_without_loopback(tmp_path: Path) -> None:
    path = written(
        tmp_path / "r",
        "# c\nnameserver 127.0.0.53\nnameserver 10.0.0.1 # x\nnameserver ::1\nsearch a b\noptions edns0\nsortlist x\n",
    )
    assert files.of_node([path]) == files.Resolver(("10.0.0.1",), ("a", "b"), ("edns0",))


def test_systemds_own_file_is_used_when_the_node_asks_a_stub(tmp_path: Path) -> None:
    stub = written(tmp_path / "stub", "nameserver 127.0.0.53\nsearch lan\n")
    real = written(tmp_path / "real", "nameserver 192.0.2.53\n")
    assert files.of_node([stub, real]).nameservers == ("192.0.2.53",)
    assert files.of_node([stub]) == files.Resolver(files.FALLBACK, ("lan",), ())
    assert files.of_node([str(tmp_path / "none")]) == files.Resolver(files.FALLBACK)


def test_the_agent_itself_may_ask_the_stub(tmp_path: Path) -> None:
    assert files.upstream(written(tmp_path / "r", "nameserver 127.0.0.53\nnameserver fe80::1\n")) == ("127.0.0.53",)
    assert files.upstream(str(tmp_path / "none")) == files.FALLBACK


def test_our_own_resolver() -> None:
    text = files.embedded(files.Resolver(("10.0.0.1",), ("lan",), ("ndots:5", "edns0"))).text()
    assert text == "nameserver 127.0.0.11\nsearch lan\noptions ndots:0 edns0\n"


def test_hosts() -> None:
    text = files.hosts("web", ["172.17.0.2", "10.0.0.2"], {"db": "10.0.0.9"})
    assert text.startswith("127.0.0.1\tlocalhost\n::1\tlocalhost ")
    assert text.endswith("10.0.0.9\tdb\n172.17.0.2\tweb\n10.0.0.2\tweb\n")


def test_files_are_written_in_place_so_that_bound_ones_change(tmp_path: Path) -> None:
    resolver = files.Resolver(("10.0.0.1",))
    mounts = files.write(str(tmp_path), hostname="web", hosts_text="a\n", resolver=resolver)
    assert mounts[1] == Mount("bind", str(tmp_path / "hosts"), "/etc/hosts", ("rbind", "rprivate"))
    assert [mount.target for mount in mounts] == ["/etc/hostname", "/etc/hosts", "/etc/resolv.conf"]
    before = os.stat(tmp_path / "hosts").st_ino
    files.write(str(tmp_path), hostname="web", hosts_text="b\n", resolver=resolver)
    assert os.stat(tmp_path / "hosts").st_ino == before
    assert (tmp_path / "hosts").read_text() == "b\n"
    assert (tmp_path / "hostname").read_text() == "web\n"
    assert (tmp_path / "resolv.conf").stat().st_mode & 0o777 == 0o644
