# What the scripts of this folder share; sourced, never run.
# shellcheck shell=bash disable=SC2034

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
top=$(cd "$here/../.." && pwd)
cache=${GPU_STANDBY_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/gpu-standby}
images=$cache/images
base=localhost/gpu-standby-base:12

export STORAGE_DRIVER=overlay BUILDAH_ISOLATION=chroot
buildah() { command buildah --root "$cache/buildah/root" --runroot "$cache/buildah/run" "$@"; }
say() { printf '%s\n' "$*" >&2; }

# archive TAG FILE: the image as an archive that the cluster's runtime imports under that very name.
archive() {
  rm -f "$2"
  buildah push --quiet "$1" "docker-archive:$2:$1"
}
