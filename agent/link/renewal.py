"""The node certificate's renewal: a fresh key each time, asked for over the node's own live link."""

from __future__ import annotations

import asyncio
import logging
import random
from datetime import UTC, datetime

from agent.link.identity import Identity, new_key_and_csr
from agent.link.link import Link
from agent.protocol.errors import WharfError

log = logging.getLogger(__name__)

LONGEST_SLEEP = 3600.0  # wall clocks jump: look again at least this often
FIRST_RETRY, LONGEST_RETRY = 5.0, 3600.0


async def renew_for_ever(identity: Identity, link: Link) -> None:
    """Renew at a random point between 50 and 80 % of each certificate's life; failures are retried from 5 s doubling to 1 h."""
    retry = FIRST_RETRY
    fraction = random.uniform(0.5, 0.8)  # noqa: S311  # spreads the fleet's renewals
    while True:
        wait = (identity.renewal_due(fraction) - datetime.now(UTC)).total_seconds()
        if wait > 0:
            await asyncio.sleep(min(wait, LONGEST_SLEEP))
            continue
        try:
            await renew(identity, link)
        except WharfError as error:
            log.warning("certificate renewal: %s; trying again in %.0f s", error.detail, retry)
            await asyncio.sleep(retry)
            retry = min(retry * 2, LONGEST_RETRY)
        else:
            retry = FIRST_RETRY
            fraction = random.uniform(0.5, 0.8)  # noqa: S311  # as above


async def renew(identity: Identity, link: Link) -> None:
    """Replace key and certificate now; the link keeps its session, the next connection uses the new ones."""
    key, csr = new_key_and_csr(link.node_id)
    reply = await link.questions.certificate(csr)
    if reply.ca:
        identity.replace_roots(reply.ca)  # first: the new certificate may be of a root that the old file does not have
    identity.replace_certificate(key, reply.certificate)
    log.info("certificate renewed")
