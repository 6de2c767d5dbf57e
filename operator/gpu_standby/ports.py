"""What the controllers need from the outside, as Protocols. Adapters implement them; so will the simulator.

Errors are those of `errors`; a port never lets a library's own exception through.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

from gpu_standby.core.evidence import MachineAddress, Sample, StandbySample, Witness
from gpu_standby.core.market import InstanceList, Offer, OfferQuery, RentRequest

Document = dict[str, Any]
"""A Kubernetes object as JSON."""


class Clock(Protocol):
    def now(self) -> float:
        """Epoch seconds."""

    async def sleep(self, seconds: float) -> None: ...


class Kind(StrEnum):
    """The kinds we touch; the adapter knows their paths."""

    PAIR = "GpuStandbyPair"
    REPLACEMENT = "GpuReplacement"
    SERVICE = "Service"
    ENDPOINT_SLICE = "EndpointSlice"
    STATEFUL_SET = "StatefulSet"
    POD = "Pod"
    PERSISTENT_VOLUME_CLAIM = "PersistentVolumeClaim"
    JOB = "Job"
    CONFIG_MAP = "ConfigMap"
    SECRET = "Secret"  # noqa: S105 - the name of a kind
    SERVICE_ACCOUNT = "ServiceAccount"
    ROLE = "Role"
    ROLE_BINDING = "RoleBinding"


class EventType(StrEnum):
    NORMAL = "Normal"
    WARNING = "Warning"


class Cluster(Protocol):
    """The Kubernetes API. Every call is bounded; CannotTell when it did not answer."""

    async def get(self, kind: Kind, namespace: str, name: str) -> Document | None:
        """None: certainly not there (404)."""

    async def list(
        self, kind: Kind, namespace: str | None, labels: Mapping[str, str] | None = None
    ) -> Sequence[Document]:
        """All of them (a complete, quorum list)."""

    async def create(self, document: Document) -> Document:
        """Conflict when the name is taken."""

    async def apply(self, document: Document) -> Document:
        """Server-side apply, forced, as our field manager. With metadata.resourceVersion it is guarded: Conflict."""

    async def apply_status(self, document: Document) -> Document:
        """The same on the status subresource: apiVersion, kind, metadata, status."""

    async def patch(self, kind: Kind, namespace: str, name: str, body: Document) -> Document:
        """Merge patch; with metadata.resourceVersion in the body it is guarded."""

    async def delete(
        self, kind: Kind, namespace: str, name: str, *, uid: str | None = None, grace_seconds: int | None = None
    ) -> None:
        """Gone already is fine. Dependents are removed in the background."""

    async def event(self, involved: Document, kind: EventType, reason: str, message: str) -> None:
        """Best effort: a failure to post is logged, never raised."""


class Machine(Protocol):
    """One GPU machine as seen over SSH: held session, fresh confirmations, commands."""

    @property
    def address(self) -> MachineAddress: ...

    async def probe(self, timeout: float) -> Sample:
        """A nonce there and back on the held session, which is opened when there is none. Never raises."""

    async def confirm(self, timeout: float) -> Sample:
        """The same on a fresh connection. Never raises."""

    async def lost(self) -> str:
        """Returns, with the reason, when the held session ends (a pushed FIN or RST)."""

    def late_answer(self) -> float | None:
        """Time of the newest answer on the held session, also one that came after its probe had given up."""

    async def run(self, command: str, *, timeout: float, stdin: str | None = None) -> str:
        """Standard output. TargetDown, CommandFailed, MayHaveHappened (sent, not answered in time)."""

    async def start_workload(self, command: str, workspace: str) -> None:
        """Idempotent: in its own process session; running already is fine."""

    async def stop_workload(self, stop_seconds: int) -> None:
        """TERM, then KILL, then confirmed gone. No workload of ours is fine."""

    async def workload_running(self) -> bool: ...

    async def quiesce(self, command: str, timeout: float) -> None: ...

    async def authorize(self, public_keys: Sequence[str]) -> None:
        """Append what is missing to the account's authorized_keys (for existing machines)."""

    async def close(self) -> None: ...


class Standby(Protocol):
    """The standby's agent, asked over its one held session. AgentRefused carries the door's reason."""

    async def probe(self, timeout: float) -> StandbySample:
        """Never raises."""

    async def init(self, pair_uid: str, epoch: int) -> None: ...

    async def admit(self, pair_uid: str, epoch: int, public_key: str) -> None: ...

    async def reach(self, gpu: MachineAddress, timeout: float) -> Witness:
        """Never raises."""

    async def promote(self, pair_uid: str, epoch: int, timeout: float) -> Document: ...

    async def demote(self, pair_uid: str, epoch: int, stop_seconds: int) -> Document: ...

    async def stop(self, pair_uid: str, epoch: int, stop_seconds: int) -> None:
        """Stop the workload; the state on disk stays. `promote` of the same epoch resumes."""

    async def quiesce(self, pair_uid: str, epoch: int, command: str, timeout: float) -> None: ...

    async def collect(self, pair_uid: str, epoch: int, gpu: Document, exclude: Sequence[str], name: str) -> Document:
        """Set aside what the GPU has beyond the last sync. {files, bytes, deleted}."""

    async def forget(self, pair_uid: str) -> None: ...

    async def close(self) -> None: ...


class GpuProvider(Protocol):
    """A GPU market. Refused and its kinds are certain; MayHaveHappened and CannotTell are not."""

    async def search(self, query: OfferQuery) -> Sequence[Offer]: ...

    async def create(self, request: RentRequest) -> int:
        """The contract's id. OfferGone, NoCredit, Refused(contract=…) or MayHaveHappened."""

    async def list(self) -> InstanceList:
        """Complete or CannotTell; the key is proven to work in the same round."""

    async def start(self, contract: int) -> None: ...

    async def stop(self, contract: int) -> None: ...

    async def destroy(self, contract: int) -> None:
        """Asks; the proof is two lists without it. An unknown id is fine."""

    async def label(self, contract: int, label: str) -> None: ...

    async def attach_key(self, contract: int, public_key: str) -> None: ...


@dataclass(frozen=True)
class KeyPair:
    private: str
    """OpenSSH private key text. Never logged."""
    public: str
    """One OpenSSH public key line."""


class Connections(Protocol):
    """Makes the ports that need a secret."""

    def machine(self, address: MachineAddress, private_key: str) -> Machine: ...

    def standby_pod(self, host: str, port: int, host_key: str, private_key: str) -> Standby: ...

    def standby_host(
        self, host: str, port: int, user: str, host_key: str, private_key: str, path: str, configuration: Document
    ) -> Standby:
        """On an existing host: puts the agent there when its version differs, and configures it."""

    def provider(self, api_key: str) -> GpuProvider: ...

    def generate_key(self, comment: str) -> KeyPair: ...

    async def host_key(self, host: str, port: int, timeout: float) -> str:
        """The public key presented at first contact. TargetDown."""

    async def resolve(self, host: str) -> str:
        """The address literal of a host name (an EndpointSlice takes nothing else). CannotTell."""

    async def service_answers(self, host: str, port: int, path: str | None, timeout: float) -> bool:
        """TCP connect, or with a path an HTTP status below 500. Never raises."""

    async def canary_answers(self, endpoint: str, timeout: float) -> bool:
        """TCP connect to "host:port". Never raises."""
