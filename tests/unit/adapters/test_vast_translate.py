"""Vast.ai's many words for a machine's state, read as few."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpu_standby.adapters.vast import translate
from gpu_standby.core.market import InstanceState as State
from gpu_standby.errors import CannotTell

OCI = "Error response from daemon: failed to create task: OCI runtime create failed: x\n"


def row(
    actual: str | None, intended: str = "running", cur: str = "running", next_: str = "running", msg: str = ""
) -> Any:
    return {
        "id": 7,
        "actual_status": actual,
        "intended_status": intended,
        "cur_state": cur,
        "next_state": next_,
        "status_msg": msg,
    }


@pytest.mark.parametrize(
    ("what", "given_row", "state"),
    [
        ("fresh", row(None), State.BOOTING),
        ("pulling", row("loading", msg="a: Pulling from b\n"), State.BOOTING),
        ("created", row("created"), State.BOOTING),
        ("well", row("running"), State.RUNNING),
        ("stopped by us", row("exited", "stopped", "stopped", "stopped"), State.STOPPED),
        ("outbid while running", row("exited", "running", "stopped", "stopped"), State.STOPPED),
        ("outbid while loading", row("loading", "stopped", "stopped", "stopped"), State.STOPPED),
        ("died at boot", row("created", "stopped", "stopped", "stopped", OCI), State.BROKEN),
        ("just started", row("exited"), State.BOOTING),
        ("queued start", row("exited", "running", "stopped", "running"), State.BOOTING),
        ("scheduling", row("scheduling", "running", "stopped", "running"), State.BOOTING),
        ("host gone", row("offline"), State.OFFLINE),
        ("no heartbeat", row("unknown"), State.UNKNOWN),
        ("frozen", row("frozen"), State.UNKNOWN),
        ("listing ended", row("stopped", "stopped", "stopped", "stopped"), State.STOPPED),
        ("being destroyed", row("running", next_="destroying"), State.ENDING),
        ("a word of tomorrow", row("teleporting"), State.UNKNOWN),
        ("running and complaining", row("running", msg=OCI), State.RUNNING),
    ],
)
def test_the_state_table(what: str, given_row: Any, state: State) -> None:
    assert translate.instance_state(given_row) is state, what


def test_newlines_strings_and_nulls_are_read() -> None:
    found = translate.instance(
        {
            **row("running"),
            "public_ipaddr": "203.0.113.7\n",
            "label": None,
            "dph_total": "0.4012",
            "ports": {
                "22/tcp": [{"HostIp": "0.0.0.0", "HostPort": "40022"}, {"HostIp": "::", "HostPort": "40023"}],  # noqa: S104
                "53/udp": [{"HostPort": "40053"}],
                "80/tcp": None,
                "81/tcp": [None, {"HostPort": ""}],
            },
        }
    )
    assert found.address == "203.0.113.7"
    assert found.label == ""
    assert found.ports == ((22, 40022),)
    assert str(found.price) == "0.401200"


def test_the_ports_of_a_machine_that_is_stopped_are_not_believed() -> None:
    old = {**row("exited", "stopped", "stopped", "stopped"), "ports": {"22/tcp": [{"HostPort": "40022"}]}}
    assert translate.instance(old).ports == ()


def test_a_row_without_an_id_makes_the_list_useless() -> None:
    with pytest.raises(CannotTell):
        translate.instance({"label": "x"})


@pytest.mark.parametrize(
    ("text", "code"),
    [("Sweden, SE", "SE"), (", JP", "JP"), ("Czechia", ""), (None, ""), ("California, US", "US"), ("US", "US")],
)
def test_regions(text: object, code: str) -> None:
    assert translate.region(text) == code


WORDS = st.sampled_from(["", "running\n", "22/tcp", "HostPort", "40022", "NaN", "1e999", "-5", "\u00e9"])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | WORDS,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(WORDS, inner, max_size=2),
    max_leaves=4,
)
KEYS = [
    "actual_status",
    "ports",
    "label",
    "public_ipaddr",
    "dph_total",
    "is_bid",
    "machine_id",
    "num_gpus",
    "cur_state",
]


@given(st.dictionaries(st.sampled_from(KEYS), JSON))
def test_no_row_with_an_id_is_too_odd_to_be_read(odd: dict[str, Any]) -> None:
    assert translate.instance({**odd, "id": 5}).contract == 5
    translate.offer({**odd, "id": 5, "machine_id": 6, "dph_total": 0.4}, bid=True)
