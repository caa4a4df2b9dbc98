# shellcheck shell=bash
# SPDX-License-Identifier: Apache-2.0
# CONTAINER_IMAGE: the job scripts start the program of an image instead of one on the file system, under pyxis (options of srun) or Apptainer
# (a command before the program). Sourced by common.sh, or written into the script by `sluice launch`.

# Settings that name a file; SLUICE_HOST may name a socket.
readonly container_files=(SLUICE_CHAT_TEMPLATE CHAT_TEMPLATE PROMPTS OUTPUT SLUICE_REQUEST_LOG REQUEST_LOG SLUICE_HOST)

# The folders that the program reads and writes, each once, where they exist: they have the same names inside.
container::folders() {
  local name path folders=() list=()
  mkdir -p "${SLUICE_HOME:-$HOME/.sluice}" && chmod 700 "${SLUICE_HOME:-$HOME/.sluice}"
  IFS=: read -ra list <<<"${MODEL_PATH:-}"
  list=("${SLUICE_MODEL:-}" "${MODEL_ID:-}" "${SLUICE_TOKENIZER:-}" "${TOKENIZER:-}" "${SLUICE_HOME:-$HOME/.sluice}" "${HF_HUB_CACHE:-}" "${HF_HOME:-$HOME/.cache/huggingface}" "${TGI_DIR:-}" "${list[@]}")
  for name in "${container_files[@]}"; do
    path=${!name:-}
    [[ ${path#unix:} != */* ]] || list+=("$(dirname "${path#unix:}")")
  done
  for path in "${list[@]}"; do
    [[ -n $path && -d $path ]] || continue
    path=$(realpath "$path")
    [[ " ${folders[*]} " == *" $path "* ]] || folders+=("$path")
  done
  # A snapshot of the hub's cache is made of links to blobs beside it.
  for path in "${folders[@]}"; do
    [[ $path != */snapshots/* || " ${folders[*]} " == *" ${path%/snapshots/*} "* ]] || folders+=("${path%/snapshots/*}")
  done
  [[ ! " ${folders[*]}" == *[,:]* ]] || job::err "a folder's name holds a comma or a colon, which container mounts cannot carry: ${folders[*]}"
  printf '%s\n' "${folders[@]}"
}

container::list() {
  local IFS=,
  echo "$*"
}

# "pyxis", "apptainer" or "singularity": CONTAINER_RUNTIME, else what this site has.
container::runtime() {
  local name
  case ${CONTAINER_RUNTIME:-auto} in
  pyxis | apptainer | singularity) echo "$CONTAINER_RUNTIME" ;;
  auto)
    if [[ -n ${SLURM_JOB_ID:-} && $(srun --help 2>&1) == *--container-image* ]]; then
      echo pyxis
      return
    fi
    for name in apptainer singularity; do
      command -v "$name" >/dev/null || continue
      echo "$name"
      return
    done
    job::err "CONTAINER_IMAGE is set, but srun has no --container-image (pyxis) and there is neither apptainer nor singularity on PATH; name its module in SITE_MODULES, or unset CONTAINER_IMAGE"
    ;;
  *) job::err "CONTAINER_RUNTIME=$CONTAINER_RUNTIME: expected auto, pyxis, apptainer or singularity" ;;
  esac
}

# Files are named in full: the program starts in another folder.
container::absolute() {
  local name
  for name in SLUICE_MODEL MODEL_ID SLUICE_TOKENIZER TOKENIZER "${container_files[@]}"; do
    [[ -z ${!name:-} || ! (-e ${!name} || $name == OUTPUT) ]] || export "$name=$(realpath -m "${!name}")"
  done
}

# Sets `program`, the command that is the program, and adds to `options` of srun.
container::program() {
  local runtime folder binds=() folders=()
  runtime=$(container::runtime) || exit 2
  container::absolute
  mapfile -t folders < <(container::folders)
  program=("${CONTAINER_BINARY:-sluice}")
  if [[ $runtime == pyxis ]]; then
    for folder in "${folders[@]}"; do binds+=("$folder:$folder"); done
    [[ -z ${CONTAINER_MOUNTS:-} ]] || binds+=("$CONTAINER_MOUNTS")
    options+=("--container-image=$CONTAINER_IMAGE" "--container-mounts=$(container::list "${binds[@]}")" --container-workdir=/)
  else
    binds=("${folders[@]}")
    [[ -z ${CONTAINER_MOUNTS:-} ]] || binds+=("$CONTAINER_MOUNTS")
    program=("$runtime" exec --bind "$(container::list "${binds[@]}")")
    [[ -z ${SLURM_GPUS_ON_NODE:-}${SLURM_JOB_GPUS:-}${CUDA_VISIBLE_DEVICES:-} ]] || program+=(--nv)
    program+=("$CONTAINER_IMAGE" "${CONTAINER_BINARY:-sluice}")
  fi
  job::log "in $CONTAINER_IMAGE by $runtime, with ${folders[*]}"
}
