#!/usr/bin/env bash
# A Slurm of one node, for the tests marked `slurm`: `eval "$(scripts/start_slurm.sh DIR)"`; `scripts/start_slurm.sh DIR stop`.
# Needs root and Debian's packages: apt-get install --no-install-recommends slurmctld slurmd slurm-client munge
# Everything lies in DIR, on ports of its own; a second start of a Slurm that answers only prints its SLURM_CONF.
set -euo pipefail
[ $# -ge 1 ] || { echo "usage: $0 DIR [start|stop]" >&2; exit 2; }
folder=$(mkdir -p "$1" && cd "$1" && pwd)
export SLURM_CONF=$folder/slurm.conf
# what the scripts in examples/slurm ask for, whatever the machine has: they are run as they are, on small data
cpus=32 memory=262144 gpus=4
host=$(hostname -s)

answers() { [ -f "$SLURM_CONF" ] && sinfo --noheader --states=idle,mixed,allocated --format=%n 2>/dev/null | grep -q .; }

stop() {
    for name in slurmd slurmctld munged; do
        [ -f "$folder/$name.pid" ] || continue
        kill "$(cat "$folder/$name.pid")" 2>/dev/null || true
        rm -f "$folder/$name.pid"
    done
}

launch() { # a daemon in the background, of a session of its own; its number goes into $1.pid
    setsid "$@" >"$folder/$1.log" 2>&1 </dev/null &
    echo $! >"$folder/$1.pid"
}

case "${2:-start}" in
    stop) stop; exit ;;
    start) ;;
    *) echo "usage: $0 DIR [start|stop]" >&2; exit 2 ;;
esac
if answers; then
    echo "export SLURM_CONF=$SLURM_CONF"
    exit
fi
for name in munged slurmctld slurmd sbatch; do
    PATH=$PATH:/usr/sbin command -v "$name" >/dev/null || { echo "$0: $name is not installed" >&2; exit 1; }
done
export PATH=$PATH:/usr/sbin
stop
mkdir -p "$folder/state" "$folder/spool" "$folder/munge"
chmod 711 "$folder/munge"
[ -f "$folder/munge/key" ] || (umask 077 && head -c 1024 /dev/urandom >"$folder/munge/key")
cat >"$SLURM_CONF" <<CONF
ClusterName=dissecttest
SlurmctldHost=$host(127.0.0.1)
SlurmUser=root
SlurmctldPort=${SLURMCTLD_PORT:-16817}
SlurmdPort=${SLURMD_PORT:-16818}
AuthType=auth/munge
AuthInfo=socket=$folder/munge/socket
CryptoType=crypto/munge
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/state/slurmctld.pid
SlurmdPidFile=$folder/state/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerParameters=sched_interval=2,batch_sched_delay=1
SlurmdParameters=config_overrides
GresTypes=gpu
ReturnToService=2
JobRequeue=1
KillWait=10
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
NodeName=$host NodeAddr=127.0.0.1 CPUs=$cpus RealMemory=$memory Gres=gpu:$gpus State=UNKNOWN
PartitionName=debug Nodes=$host Default=YES MaxTime=INFINITE State=UP PriorityTier=1 PreemptMode=REQUEUE
PartitionName=urgent Nodes=$host MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF
CONF
for device in $(seq "$gpus"); do # a file for each device, with no GPU behind it
    ln -sf /dev/null "$folder/gpu$device"
    echo "NodeName=$host Name=gpu File=$folder/gpu$device"
done >"$folder/gres.conf"
launch munged --force --foreground --key-file="$folder/munge/key" --socket="$folder/munge/socket" \
    --pid-file="$folder/munge/pid" --log-file="$folder/munge/log" --seed-file="$folder/munge/seed"
launch slurmctld -D -f "$SLURM_CONF"
launch slurmd -D -f "$SLURM_CONF"
for _ in $(seq 60); do
    if answers; then
        echo "export SLURM_CONF=$SLURM_CONF"
        exit
    fi
    sleep 0.5
done
echo "$0: no node answers after 30 s; see $folder/slurmctld.log and slurmd.log" >&2
stop
exit 1
