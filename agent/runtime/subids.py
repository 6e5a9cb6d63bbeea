"""Ids that the machine lends to a user: /etc/subuid and /etc/subgid (subuid(5))."""

from __future__ import annotations

import pwd

SUBUID, SUBGID = "/etc/subuid", "/etc/subgid"


def lent(path: str, uid: int) -> list[tuple[int, int]]:
    """(first, count) of each of the user's ranges in order; lines name him or his number. [] without the file."""
    names = {str(uid)}
    try:
        names.add(pwd.getpwuid(uid).pw_name)
    except KeyError:
        pass  # a user without a name
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            lines = [line.strip().split(":") for line in file]
    except (FileNotFoundError, PermissionError):
        return []
    return [
        (int(words[1]), int(words[2]))
        for words in lines
        if len(words) == 3 and words[0] in names and words[1].isdigit() and words[2].isdigit() and int(words[2])
    ]


def mappings(path: str, uid: int, own: int) -> list[dict[str, int]]:
    """The OCI mappings that a user without wishes gets: himself as 0, then one after the other all that he was lent."""
    found = [{"containerID": 0, "hostID": own, "size": 1}]
    following = 1
    for first, count in lent(path, uid):
        found.append({"containerID": following, "hostID": first, "size": count})
        following += count
    return found
