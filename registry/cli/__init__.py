"""`wharf repo` and `wharf robot`: clients of the REST interface, one file a noun; no Django.

A command is named by its module here and imported when it is called: `wharf` must start at once.
"""

COMMANDS = {
    "proxy": "registry.cli.proxies:app",
    "webhook": "registry.cli.webhooks:app",
    "repo": "registry.cli.commands:app",
    "robot": "registry.cli.robots:app",
}
