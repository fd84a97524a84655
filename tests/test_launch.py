"""The launch scripts, with stand-ins for the program and for cluster commands."""

import io
import os
import pathlib
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import time

import pytest
import yaml

from jaxrobust import zoo
from jaxrobust.training import check, config_file, overrides
from jaxrobust.zoo import card_files
from launch import local_processes

ROOT = pathlib.Path(__file__).parents[1]
LAUNCH = ROOT / "launch"
TPU, SLURM = LAUNCH / "tpu_vm.sh", LAUNCH / "slurm.sbatch"
QUEUE = LAUNCH / "reproduce" / "run_queue.sh"

# Stands in for the program: `roles` has one word per process.
STUB = """
import os, signal, sys, time
index = int(os.environ["JAX_PROCESS_ID"])
role = sys.argv[1].split(",")[index]
if role == "tell":
    names = "COORDINATOR_ADDRESS NUM_PROCESSES NUM_CPU_DEVICES PLATFORMS"
    print(*(os.environ.get(f"JAX_{name}") for name in names.split()), sys.argv[2:])
elif role == "fail":
    print("cannot go on", file=sys.stderr)
    sys.exit(3)
else:
    def save(number, frame):
        print("saved", flush=True)
        sys.exit(143)
    signal.signal(signal.SIGTERM, signal.SIG_IGN if role == "deaf" else save)
    print("ready", flush=True)
    if role == "notice":  # as the program does when another process is silent
        time.sleep(0.5)
        sys.exit(70)
    time.sleep(60)
"""


@pytest.fixture
def stub(tmp_path):
    """Starts `roles`; returns the group and what was written so far."""
    (tmp_path / "stub.py").write_text(STUB)
    groups = []

    def start(roles, *argv, **options):
        out = io.StringIO()
        env = {**os.environ, "PYTHONPATH": str(tmp_path)}
        group = local_processes.start(
            len(roles.split(",")),
            2,
            [roles, *argv],
            env=env,
            module="stub",
            out=out,
            **options,
        )
        groups.append(group)
        return group, out

    yield start
    for group in groups:
        group.send(signal.SIGKILL)


def wait_for(text, *lines):
    """Waits until every line is there."""
    limit = time.monotonic() + 30
    while not all(line in text() for line in lines):
        assert time.monotonic() < limit, text()
        time.sleep(0.02)


def test_each_process_is_told_who_it_is_and_its_lines_carry_its_index(stub):
    group, out = stub("tell,tell", "--config=a b")
    assert group.wait() == 0
    found = [
        re.fullmatch(r"\[(\d)\] 127\.0\.0\.1:(\d+) 2 2 cpu \['--config=a b'\]", line)
        for line in out.getvalue().splitlines()
    ]
    assert all(found), out.getvalue()
    assert {match[1] for match in found} == {"0", "1"}
    assert len({match[2] for match in found}) == 1


def test_a_failing_process_ends_the_others(stub):
    group, out = stub("wait,fail")
    assert group.wait(patience=0.1, grace=10) == 3
    said = out.getvalue()
    assert "[1] cannot go on" in said
    assert f"process 1 of 2 ended with status 3 (pid {group.pids[1]})" in said
    assert "process 0 of 2 was stopped." in said
    assert all(process.poll() is not None for process in group.processes)


def test_a_killed_process_is_named_and_others_may_end_by_themselves(stub):
    group, out = stub("notice,wait")
    wait_for(out.getvalue, "[1] ready")
    os.kill(group.pids[1], signal.SIGKILL)
    assert group.wait(patience=30) == 128 + signal.SIGKILL
    said = out.getvalue()
    assert f"process 1 of 2 was killed by signal 9 (pid {group.pids[1]})" in said
    assert "was stopped" not in said
    assert group.processes[0].returncode == 70


def test_a_process_that_ignores_sigterm_is_killed(stub):
    group, out = stub("deaf,wait")
    wait_for(out.getvalue, "[0] ready", "[1] ready")
    os.kill(group.pids[1], signal.SIGKILL)
    assert group.wait(patience=0, grace=0.2) == 128 + signal.SIGKILL
    assert group.processes[0].returncode == -signal.SIGKILL


def test_logs_go_to_a_file_each(stub, tmp_path):
    folder = tmp_path / "logs"
    for _ in range(2):  # a resumed run is appended
        group, out = stub("tell,fail", log_dir=folder)
        assert group.wait() == 3
        assert "[0]" not in out.getvalue()
    assert (folder / "process-0.log").read_text().count("127.0.0.1") == 2
    assert (folder / "process-1.log").read_text() == "cannot go on\n" * 2


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_command_passes_signals_on_and_returns_the_status(number, tmp_path):
    """The launcher itself, as a process."""
    (tmp_path / "jaxrobust").mkdir()
    (tmp_path / "jaxrobust" / "__init__.py").touch()
    (tmp_path / "jaxrobust" / "main.py").write_text(STUB)
    launcher_path, log = LAUNCH / "local_processes.py", tmp_path / "log"
    with log.open("w") as file:
        launcher = subprocess.Popen(
            (sys.executable, launcher_path, "--processes=2", "--", "wait,wait"),
            env={**os.environ, "PYTHONPATH": str(tmp_path)},
            cwd=tmp_path,
            stdout=file,
            stderr=file,
        )
    try:
        wait_for(log.read_text, "[0] ready", "[1] ready")
        launcher.send_signal(number)
        status = launcher.wait(30)
    finally:
        launcher.kill()
    if number == signal.SIGTERM:
        assert status == 143
        wait_for(log.read_text, "[0] saved", "[1] saved")
        assert "local_processes:" not in log.read_text()
    else:  # Python's own handler: KeyboardInterrupt
        assert status == 130
        assert log.read_text().count("KeyboardInterrupt") == 2


def test_gpus_are_shared_out():
    for env, expected in (
        ({"CUDA_VISIBLE_DEVICES": "4,5,6,7,1"}, ["4,5", "6,7"]),
        ({}, ["0,1", "2,3"]),
    ):
        found = local_processes.environment(2, 2, "cuda", env)
        assert [own["CUDA_VISIBLE_DEVICES"] for own in found] == expected
        assert {own["JAX_PLATFORMS"] for own in found} == {"cuda"}
        assert {own["JAX_LOCAL_DEVICE_IDS"] for own in found} == {"0,1"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 1), "`processes` must be at least 1, got 0"),
        ((1, 0), "`devices` must be at least 1, got 0"),
        ((1, 1, "metal"), "`platform` must be one of cpu, cuda, got 'metal'"),
        ((2, 2, "cuda", {"CUDA_VISIBLE_DEVICES": "0,1"}), "need 4 GPUs.* lists 2"),
    ],
)
def test_senseless_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        local_processes.environment(*arguments)


def test_free_port_can_be_bound():
    with socket.socket() as server:
        server.bind(("127.0.0.1", local_processes.free_port()))


@pytest.mark.parametrize("script", [TPU, SLURM, QUEUE], ids=lambda p: p.name)
def test_shellcheck(script):
    if not shutil.which("shellcheck"):
        pytest.skip("shellcheck is not installed")
    done = subprocess.run(["shellcheck", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.fixture
def recorded(tmp_path):
    """Runs a script with stand-ins on PATH that write down their arguments."""
    folder = tmp_path / "bin"
    folder.mkdir()

    def run(script, *arguments, replies="", **variables):
        log = tmp_path / "calls"
        log.write_text("")
        for name in ("gcloud", "srun", "scontrol"):
            body = f"""\
                #!/usr/bin/env bash
                printf '%s\\n' {name} "$@" --- >> {log}
                {replies if name == "srun" else ""}
                """
            (folder / name).write_text(textwrap.dedent(body))
            (folder / name).chmod(0o755)
        done = subprocess.run(
            ["bash", script, *arguments],
            env={"PATH": f"{folder}:/usr/bin:/bin", "HOME": str(tmp_path), **variables},
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=60,
        )
        calls = log.read_text().split("---\n")[:-1]
        return done, [call.splitlines() for call in calls]

    return run


TPU_ENV = {"TPU_NAME": "pod", "TPU_ZONE": "us-west4-a"}


def test_tpu_create(recorded):
    done, [call] = recorded(TPU, "create", "--spot", **TPU_ENV)
    assert done.returncode == 0, done.stderr
    assert call == [
        *("gcloud", "compute", "tpus", "tpu-vm", "create", "pod", "--zone=us-west4-a"),
        "--accelerator-type=v5litepod-8",
        "--version=v2-alpha-tpuv5-lite",
        "--spot",
    ]


def test_tpu_run_is_detached_on_all_workers_and_keeps_quotes(recorded, tmp_path):
    flags = ["--config=configs/quickstart.py:quick", "--workdir=gs://b/it's a run"]
    done, calls = recorded(TPU, "run", *flags, **TPU_ENV)
    assert done.returncode == 0, done.stderr
    [call] = [c for c in calls if "ssh" in c]
    assert {"pod", "--zone=us-west4-a", "--worker=all"} <= set(call)
    command = "\n".join(call).partition("--command=")[2]
    # The command runs as the remote shell would run it, with a stand-in for Python.
    home = tmp_path / "remote"
    python = home / "jaxrobust" / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\nexec sleep 60\n')
    python.chmod(0o755)
    env = {"PATH": "/usr/bin:/bin", "HOME": str(home)}
    remote = ["bash", "-c", command]
    first = subprocess.run(remote, env=env, capture_output=True, text=True, timeout=30)
    assert first.returncode == 0, first.stderr
    log = home / "jaxrobust" / "run.log"
    pid = int((home / "jaxrobust" / "run.pid").read_text())
    try:
        wait_for(log.read_text, flags[1])
        assert log.read_text().splitlines()[:2] == ["-m", "jaxrobust.main"]
        assert "--distributed" in log.read_text().splitlines()
        again = subprocess.run(
            remote, env=env, capture_output=True, text=True, timeout=30
        )
        assert again.returncode != 0
        assert "already runs" in again.stderr
        # `stop` sends SIGTERM to that process and waits until it is gone.
        _, calls = recorded(TPU, "stop", **TPU_ENV)
        stop = "\n".join(calls[0]).partition("--command=")[2]
        done = subprocess.run(
            ["bash", "-c", stop], env=env, capture_output=True, text=True, timeout=30
        )
        assert done.returncode == 0, done.stderr
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    finally:
        subprocess.run(["kill", "-9", str(pid)], capture_output=True)


@pytest.mark.parametrize(
    ("arguments", "variables", "message"),
    [
        (["launch"], TPU_ENV, "unknown command 'launch'"),
        (["run"], {"TPU_ZONE": "z"}, "TPU_NAME"),
        (["run", "--config=c.py"], TPU_ENV, "--workdir"),
    ],
)
def test_tpu_mistakes_are_told_without_a_call(arguments, variables, message, recorded):
    done, calls = recorded(TPU, *arguments, **variables)
    assert done.returncode == 2
    assert message in done.stderr
    assert not calls


def test_slurm_starts_the_program_on_every_task(recorded):
    flags = ["--config=configs/quickstart.py", "--workdir=/shared/a run"]
    done, [call] = recorded(SLURM, *flags, PYTHON="python3.11")
    assert done.returncode == 0, done.stderr
    assert "--kill-on-bad-exit=1" in call
    program = ["python3.11", "-m", "jaxrobust.main", "--distributed", *flags]
    assert call[-len(program) :] == program


def test_slurm_gives_a_task_all_gpus_of_its_node(recorded):
    replies = 'echo "ids: ${JAX_LOCAL_DEVICE_IDS:-all}"'
    for count, expected in (("8", "0,1,2,3,4,5,6,7"), ("1", "0"), ("", "all")):
        done, _ = recorded(
            SLURM, "--workdir=/w", replies=replies, SLURM_GPUS_ON_NODE=count
        )
        assert done.stdout == f"ids: {expected}\n"


def test_slurm_asks_for_a_signal_before_the_end_and_for_a_new_start():
    asked = re.findall(r"^#SBATCH (\S+)", SLURM.read_text(), re.MULTILINE)
    assert "--requeue" in asked
    assert "--signal=B:TERM@120" in asked
    assert "--open-mode=append" in asked


@pytest.mark.parametrize("asked", [True, False])
@pytest.mark.parametrize("status", [143, 1, 0])
def test_slurm_requeues_what_was_asked_to_end(status, asked, recorded):
    """SIGTERM to the job's shell reaches srun; a run that is done stays done."""
    replies = f"exit {status}"
    if asked:
        sleep = "for _ in {1..200}; do sleep .05; done"
        replies = f"trap 'exit {status}' TERM; kill -TERM $PPID; {sleep}"
    done, calls = recorded(
        SLURM, "--workdir=/shared/run", replies=replies, SLURM_JOB_ID="7"
    )
    assert done.returncode == status, done.stderr
    assert (["scontrol", "requeue", "7"] in calls) == (asked and status != 0)


def jobset():
    return yaml.safe_load((LAUNCH / "kubernetes_jobset.yaml").read_text())


def test_jobset_names_a_coordinator_that_exists():
    spec = jobset()
    assert spec["apiVersion"] == "jobset.x-k8s.io/v1alpha2"
    assert spec["kind"] == "JobSet"
    [job] = spec["spec"]["replicatedJobs"]
    inner = job["template"]["spec"]
    pod = inner["template"]["spec"]
    [container] = pod["containers"]
    env = {e["name"]: e for e in container["env"]}
    # Host names of pods: <jobset>-<job>-<replica>-<index>.<subdomain>.
    name, network = spec["metadata"]["name"], spec["spec"]["network"]
    host, _, port = env["JAX_COORDINATOR_ADDRESS"]["value"].partition(":")
    assert host == f"{name}-{job['name']}-0-0.{network['subdomain']}"
    assert int(port) in [p["containerPort"] for p in container["ports"]]
    assert network["enableDNSHostnames"]
    assert int(env["JAX_NUM_PROCESSES"]["value"]) == inner["completions"]
    assert inner["completions"] == inner["parallelism"]
    assert inner["completionMode"] == "Indexed"
    path = env["JAX_PROCESS_ID"]["valueFrom"]["fieldRef"]["fieldPath"]
    assert path == "metadata.annotations['batch.kubernetes.io/job-completion-index']"


def test_jobset_restarts_the_whole_run_and_leaves_time_to_save():
    spec = jobset()["spec"]
    inner = spec["replicatedJobs"][0]["template"]["spec"]
    assert spec["failurePolicy"]["maxRestarts"] > 0
    assert inner["backoffLimit"] == 0  # one pod alone cannot come back
    pod = inner["template"]["spec"]
    assert pod["restartPolicy"] == "Never"
    assert pod["terminationGracePeriodSeconds"] >= 120
    [container] = pod["containers"]
    # The program is process 1 of the container, or SIGTERM would not reach it.
    assert container["command"] == ["python", "-m", "jaxrobust.main"]


# Stands in for python: writes down its arguments; says no where a file says so.
PYTHON = """#!/usr/bin/env bash
echo "$*" >> "$LOG"
if [[ "$*" == *"$FAILS"* ]]; then exit "$STATUS"; fi
"""


@pytest.fixture
def run_queue(tmp_path):
    """Runs a queue of two networks; returns the status and the new calls of python."""
    python, log = tmp_path / "python", tmp_path / "calls"
    python.write_text(PYTHON)
    python.chmod(0o755)
    queue = tmp_path / "queue.txt"
    lines = ["# a comment", "", "one --config ssp_mnist:a=1 --config.seed=1"]
    queue.write_text("\n".join([*lines, "two --config=quickstart"]))

    def run(fails="nothing", status=1):
        log.write_text("")
        own = {"LOG": log, "PYTHON": python, "RUNS": tmp_path / "runs", "EXAMPLES": 7}
        own |= {"FAILS": fails, "STATUS": status, "ZOO": tmp_path / "zoo"}
        env = {**os.environ, **{k: str(v) for k, v in own.items()}}
        done = subprocess.run([QUEUE, queue], env=env, capture_output=True, text=True)
        return done.returncode, log.read_text().replace(f"{tmp_path}/", "").splitlines()

    return run


def test_the_queue_goes_on_where_it_was(run_queue):
    status, calls = run_queue(fails="--mode=eval", status=143)
    assert status == 143  # stopped: not the next one
    assert len(calls) == 2
    status, calls = run_queue(fails="runs/one/paper", status=1)
    assert status == 1  # told, and the next one
    first = "-m jaxrobust.main --config ssp_mnist:a=1 --config.seed=1"
    second = "-m jaxrobust.main --config=quickstart"
    both = "--config.eval.suite=attacks+adaptive --config.eval.examples=7"
    publish = "-m jaxrobust.zoo.publish runs/{0} --name {0} --to zoo"
    paper = (
        f"{first} --mode=eval --checkpoint runs/one --workdir runs/one/paper "
        "--config.eval.suite=ssp2020 --config.eval.examples=200 "
        "--config.eval.curve.eps= --config.eval.growth.enabled=False "
        "--config.eval.analysis.enabled=False --config.eval.diagnostics.enabled=False"
    )
    assert calls == [
        f"{first} --mode=eval --workdir runs/one {both}",
        paper,
        f"{second} --mode=train --workdir runs/two",
        f"{second} --mode=eval --workdir runs/two {both}",
        publish.format("two"),
    ]
    assert run_queue() == (0, [paper, publish.format("one")])
    assert run_queue() == (0, [])


def test_the_queue_names_configs_and_fields_that_exist():
    names, seen = set(), set()
    for line in (LAUNCH / "reproduce" / "queue.txt").read_text().splitlines():
        if not line or line.startswith("#"):
            continue
        name, flag, config, *fields = line.split()
        assert flag == "--config"
        assert card_files.arguments(shlex.join([*card_files.TRAIN, config, *fields]))
        loaded = config_file.load(config)
        overrides.apply(loaded, overrides.split(fields)[1])
        # What differs by its seed alone is as right, or as wrong.
        if (told := str(loaded.to_dict() | {"seed": 0})) not in seen:
            check.check(loaded.to_dict())
        seen.add(told)
        assert name not in names
        names.add(name)
    assert names >= set(zoo.names())
