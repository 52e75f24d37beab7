"""Processes of a benchmark do not outlive it."""

import multiprocessing
import time

from benchmarks.few_label.schedule import end_with_parent
from detectron2_agssp.io.files import lock_file


def hold_lock(path):
    end_with_parent()
    with open(path, "w") as file:
        lock_file(file.fileno())
        time.sleep(600)


def start_holder(path):
    """Starts a process that holds a lock, and waits for it."""
    holder = multiprocessing.get_context("spawn").Process(target=hold_lock, args=(path,))
    holder.start()
    holder.join()


def is_locked(path) -> bool:
    with open(path, "a") as file:
        return not lock_file(file.fileno(), wait=False)


def wait_until(condition):
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_processes_end_with_the_one_that_started_them(tmp_path):
    path = tmp_path / "lock"
    parent = multiprocessing.get_context("spawn").Process(target=start_holder, args=(path,))
    parent.start()
    wait_until(lambda: path.exists() and is_locked(path))
    parent.kill()
    wait_until(lambda: not is_locked(path))
