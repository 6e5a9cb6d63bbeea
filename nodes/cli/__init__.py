"""`wharf node`, `service`, `container` and `image`: clients of REST, of the stream socket and of /v2/; no Django.

A command is named by its module here and imported when it is called: `wharf` must start at once.
"""

COMMANDS = {
    "node": "nodes.cli.node:app",
    "service": "nodes.cli.service:app",
    "container": "nodes.cli.container:app",
    "image": "nodes.cli.image:app",
}
