"""What goes wrong with a call: chosen here, carried out by the front. Pure.

A fault hits one operation (or `any`), after so many calls, so many times.
"""

from .model import Fault
from .wire import (
    DEPRECATED,
    DEPRECATED_BODY,
    HTML_403,
    INVALID_KEY,
    NO_CREDIT,
    NO_LOGIN,
    QUEUED,
    SPEND_RATE,
    Answer,
    ask_gone,
    lacks_permission,
    no_such_ask,
    refused,
    search_quota,
    too_frequent,
)

# Seconds between two calls of one operation, as the documentation has them.
INTERVALS = {
    "create": 4.5,
    "destroy": 3.0,
    "show": 2.0,
    "list": 1.0,
    "state": 1.0,
    "reboot": 1.0,
    "ssh-attach": 1.0,
    "ssh-detach": 2.0,
    "search": 6.0,
}

AFTER_COMMIT = frozenset({"commit-then-500", "commit-then-timeout", "commit-then-reset"})
NO_ANSWER = frozenset({"timeout", "reset"})


def pick(faults: list[Fault], op: str) -> Fault | None:
    """The first fault that is due for this call; counts the call for all that could apply."""
    chosen: Fault | None = None
    for fault in faults:
        if fault.on not in ("any", op):
            continue
        if fault.after > 0:
            fault.after -= 1
            continue
        if chosen is None and (fault.times is None or fault.hits < fault.times):
            fault.hits += 1
            chosen = fault
    return chosen


def answer(fault: Fault, op: str, ask: int, now: float) -> Answer | None:
    """What is answered instead; None where the fault is not an answer."""
    threshold = INTERVALS.get(op, 1.0)
    match fault.fault:
        case "status":
            if fault.status in (502, 503, 504):
                page = f"<html><head><title>{fault.status}</title></head><body>nginx</body></html>\r\n"
                return Answer(fault.status, page, "text/html")
            return refused(fault.status, "server_error", "Internal server error")
        case "html-403":
            return HTML_403
        case "429-text" | "429-detail" | "429-json":
            return too_frequent(fault.fault, threshold, fault.retryAfter)
        case "429-search-quota":
            return search_quota(20_000, now)
        case "wrong-key":
            return INVALID_KEY
        case "login-required":
            return NO_LOGIN
        case "lacks-permission":
            return lacks_permission(op)
        case "deprecated":
            return DEPRECATED
        case "deprecated-200":
            return Answer(200, DEPRECATED_BODY)
        case "no_such_ask":
            return no_such_ask(ask)
        case "no_such_ask-410":
            return ask_gone(ask)
        case "insufficient_credit":
            return NO_CREDIT
        case "spend_rate_limit":
            return SPEND_RATE
        case "resources_unavailable":
            return QUEUED
        case _:
            return None
