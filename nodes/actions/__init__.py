"""Every write on the fleet: one function, one transaction, one event. What views, the link and jobs call."""

from nodes.actions.administration import (
    approve_node,
    end_adoption,
    release_brake,
    remove_node,
    set_availability,
    update_node,
)
from nodes.actions.apply import apply
from nodes.actions.assign import assign
from nodes.actions.container import create_container
from nodes.actions.joining import Joined, create_join_token, join, revoke_join_token, sign_renewal
from nodes.actions.leases import Synced
from nodes.actions.leases import sync as sync_leases
from nodes.actions.one_shot import complete_action, outcome, pull_image, queue_action
from nodes.actions.report import record_contents, record_inventory, record_samples, report
from nodes.actions.round import Round, reconcile_round
from nodes.actions.service import create_service, move_service, remove_service, roll_back, scale, update_service
from nodes.actions.session import Registration, link_lost, register, touch_leases
from nodes.actions.sweep import leave_watch, sweep, take_watch, tidy

__all__ = [
    "Joined",
    "Registration",
    "Round",
    "Synced",
    "apply",
    "approve_node",
    "assign",
    "complete_action",
    "create_container",
    "create_join_token",
    "create_service",
    "end_adoption",
    "join",
    "leave_watch",
    "link_lost",
    "move_service",
    "outcome",
    "pull_image",
    "queue_action",
    "reconcile_round",
    "record_contents",
    "record_inventory",
    "record_samples",
    "register",
    "release_brake",
    "remove_node",
    "remove_service",
    "report",
    "revoke_join_token",
    "roll_back",
    "scale",
    "set_availability",
    "sign_renewal",
    "sweep",
    "sync_leases",
    "take_watch",
    "tidy",
    "touch_leases",
    "update_node",
    "update_service",
]
