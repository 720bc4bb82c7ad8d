import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import start


def test_only_what_a_process_computes_counts_and_a_failure_is_no_time(tmp_path):
    asleep, busy = "import time; time.sleep(1)", "import time\nwhile time.process_time() < 1: pass"
    assert start.processor_time(tmp_path, sys.executable, "-c", asleep) < 0.8
    assert start.processor_time(tmp_path, sys.executable, "-c", busy) >= 1
    with pytest.raises(subprocess.CalledProcessError):
        start.processor_time(tmp_path, *start.command("no such command"))
