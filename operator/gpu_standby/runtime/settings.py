"""kopf's settings, each with its reason."""

import kopf

from gpu_standby.api.names import FINALIZER, GROUP


def apply(settings: kopf.OperatorSettings) -> None:
    # Log lines are not events: we post our own, on transitions.
    settings.posting.enabled = False
    # A Lease, not peering: peering's 60 s lifetimes and its freezes are worse than none.
    settings.peering.standalone = True
    # An error that reaches kopf must not silence a pair for the default minute.
    settings.execution.default_backoff = 5
    # Without it a deletion may hang for a minute on a daemon in the midst of something.
    settings.background.cancellation_polling = 1
    # Watches that die silently behind a load balancer are renewed in time.
    settings.watching.server_timeout = 300
    settings.watching.client_timeout = 330
    settings.watching.connect_timeout = 10
    # The default five minutes hide an API server that is gone.
    settings.networking.request_timeout = 30
    settings.networking.connect_timeout = 5
    # Ours, so that it says whose it is; changing it later is a migration.
    settings.persistence.finalizer = FINALIZER
    settings.persistence.progress_storage = kopf.AnnotationsProgressStorage(prefix=GROUP)
    settings.persistence.diffbase_storage = kopf.AnnotationsDiffBaseStorage(
        prefix=GROUP, key="last-handled-configuration"
    )
    settings.scanning.disabled = True
