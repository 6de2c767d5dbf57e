# Operator, mover and agent in one image. Non-root; works with a read-only root file system.
ARG BASE=debian:12-slim
FROM ${BASE}
ARG PIP_CERT=

# rsync from the security archive: older ones let a hostile GPU out of its folder (CVE-2026-53783 and others).
RUN set -eu; \
    for command in sshd ssh rsync python3 catatonit; do command -v "$command" >/dev/null || missing=yes; done; \
    [ -z "${missing:-}" ] || { apt-get update; \
      apt-get install -y --no-install-recommends ca-certificates catatonit openssh-client openssh-server python3 \
        python3-venv rsync; rm -rf /var/lib/apt/lists/*; }; \
    groupadd --gid 10001 gpu-standby; \
    useradd --uid 10001 --gid 10001 --create-home --shell /bin/sh gpu-standby; \
    # sshd refuses an account without a password hash unless it is marked so.
    usermod --password '*' gpu-standby; \
    mkdir -p /run/sshd

COPY requirements.txt /usr/src/gpu-standby/
RUN python3 -m venv /opt/gpu-standby && \
    PIP_CERT=${PIP_CERT:-$(python3 -c 'import ssl; print(ssl.get_default_verify_paths().openssl_cafile)')} \
    /opt/gpu-standby/bin/pip install --no-cache-dir --disable-pip-version-check --require-hashes \
      -r /usr/src/gpu-standby/requirements.txt
COPY LICENSE /usr/src/gpu-standby/
COPY operator /usr/src/gpu-standby/operator
# The package is put beside its dependencies as it is: nothing of it has to be built.
RUN cp -r /usr/src/gpu-standby/operator/gpu_standby /opt/gpu-standby/lib/python3*/site-packages/ && \
    printf '#!/bin/sh\nexec /opt/gpu-standby/bin/python -m gpu_standby "$@"\n' >/usr/local/bin/gpu-standby && \
    chmod +x /usr/local/bin/gpu-standby && \
    /opt/gpu-standby/bin/python -m compileall -q /opt/gpu-standby/lib/python3*/site-packages/gpu_standby

ENV PATH=/opt/gpu-standby/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER 10001:10001
WORKDIR /home/gpu-standby
ENTRYPOINT ["gpu-standby"]
CMD ["run"]
