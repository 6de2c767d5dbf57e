"""The paged list of instances: filters, order, pages of at most 25 rows, tokens. Pure."""

import base64
import binascii
import json
from collections import Counter
from collections.abc import Mapping
from typing import Any

from .market import UnknownKey, holds, in_order
from .wire import LIST_KEYS, Answer, invalid_request, refused

PAGE = 25


def page(rows: list[dict[str, Any]], query: Mapping[str, str]) -> Answer:
    """One page of the list; the query's values are JSON."""
    try:
        filters = _object(query.get("select_filters"))
        order = json.loads(query.get("order_by") or "[]")
        columns = json.loads(query.get("select_cols") or "null")
        limit = int(query.get("limit") or PAGE)
    except ValueError:
        return invalid_request("Error in query parameters: malformed JSON")
    if not 1 <= limit <= PAGE:
        return invalid_request(f"Error in query parameters: limit must be between 1 and {PAGE}")
    try:
        for name in filters:
            _column(name)
        found = [row for row in rows if _matches(row, filters)]
        found = in_order(found, [(_column(one.get("col")), one.get("dir", "asc")) for one in order] or [("id", "asc")])
    except UnknownKey as error:
        return invalid_request(f"Error in query parameters: {error} is not a valid search key")
    token = query.get("after_token")
    begin = 0
    if token:
        last = _read_token(token)
        if last is None:
            return refused(400, "invalid_token", "Invalid after_token.")
        # After the row the token names, or where it stood if it is gone by now.
        place = next((place for place, row in enumerate(found) if row["id"] == last[0]), None)
        begin = last[1] if place is None else place + 1
    cut = found[begin : begin + limit]
    more = begin + limit < len(found)
    shown = cut if not columns or columns == ["*"] else [{name: row.get(name) for name in columns} for row in cut]
    return Answer(
        200,
        {
            "success": True,
            "instances_found": len(found),
            "total_instances": len(rows),
            "label_counts": dict(Counter(row["label"] or "" for row in rows)),
            "next_token": _token(cut[-1]["id"], begin + limit - 1) if more else None,
            "instances": shown,
        },
    )


def _object(text: str | None) -> dict[str, Any]:
    value = json.loads(text or "{}")
    if not isinstance(value, dict):
        raise ValueError("not an object")
    return value


def _column(name: Any) -> str:
    if name not in LIST_KEYS:
        raise UnknownKey(name)
    return str(name)


def _matches(row: Mapping[str, Any], filters: Mapping[str, Any]) -> bool:
    for name, conditions in filters.items():
        if not isinstance(conditions, Mapping):
            raise UnknownKey(name)
        if not all(holds(row[name], operation, wanted) for operation, wanted in conditions.items()):
            return False
    return True


def _token(last: int, place: int) -> str:
    return base64.urlsafe_b64encode(json.dumps([last, place]).encode()).decode()


def _read_token(token: str) -> tuple[int, int] | None:
    try:
        last, place = json.loads(base64.urlsafe_b64decode(token.encode()))
        return int(last), int(place)
    except (ValueError, TypeError, binascii.Error):
        return None
