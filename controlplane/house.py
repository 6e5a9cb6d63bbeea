"""Who lives here. Read by settings and, without Django, by the command line."""

GUESTS = ("registry", "nodes")
