"""Topics of the fleet's hints (controlplane.events.hints). A hint says "look": losing all of them costs at most a heartbeat."""

ASSIGNMENTS = "nodes.assignments"  # {"nodes": [id]}: their desired sets changed
ACTIONS = "nodes.actions"  # {"node": id, "action": id}: one is queued
RESULTS = "nodes.results"  # {"action": id}: one has finished
SESSIONS = "nodes.sessions"  # {"node": id}: removed or approved, its link must look at the row
CONTAINERS = "nodes.containers"  # {"node": id}: what runs there changed
RECONCILE = "reconcile"  # {}: a service, task or node changed
