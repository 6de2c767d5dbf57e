"""A GpuReplacement: its name follows from why and when, so that deciding twice makes one (I6)."""

from gpu_standby.api import names
from gpu_standby.api.pair import GpuStandbyPair
from gpu_standby.api.replacement import ReplacementSpec, Why
from gpu_standby.core.objects.owned import Document, metadata


def replacement(pair: GpuStandbyPair, why: Why, epoch: int, serial: int, *, require_approval: bool = False) -> Document:
    name = names.replacement(pair.metadata.name, pair.metadata.uid, why.value, epoch, serial)
    meta = metadata(pair, name)
    # From birth: a machine must never be rented for an object that could vanish without us.
    meta["finalizers"] = [names.FINALIZER]
    spec = ReplacementSpec(pair=pair.metadata.name, why=why, epoch=epoch, require_approval=require_approval).document()
    return {
        "apiVersion": names.API_VERSION,
        "kind": names.REPLACEMENT_KIND,
        "metadata": meta,
        "spec": spec,
    }
