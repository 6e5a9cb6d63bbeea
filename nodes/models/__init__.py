"""Rows of the fleet, one noun a file."""

from nodes.models.action import Action, ActionState
from nodes.models.container import Container, NodeImage
from nodes.models.join_token import JoinToken
from nodes.models.node import Node
from nodes.models.sample import UsageSample
from nodes.models.service import Service
from nodes.models.stream_ticket import StreamTicket
from nodes.models.task import HostPort, RestartHistory, Task
from nodes.models.watch import Watch
from nodes.models.web_process import WebProcess

__all__ = [
    "Action",
    "ActionState",
    "Container",
    "HostPort",
    "JoinToken",
    "Node",
    "NodeImage",
    "RestartHistory",
    "Service",
    "StreamTicket",
    "Task",
    "UsageSample",
    "Watch",
    "WebProcess",
]
