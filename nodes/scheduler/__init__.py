"""Which node takes which task. Pure: a snapshot in, a plan out; no ORM, no clock, no I/O."""

from nodes.scheduler.place import place
from nodes.scheduler.plan import Assignment, Plan, Unplaced, explain

__all__ = ["Assignment", "Plan", "Unplaced", "explain", "place"]
