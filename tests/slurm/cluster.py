"""A Slurm cluster on this machine: a controller and two nodes on the loopback, all in one folder and gone afterwards."""

import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

PACKAGES = ("slurmctld", "slurmd", "slurm-client", "munge")
NODES = ("n1", "n2")
CONFIG = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
ReturnToService=2
# a node is dead after 6 seconds of silence, and its jobs wait 2 more
SlurmdTimeout=6
KillWait=2
"""


class Cluster:
    """environment: what `sbatch` and the others must see to speak to this cluster and to no other."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = os.environ | {"SLURM_CONF": str(folder / "slurm.conf")}
        self._daemons: dict[str, subprocess.Popen] = {}
        ports = _free_ports(1 + len(NODES))
        nodes = [f"NodeName={n} NodeHostname={socket.gethostname()} NodeAddr=127.0.0.1 Port={p} CPUs=1" for n, p in zip(NODES, ports[1:], strict=True)]
        partition = f"PartitionName=main Nodes={','.join(NODES)} Default=YES State=UP"
        (folder / "state").mkdir()
        text = CONFIG.format(host=socket.gethostname(), port=ports[0], folder=folder) + "\n".join([*nodes, partition, ""])
        (folder / "slurm.conf").write_text(text)

    def start(self) -> None:
        """Raises TimeoutError if the nodes are not ready within 30 seconds."""
        key = self.folder / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o400)
        own = [f"--{name}-file={self.folder}/munge.{name}" for name in ("pid", "log", "seed")]
        self._run("munge", "munged", "--foreground", "--force", f"--key-file={key}", f"--socket={self.folder}/munge.socket", *own)
        _wait(lambda: (self.folder / "munge.socket").exists(), 10, "munged")
        self._run("slurmctld", "slurmctld", "-D")
        for node in NODES:
            self._run(node, "slurmd", "-D", "-N", node)
        _wait(lambda: self.ask("sinfo", "-h", "-N", "-o", "%T").split() == ["idle"] * len(NODES), 30, "the nodes")

    def ask(self, *command: str) -> str:
        return subprocess.run(command, env=self.environment, capture_output=True, text=True, check=False).stdout

    def running(self) -> dict[str, str]:
        """Node -> the array task that runs there, for instance 2_4."""
        lines = self.ask("squeue", "-h", "-t", "running", "-o", "%N %i").splitlines()
        return dict(line.split() for line in lines if len(line.split()) == 2)

    def kill_node(self, node: str) -> int:
        """SIGKILL the node's daemon and everything that its jobs started, as when its power fails. Returns how many processes."""
        self._daemons[node].kill()
        self._daemons[node].wait()
        doomed = self._processes(node)
        for pid in doomed:
            _kill(pid)
        return 1 + len(doomed)

    def stop(self) -> None:
        """End the daemons and what they started."""
        for node in NODES:
            for pid in self._processes(node):
                _kill(pid)
        for daemon in reversed(self._daemons.values()):
            daemon.terminate()
        for daemon in self._daemons.values():
            try:
                daemon.wait(10)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()

    def _run(self, name: str, *command: str) -> None:
        with (self.folder / f"{name}.out").open("w") as out:
            program = shutil.which(command[0], path=f"{os.environ['PATH']}:/usr/sbin:/sbin") or command[0]
            self._daemons[name] = subprocess.Popen([program, *command[1:]], env=self.environment, stdout=out, stderr=out)

    def _processes(self, node: str) -> list[int]:
        """Jobs on the node, which Slurm tells where they are, and the slurmstepds that look after them, innermost last."""
        mark, conf = f"SLURMD_NODENAME={node}".encode(), f"SLURM_CONF={self.environment['SLURM_CONF']}".encode()
        found, keepers = [], []
        for process in Path("/proc").glob("[0-9]*"):
            try:
                if {mark, conf} <= set((process / "environ").read_bytes().split(b"\0")):
                    found.append(int(process.name))
                    parent = Path("/proc") / (process / "stat").read_text().rsplit(")", 1)[1].split()[1]
                    if (parent / "comm").read_text().startswith("slurmstepd"):
                        keepers.append(int(parent.name))
            except (OSError, ValueError):  # it has just ended
                continue
        return [*dict.fromkeys(keepers), *found]


def install() -> list[str]:
    """Install what is missing, without starting any service. Returns the packages that were not there before."""
    have = subprocess.run(["dpkg-query", "-W", "-f=${Package} ${db:Status-Abbrev}\n"], capture_output=True, text=True, check=True).stdout
    present = {line.split()[0] for line in have.splitlines() if line.endswith("ii ")}
    if set(PACKAGES) <= present:
        return []
    quiet = os.environ | {"DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}  # the latter: start no services
    for command in (["update", "-qq"], ["install", "-y", "-qq", "--no-install-recommends", *PACKAGES]):
        subprocess.run(["apt-get", *command], env=quiet, check=True, capture_output=True)
    after = subprocess.run(["dpkg-query", "-W", "-f=${Package} ${db:Status-Abbrev}\n"], capture_output=True, text=True, check=True).stdout
    return sorted({line.split()[0] for line in after.splitlines() if line.endswith("ii ")} - present)


def remove(packages: list[str]) -> None:
    if packages:
        quiet = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
        subprocess.run(["apt-get", "purge", "-y", "-qq", *packages], env=quiet, check=True, capture_output=True)


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for s in sockets:
        s.bind(("127.0.0.1", 0))
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def _wait(ready, seconds: float, what: str) -> None:
    end = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > end:
            raise TimeoutError(f"{what} did not get ready within {seconds} s")
        time.sleep(0.1)
