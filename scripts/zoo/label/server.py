"""A real MONAI Label server for bundles: its environment, its app folder, its start and its end, and what to ask it."""

from __future__ import annotations

import filecmp
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import Request, urlopen

from common.errors import InputError

ROOT = Path(__file__).parents[3]
HOOK = Path(__file__).with_name("hook.py")
REQUIREMENTS = ROOT / "requirements-label.txt"
ENVIRONMENT = ROOT / ".label-venv"
HOST = "127.0.0.1"
METADATA = "configs/metadata.json"
NEEDED = (METADATA, "configs/inference.json", "configs/train.json", "models/model.pt")
# what a request, and the start, may take on a busy machine; and what the server gets to end by itself
TIMEOUT_S, GRACE_S = 900.0, 10.0
# PyPI's torchvision, built for CUDA, cannot be imported beside a CPU build of torch, which lacks two of its operators
DECLARED_OPERATORS = """from torch.library import define

for name in ("nms", "qnms"):
    define(f"torchvision::{name}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
"""


def install(environment: Path = ENVIRONMENT) -> None:
    """
    Make the server's own environment; one made from the same requirements is taken as it is.

    Raises:
        InputError: when it cannot be made, with the last line that pip wrote.
    """
    requirements = REQUIREMENTS.read_text()
    complete = environment / REQUIREMENTS.name  # a copy, written last
    if complete.is_file() and complete.read_text() == requirements:
        return
    run(environment, sys.executable, "-m", "venv", "--clear", str(environment))
    (environment / ".gitignore").write_text("*\n")
    python = str(environment / "bin/python")
    # with what it needs, which depends on the machine; the rest is complete without
    run(environment, python, "-m", "pip", "install", re.search(r"^torch==\S+", requirements, re.M)[0])
    run(environment, python, "-m", "pip", "install", "--no-deps", "-r", str(REQUIREMENTS))
    if subprocess.run([python, "-c", "import torchvision"], capture_output=True).returncode != 0:
        packages = next(environment.glob("lib/python*/site-packages"))
        (packages / "torchvision_operators.py").write_text(DECLARED_OPERATORS)
        # a module, since Python runs a line of a .pth file twice in a virtual environment
        (packages / "torchvision_operators.pth").write_text("import torchvision_operators\n")
        run(environment, python, "-c", "import torchvision")
    complete.write_text(requirements)


def write_app(bundles: Sequence[Path], app: Path, environment: Path = ENVIRONMENT) -> list[str]:
    """
    Write the folder that a server serves: MONAI Label's app `monaibundle` and `hook.py`, in `model/` copies of bundles.

    A bundle that is there already stays as it is: training in MONAI Label overwrites its weights.

    Returns:
        A line for each that stays although the bundle is another by now.

    Raises:
        InputError: when there is no environment, a bundle lacks what MONAI Label needs, or the app cannot be written.
    """
    original = environment / "monailabel/sample-apps/monaibundle"
    if not original.is_dir():
        raise InputError(f"{environment}: expected MONAI Label's environment, found none; install it first.")
    for bundle in bundles:
        check_bundle(bundle)
    kept = []
    try:
        ignored = shutil.ignore_patterns("model", "logs", "__pycache__")
        shutil.copytree(original, app, ignore=ignored, dirs_exist_ok=True)
        command = [sys.executable, str(ROOT / "scripts/monai_label.py"), "dicom-seg"]
        with (app / "main.py").open("a") as main:
            main.write(f"\nCOMMAND = {command}\n{HOOK.read_text()}")
        for bundle in bundles:
            target = app / "model" / bundle.resolve().name
            part = target.with_name(f".{target.name}.part")
            if not target.exists():
                shutil.rmtree(part, ignore_errors=True)
                shutil.copytree(bundle, part, ignore=shutil.ignore_patterns("eval", "__pycache__", "checkpoint.pt"))
                part.rename(target)
            elif not filecmp.cmp(target / METADATA, bundle / METADATA, shallow=False):
                kept.append(f"{target}: kept as it is, {bundle} is another by now; delete the former to serve that")
    except OSError as error:  # shutil.Error, too
        raise InputError(f"{app}: expected to write it, found: {error.strerror or error}.") from error
    return kept


def check_bundle(bundle: Path) -> None:
    """Raise an `InputError` where a bundle lacks what MONAI Label needs: there, one such bundle stops all."""
    for name in NEEDED:
        if not (bundle / name).is_file():
            raise InputError(f"{bundle}: MONAI Label expects {name} in a bundle, found none.")
    if not bundle.resolve().name.endswith("_segmentation"):
        raise InputError(f"{bundle}: MONAI Label expects a name that tells the task, ..._segmentation.")


@dataclass(frozen=True)
class Server:
    """A server that answers: its address, its process and the file of what it prints."""

    url: str
    process: subprocess.Popen
    log: Path


def find_port(port: int) -> int:
    """
    The same port, or a free one for 0.

    Raises:
        InputError: when the port is in use.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except (OSError, OverflowError) as error:
            raise InputError(f"port: expected a free one, found {port} in use, forbidden or no port.") from error
        return probe.getsockname()[1]


def find_studies(studies: Path | str) -> str:
    """
    A folder by its whole path, or the URL of a DICOMweb server as it is.

    Raises:
        InputError: when there is no such folder.
    """
    if str(studies).startswith(("http://", "https://")):
        return str(studies)
    if not Path(studies).is_dir():
        raise InputError(f"studies: expected a folder of images or the URL of a DICOMweb server, found {studies}.")
    return str(Path(studies).resolve())


@contextmanager
def run_server(app: Path, studies: Path | str, port: int = 0, environment: Path = ENVIRONMENT) -> Iterator[Server]:
    """
    Start a server of all bundles of an app folder, and at the end, however that comes, stop it and all it started.

    Args:
        studies: folder of images, and of `labels/final/` to train on; or the URL of a DICOMweb server.
        port: 0 takes a free one.

    Raises:
        InputError: when the port is in use, a bundle lacks what MONAI Label needs, or the server ends at its start.
    """
    port = find_port(port)
    models = sorted(folder for folder in (app / "model").glob("[!.]*"))
    if not models:
        raise InputError(f"{app / 'model'}: expected bundles, found none.")
    for model in models:
        check_bundle(model)
    command = [str(environment.absolute() / "bin/python"), "-m", "monailabel.main", "start_server"]
    command += ["--app", str(app.resolve()), "--studies", find_studies(studies), "--host", HOST, "--port", str(port)]
    # without "local" it asks GitHub for a list of bundles first
    for setting in (("models", ",".join(model.name for model in models)), ("zoo_source", "local"), ("sam2", "false")):
        command += ["--conf", *setting]
    log = app / "logs/server.log"
    log.parent.mkdir(exist_ok=True)
    with log.open("w") as output:
        # a session of its own: training runs in a process that the server starts, and is to end with it
        process = subprocess.Popen(command, cwd=app, stdout=output, stderr=output, start_new_session=True)
        server = Server(f"http://{HOST}:{port}", process, log)
        try:
            _wait(server)
            yield server
        finally:
            try:
                _end(process, signal.SIGTERM)
            finally:  # a second Ctrl-C must not leave it running
                _end(process, signal.SIGKILL)


def ask(url: str, data: bytes | None = None, content_type: str = "application/x-www-form-urlencoded") -> bytes:
    """What a server answers to GET, or with data to POST; an answer other than 200 is an `InputError`."""
    try:
        with urlopen(Request(url, data, {"Content-Type": content_type}), timeout=TIMEOUT_S) as answer:
            return answer.read()
    except HTTPError as error:
        raise InputError(f"{url}: expected HTTP 200, found {error.code}: {error.read()[:200]!r}.") from error
    except OSError as error:
        raise InputError(f"{url}: expected an answer, found {error}.") from error


def infer(url: str, model: str, case: str, path: Path, **query: str) -> Path:
    """Write the label map that a server's model gives for a case of its studies, or what else a query asks for."""
    path.parent.mkdir(parents=True, exist_ok=True)
    query = {"image": case, "output": "image"} | query
    path.write_bytes(ask(f"{url}/infer/{model}?{urlencode(query)}", b""))
    return path


def train(url: str, model: str, epochs: int = 1) -> None:
    """
    Train a model on the labels of a server's studies, and wait for the end.

    Raises:
        InputError: when the training failed, with the last line that it printed.
    """
    request = {"max_epochs": epochs, "val_split": 0.5, "multi_gpu": False}
    ask(f"{url}/train/{model}", json.dumps(request).encode(), "application/json")
    deadline = time.monotonic() + TIMEOUT_S
    while (task := json.loads(ask(f"{url}/train/")))["status"] in ("SUBMITTED", "RUNNING"):
        if time.monotonic() > deadline:
            raise InputError(f"{model}: expected training to end within {TIMEOUT_S:.0f} s.")
        time.sleep(0.5)
    if task["status"] != "DONE":
        raise InputError(f"{model}: expected training to end well, found {task['status']}: {blame(task['details'])}")


def _wait(server: Server) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while server.process.poll() is None and time.monotonic() < deadline:
        with suppress(InputError):
            ask(f"{server.url}/info/")
            return
        time.sleep(0.5)
    raise InputError(f"{server.log}: expected a server that runs, found: {blame(server.log.read_text().splitlines())}")


def _end(process: subprocess.Popen, number: signal.Signals) -> None:
    with suppress(ProcessLookupError, subprocess.TimeoutExpired):
        os.killpg(process.pid, number)
        process.wait(GRACE_S)


def run(subject: Path, *command: str, cwd: Path | None = None) -> None:
    """Run a command; one that fails is an `InputError` that names a subject and the line that tells why."""
    done = subprocess.run(command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode != 0:
        words = " ".join(command[1:4])
        raise InputError(f"{subject}: expected {words} to succeed, found: {blame(done.stdout.splitlines())}")


def blame(lines: Sequence[str]) -> str:
    """The last line that names an error, or the last."""
    told = [line.strip() for line in lines if line.strip()] or ["nothing printed"]
    return next((line for line in reversed(told) if re.match(r"[\w.]*(Error|Exception|ERROR|error)\b", line)), told[-1])
