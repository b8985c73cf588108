"""Serve bundles with MONAI Label, in an environment of its own, or check that they do there what they do here."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from common.errors import InputError, report_input_errors
from zoo.label.server import ENVIRONMENT, find_port, find_studies, install, run_server, write_app

EXAMPLE = """example: python scripts/monai_label.py install
  python scripts/monai_label.py serve --app label --bundles bundles/kits_unet_pwp_segmentation --studies scans"""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for name, about in (("install", "make the environment"), ("serve", "serve copies"), ("check", "compare")):
        command = commands.add_parser(name, help=about)
        command.add_argument("--environment", type=Path, default=ENVIRONMENT, help="MONAI Label's own, made by install")
        if name != "install":
            command.add_argument(
                "--bundles",
                type=Path,
                nargs="+",
                required=name == "check",
                default=[],
                help="bundle folders with weights",
            )
        if name == "serve":
            command.add_argument(
                "--app", type=Path, required=True, help="folder of the copies, and what is trained there"
            )
            command.add_argument("--studies", required=True, help="folder of NIfTI images, or URL of a DICOMweb server")
            command.add_argument("--port", type=int, default=8000)
    command = commands.add_parser("dicom-seg", help="write a label map as a DICOM Segmentation; the server calls it")
    for name, about in (("series", "DICOM"), ("mask", "NIfTI"), ("bundle", "that made it"), ("output", "to write")):
        command.add_argument(name, type=Path, help=about)
    arguments = parser.parse_args(arguments)
    report_input_errors()
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:  # as under nohup
            signal.signal(number, lambda number, frame: sys.exit(128 + number))  # so that the server is stopped, too

    if arguments.command == "install":
        install(arguments.environment)
        print(arguments.environment)
    elif arguments.command == "check":
        from zoo.label.check import check_bundles  # imports torch, which the others start faster without

        for line in check_bundles(arguments.bundles, arguments.environment):
            print(line, flush=True)
    elif arguments.command == "dicom-seg":
        from zoo.label.dicom_seg import write_segmentation

        write_segmentation(arguments.series, arguments.mask, arguments.bundle, arguments.output)
    else:
        serve(arguments.bundles, arguments.app, arguments.studies, arguments.port, arguments.environment)
    return 0


def serve(bundles: Sequence[Path], app: Path, studies: str, port: int, environment: Path) -> None:
    find_studies(studies)
    find_port(port)  # before anything is copied
    for line in write_app(bundles, app, environment):
        print(f"warning: {line}", file=sys.stderr)
    try:
        with run_server(app, studies, port, environment) as server:
            print(f"{server.url}  Ctrl-C stops it; what it prints is in {server.log}", flush=True)
            server.process.wait()
            raise InputError(f"{server.log}: expected the server to run until Ctrl-C, found that it ended.")
    except KeyboardInterrupt:
        print("stopped")


if __name__ == "__main__":
    sys.exit(main())
