"""Waiting for a node's answer: the row is polled, no database connection is held meanwhile."""

from __future__ import annotations

import time

from django.db import connection
from drf_spectacular.utils import OpenApiParameter
from rest_framework import status
from rest_framework.request import Request
from rest_framework.response import Response

from agent.protocol.errors import InvalidInput, RemoteError
from agent.protocol.states import NodeState
from nodes import actions
from nodes.api.serializers import ActionSerializer
from nodes.errors import NodeUnreachable
from nodes.models import Action, ActionState, Node

WAIT = OpenApiParameter(
    "wait", float, description="Seconds to wait for the node's answer (default 15); after that 202 with Location."
)
DEFAULT_WAIT = 15.0
LONGEST_WAIT = 60.0


def wait_of(text: str | None) -> float:
    """The `wait` query parameter in seconds: 0 answers 202 at once."""
    try:
        wait = float(text) if text else DEFAULT_WAIT
    except ValueError:
        raise InvalidInput("wait: must be a number of seconds", field="wait") from None
    if not 0 <= wait <= LONGEST_WAIT:
        raise InvalidInput(f"wait: must be 0-{LONGEST_WAIT:.0f} seconds", field="wait")
    return wait


def refuse_unreachable(node: Node) -> None:
    """Acts are for now: a node that is down would carry them out at some surprising later time."""
    if node.state in (NodeState.DOWN, NodeState.LEFT):
        raise NodeUnreachable(f"node {node.hostname} is {node.state}: {node.state_reason or 'no link'}", node=node.pk)


def wait_for(action: Action, seconds: float) -> Action:
    """The action once it has finished, or as it stands after `seconds`. Raises what the node answered for a failed one."""
    deadline = time.monotonic() + seconds
    pause = 0.02
    while True:
        action = actions.outcome(action.pk)
        if action.state in (ActionState.FAILED, ActionState.EXPIRED):
            raise RemoteError(action.error)
        if action.finished or time.monotonic() >= deadline:
            return action
        if not connection.in_atomic_block:
            connection.close()
        time.sleep(pause)
        pause = min(pause * 1.5, 0.25)


def answer(request: Request, made: Action, code: int = status.HTTP_200_OK) -> Response:
    """The finished action with `code`, or after the request's `wait` 202 and where to ask again."""
    made = wait_for(made, wait_of(request.query_params.get("wait")))
    if made.finished:
        return Response(ActionSerializer(made).data, status=code)
    location = {"Location": f"/api/v1/actions/{made.pk}"}
    return Response(ActionSerializer(made).data, status=status.HTTP_202_ACCEPTED, headers=location)
