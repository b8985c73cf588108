"""Workflows of a bundle folder, run as a user runs them: `python -m monai.bundle run` in a process of its own."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

# what a copy of a bundle folder begins without
NOT_COPIED = shutil.ignore_patterns("eval", "models", "__pycache__")
# settings of `prune.json`: zeros stay zeros, no new ones
CHANNELS_ONLY = {"method": "magnitude", "amount": 0}


def run_configs(bundle: Path, configs: Sequence[str], settings: Mapping[str, Any], log: IO[str] | None = None) -> bool:
    """
    Run some configs of a bundle together; False where the run failed.

    Args:
        bundle: folder, which the run starts in.
        configs: names of files in its `configs`, without suffix.
        settings: keys that the command line overrides.
        log: open file for what is printed; by default the screen.
    """
    files = str([f"configs/{config}.json" for config in configs])
    command = [sys.executable, "-W", "ignore", "-m", "monai.bundle", "run", "--config_file", files]
    for key, value in settings.items():
        command += [f"--{key}", str(value)]
    return subprocess.run(command, cwd=bundle, stdout=log, stderr=log and subprocess.STDOUT).returncode == 0
