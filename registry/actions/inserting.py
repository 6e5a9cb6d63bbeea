"""INSERT statements made once from a model: compiling the same ORM insert costs several times what the database takes for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from django.db import connection
from django.db.models import AutoField, Field, Model


class Insert:
    """Rows of one model in one statement. Columns that are not given have the model's default. `conflict` is an ON CONFLICT."""

    def __init__(self, model: type[Model], conflict: str = "") -> None:
        self._model = model
        self._conflict = conflict

    @cached_property
    def _fields(self) -> list[Field[Any, Any]]:
        return [field for field in self._model._meta.concrete_fields if not isinstance(field, AutoField)]

    @cached_property
    def _begin(self) -> str:
        columns = ", ".join(connection.ops.quote_name(str(field.column)) for field in self._fields)
        return f"INSERT INTO {connection.ops.quote_name(self._model._meta.db_table)} ({columns}) VALUES "  # noqa: S608  # names

    @cached_property
    def _row(self) -> str:
        return f"({', '.join(['%s'] * len(self._fields))})"

    @cached_property
    def _defaults(self) -> dict[str, Any]:
        return {field.attname: field.get_db_prep_save(field.get_default(), connection) for field in self._fields}

    def execute(self, cursor: Any, rows: Sequence[Mapping[str, Any]]) -> None:
        """`rows` map attribute names to values that the database takes as they are."""
        if not rows:
            return
        defaults = self._defaults
        values = [row.get(field.attname, defaults[field.attname]) for row in rows for field in self._fields]
        cursor.execute(f"{self._begin}{', '.join([self._row] * len(rows))} {self._conflict}", values)
