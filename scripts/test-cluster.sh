#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# A real Slurm of two nodes on this machine, for tests: n1 and n2 are network namespaces with their own host name, address, PMIx folder
# and four pretend GPUs; the controller runs outside them. Nothing of the system is changed: all state is in one folder of /tmp.
# Usage: test-cluster.sh up|down|status|run COMMAND...|on NODE COMMAND...|next-job ID
# run: as on a login node; on: as on that node; next-job: the id of the next job, above all so far.
# Exit code 77: this machine cannot hold it (not root, no namespaces, a package missing); the reason is on standard error.
set -euo pipefail

readonly state=/tmp/sluice-test-cluster
readonly nodes=(n1 n2)
readonly net=10.77.0 bridge=sluice-br

cluster::log() { printf 'test-cluster: %s\n' "$*" >&2; }
cluster::err() {
  cluster::log "error: $*"
  exit 1
}
cluster::skip() {
  cluster::log "SKIPPED: $*"
  exit 77
}

# A test run holds the lock from up to down; nobody else ends its cluster.
cluster::not_in_use() {
  [[ -n ${SLUICE_CLUSTER_LOCKED:-} ]] || flock -n "$state.lock" true || cluster::err "a test run uses the cluster; wait for it to end"
}

cluster::need() {
  local command package missing=()
  while read -r command package; do
    command -v "$command" >/dev/null || [[ -x /usr/sbin/$command ]] || missing+=("$package")
  done <<'NEED'
slurmctld slurmctld
slurmd slurmd
srun slurm-client
munged munge
mpirun openmpi-bin
ip iproute2
nsenter util-linux
NEED
  ((${#missing[@]} == 0)) || cluster::skip "missing packages: ${missing[*]} (apt-get install slurm-wlm slurm-wlm-basic-plugins munge openmpi-bin iproute2)"
  ((EUID == 0)) || cluster::skip "two Slurm nodes need network namespaces, and those need root"
  unshare -n -m -u true 2>/dev/null || cluster::skip "this kernel or container does not permit network namespaces"
}

# The controller's port differs from a system Slurm's, so both may run.
cluster::write_config() {
  local cgroup=v1 i
  [[ $(stat -fc %T /sys/fs/cgroup) == cgroup2fs ]] && cgroup=v2
  mkdir -p "$state"/etc "$state"/ctl "$state"/pmix "$state"/dev "$state"/log
  for i in {0..3}; do mknod "$state/dev/nvidia$i" c 195 "$i"; done
  {
    printf '127.0.0.1 localhost\n%s.254 ctl %s\n' "$net" "$(uname -n)"
    printf '%s\n' "$net.1 n1" "$net.2 n2"
  } >"$state/etc/hosts"
  cat >"$state/etc/slurm.conf" <<CONF
ClusterName=sluice
SlurmctldHost=ctl($net.254)
SlurmctldPort=16817
SlurmdPort=16818
FirstJobId=1
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$state/munge/socket,cred_expire=15
CredType=cred/munge
StateSaveLocation=$state/ctl
SlurmdSpoolDir=$state/%n
SlurmctldPidFile=$state/ctl.pid
SlurmdPidFile=$state/%n.pid
SlurmctldLogFile=$state/log/ctl
SlurmdLogFile=$state/log/%n
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=pmix
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
SchedulerParameters=batch_sched_delay=1,sched_interval=5,bf_interval=5
ReturnToService=2
KillWait=5
MessageTimeout=60
SlurmdTimeout=300
JobRequeue=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobCompType=jobcomp/filetxt
JobCompLoc=$state/log/jobs
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
GresTypes=gpu
NodeName=n1 NodeAddr=$net.1 CPUs=8 RealMemory=1000 Gres=gpu:4 State=UNKNOWN
NodeName=n2 NodeAddr=$net.2 CPUs=8 RealMemory=1000 Gres=gpu:4 State=UNKNOWN
PartitionName=low Nodes=n[1-2] Default=YES PriorityTier=1 PreemptMode=REQUEUE GraceTime=5 MaxTime=INFINITE State=UP
PartitionName=high Nodes=n[1-2] PriorityTier=10 PreemptMode=OFF MaxTime=INFINITE State=UP
CONF
  echo "NodeName=n[1-2] Name=gpu Count=4 File=$state/dev/nvidia[0-3] Flags=nvidia_gpu_env" >"$state/etc/gres.conf"
  # With v2, Slurm 22.05 asks systemd for a scope unless told not to.
  printf 'CgroupPlugin=cgroup/%s\n' "$cgroup" >"$state/etc/cgroup.conf"
  [[ $cgroup == v1 ]] || echo 'IgnoreSystemd=yes' >>"$state/etc/cgroup.conf"
  echo "PMIxCliTmpDirBase=$state/pmix" >"$state/etc/mpi.conf"
}

cluster::network() {
  local i
  ip link add "$bridge" type bridge
  ip addr add "$net.254/24" dev "$bridge"
  ip link set "$bridge" up
  for i in 1 2; do
    ip netns add "sluice-n$i"
    ip link add "sluice-v$i" type veth peer name eth0 netns "sluice-n$i"
    ip link set "sluice-v$i" master "$bridge" up
    ip -n "sluice-n$i" addr add "$net.$i/24" dev eth0
    ip -n "sluice-n$i" link set eth0 up
    ip -n "sluice-n$i" link set lo up
  done
}

# cluster::enter NAME COMMAND...: in a mount and host-name namespace of its own; a node also in its network, with its own PMIx folder.
cluster::enter() {
  local name=$1 wrap=()
  shift
  [[ $name == ctl ]] || wrap=(nsenter "--net=/run/netns/sluice-$name")
  mkdir -p "$state/$name/pmix"
  # shellcheck disable=SC2016  # expanded by the inner shell
  SLURM_CONF="$state/etc/slurm.conf" "${wrap[@]}" unshare -m -u sh -c '
    state=$1 name=$2; shift 2
    hostname "$name"
    mount --bind "$state/etc/hosts" /etc/hosts
    [ "$name" = ctl ] || mount --bind "$state/$name/pmix" "$state/pmix"
    exec "$@"' sh "$state" "$name" "$@"
}

cluster::daemons() {
  local node
  mkdir "$state/munge"
  (umask 077 && dd if=/dev/urandom of="$state/munge/key" bs=128 count=1 status=none)
  munged --socket="$state/munge/socket" --key-file="$state/munge/key" --pid-file="$state/munge/pid" \
    --log-file="$state/munge/log" --seed-file="$state/munge/seed" --num-threads=2
  cluster::enter ctl slurmctld
  for node in "${nodes[@]}"; do cluster::enter "$node" slurmd -N "$node"; done
}

cluster::is_up() { [[ -f $state/up ]] && [[ -d /proc/$(cat "$state/ctl.pid" 2>/dev/null || echo none) ]]; }

cluster::failed() {
  cluster::log "error: it could not start; what its daemons said:"
  tail -n 8 "$state"/log/* "$state"/munge/log >&2
  cluster::down
  exit 1
}

cluster::up() {
  local waited=0
  cluster::need
  ! cluster::is_up || {
    cluster::log "already up"
    return 0
  }
  cluster::down
  mkdir -m 0755 "$state" || cluster::err "$state exists and is not ours: remove it"
  trap cluster::failed EXIT
  cluster::write_config
  cluster::network
  cluster::daemons
  until [[ $(cluster::run sinfo -h -N -p low -t idle -o %N 2>/dev/null | wc -l) == "${#nodes[@]}" ]]; do
    sleep 0.3
    ((++waited < 200)) || false
  done
  trap - EXIT
  touch "$state/up"
  cluster::log "up: ${nodes[*]}, partitions low and high"
}

# As on a login node: the names of the nodes resolve, and Slurm's commands find this cluster.
cluster::run() { cluster::enter ctl "$@"; }

# Ends a daemon by its pid file, at most a minute.
cluster::stop() {
  local pid
  [[ -f $1 ]] || return 0
  pid=$(cat "$1")
  kill "$pid" 2>/dev/null || return 0
  for _ in {1..600}; do
    [[ -d /proc/$pid ]] || return 0
    sleep 0.1
  done
}

# The controller takes FirstJobId only while starting; running jobs live through that.
cluster::next_job() {
  [[ $1 =~ ^[0-9]+$ ]] || cluster::err "next-job needs a job id, found '$1'"
  cluster::stop "$state/ctl.pid"
  sed -i "s/^FirstJobId=.*/FirstJobId=$1/" "$state/etc/slurm.conf"
  cluster::enter ctl slurmctld
  for _ in {1..100}; do
    [[ $(cluster::run scontrol ping 2>/dev/null) != *UP* ]] || return 0
    sleep 0.1
  done
  cluster::err "the controller did not come back; see $state/log/ctl"
}

cluster::down() {
  local node pid signal
  [[ -d $state ]] || return 0
  for node in "${nodes[@]}"; do # the daemons, the steps and whatever the jobs left: all that live in the node's network
    [[ -e /run/netns/sluice-$node ]] || continue
    for signal in TERM KILL; do
      for pid in $(ip netns pids "sluice-$node"); do kill -s "$signal" "$pid" 2>/dev/null || true; done
      for _ in {1..50}; do
        [[ -n $(ip netns pids "sluice-$node") ]] || break
        sleep 0.1
      done
    done
    ip link del "sluice-v${node#n}" 2>/dev/null || true # the kernel ends a namespace later, and its links with it
    ip netns del "sluice-$node"
  done
  cluster::stop "$state/ctl.pid"
  cluster::stop "$state/munge/pid"
  ip link del "$bridge" 2>/dev/null || true
  rm -rf "$state"
}

case ${1:-} in
up)
  ((EUID != 0)) || cluster::not_in_use
  cluster::up
  ;;
down)
  ((EUID == 0)) || cluster::skip "not root: nothing of ours can be running"
  cluster::not_in_use
  cluster::down
  cluster::log "down"
  ;;
status)
  cluster::is_up || cluster::err "not up; start it with: test-cluster.sh up"
  cluster::run sinfo -N -l
  cluster::run squeue
  ;;
run | on)
  cluster::is_up || cluster::err "not up; start it with: test-cluster.sh up"
  name=ctl
  [[ $1 == run ]] || { name=${2:?on needs a node, n1 or n2} && shift; }
  shift
  cluster::enter "$name" "$@"
  ;;
next-job)
  cluster::is_up || cluster::err "not up; start it with: test-cluster.sh up"
  cluster::next_job "${2:-}"
  ;;
*) cluster::err "unknown or missing command '${1:-}'; known are up, down, status, run COMMAND..., on NODE COMMAND..., next-job ID" ;;
esac
