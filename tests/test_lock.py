"""One run to a card: the lock names who holds it, and is free again when that process ends."""

import subprocess
import sys
from pathlib import Path

import pytest

from workbench import lock
from workbench.problems import RunError

HOLDER = "import sys, time; from pathlib import Path; from workbench import lock; assert lock.hold(Path(sys.argv[1]), Path(sys.argv[2])) is not None; print('held', flush=True); time.sleep(60)"


def test_a_held_card_is_refused_by_name_and_free_after_the_holder_is_killed(tmp_path):
    file = tmp_path / "card.lock"
    lock.check_free(file)
    command = [sys.executable, "-c", HOLDER, str(file), "/somewhere/outputs/1123-lamp"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(RunError) as caught:
            lock.check_free(file)
        holder.kill()
    assert str(caught.value) == (
        "The GPU is busy with run '1123-lamp'. Close it with "
        "Run.open('1123-lamp', outputs='/somewhere/outputs').close(), or wait for its end."
    )
    lock.check_free(file)
    assert Path(file).is_file()
