"""Operations on events. Rows carry their collection by value, so the engine filters on the path column itself."""

from controlplane.api.access import register

OPERATIONS = {"Event": ["View", "Verify", "Compact"]}


def register_all() -> None:
    register("Event", "events.Event", OPERATIONS["Event"], collection="@collection_path")
