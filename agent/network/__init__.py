"""Networks of a node: bridges, addresses, published ports, names. `agent.network.manager.Networks` is the way in."""
