"""The installation id: made once, kept in a ConfigMap, part of every label at a provider.

Two clusters on one account never meet. It is created, never overwritten: a new id would orphan what the old one rented.
"""

import secrets

from gpu_standby.api.names import INSTALLATION_ID_KEY
from gpu_standby.errors import CannotTell, Conflict
from gpu_standby.ports import Cluster, Kind


async def installation_id(cluster: Cluster, namespace: str, name: str) -> str:
    found = await cluster.get(Kind.CONFIG_MAP, namespace, name)
    if found is None:
        document = {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": name, "namespace": namespace},
            "data": {INSTALLATION_ID_KEY: secrets.token_hex(6)},
            "immutable": True,
        }
        try:
            found = await cluster.create(document)
        except Conflict:
            found = await cluster.get(Kind.CONFIG_MAP, namespace, name)
    value = (found or {}).get("data", {}).get(INSTALLATION_ID_KEY, "")
    if not value:
        raise CannotTell(f"the ConfigMap {namespace}/{name} has no {INSTALLATION_ID_KEY!r}: it must not be emptied")
    return str(value)
