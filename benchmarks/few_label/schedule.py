"""Runs the tasks of a benchmark, in one process or several."""

import contextlib
import json
import multiprocessing
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from benchmarks.few_label.settings import Benchmark
from benchmarks.few_label.tasks import Task, tasks_of
from benchmarks.few_label.training import Workspace
from detectron2_agssp.io.files import lock_file, write_json
from detectron2_agssp.utils.cpu_memory import keep_freed_memory
from detectron2_agssp.utils.differences import differences

POLL_SECONDS = 2.0


def run_benchmark(
    benchmark: Benchmark,
    config_root: str | Path,
    output: str | Path,
    results: str | Path,
    *,
    jobs: int = 1,
    validate_only: bool = False,
    device: str | None = None,
) -> None:
    """Runs all tasks that are not done yet. Killed at any moment, it goes on when called again;
    several calls on one folder, also from several machines, share the tasks.

    Args:
        benchmark: the settings.
        config_root: the repository's ``configs`` folder.
        output: folder of data, maps, weights and logs; may be lost, then what is still needed is
            made again.
        results: folder of ``settings.json``, ``validation_images.json``, ``cells/*.json`` and
            ``candidates/*.json``.
        jobs: processes, which share the processor's cores, or have ``$OMP_NUM_THREADS`` each. On a
            CPU, two processes of one thread do almost twice as much as one of two.
        validate_only: try the learning rates, and test nothing: to choose among variants.
        device: that trains and makes maps; None for the configs'.

    Raises:
        ValueError: ``output`` or ``results`` was made with other settings; a wrong setting.
        FileNotFoundError: the data set is not there.
        RuntimeError: a process failed (its message is printed).
    """
    results = Path(results)
    for folder in (Path(output), results):
        check_settings(benchmark, folder)
    space = Workspace(benchmark, config_root, output, device=device, progress=jobs == 1)
    with _lock(Path(output) / "locks" / "data", wait=True):
        space.data.prepare(results)
    if jobs == 1:
        work(space, results, validate_only=validate_only)
        return
    # Fork would copy a process that has started threads.
    context = multiprocessing.get_context("spawn")
    arguments = (benchmark, config_root, output, results, jobs, validate_only, device)
    workers = [
        context.Process(target=_work_in_process, args=(*arguments, number))
        for number in range(jobs)
    ]
    for worker in workers:
        worker.start()
    try:
        for worker in workers:
            worker.join()
    finally:
        for worker in workers:
            worker.terminate()
    failed = sum(worker.exitcode != 0 for worker in workers)
    if failed:
        raise RuntimeError(
            f"{failed} of {jobs} processes failed; see above. Run it again to go on."
        )


def check_settings(benchmark: Benchmark, folder: Path) -> None:
    """Writes the settings into a folder, or compares them with those of an earlier run there.

    Raises:
        ValueError: they differ (the keys are named).
    """
    path = folder / "settings.json"
    current = json.loads(json.dumps(benchmark.fingerprint()))
    if not path.exists():
        write_json(path, current)
        return
    earlier = json.loads(path.read_text())
    # A variant may be added or left out; what a name means must stay.
    added = current["variants"]
    same_names = {name: added.get(name, old) for name, old in earlier["variants"].items()}
    different = differences(earlier, {**current, "variants": same_names})
    keys = sorted(key for key, _, _ in different)
    if keys:
        raise ValueError(
            f"What is in {folder} was made with other settings of {', '.join(keys)}; one table "
            "must not mix them. Name other folders for the output and the results, or take the "
            "change back."
        )
    write_json(path, {**current, "variants": {**earlier["variants"], **added}})


def work(space: Workspace, results: Path, *, validate_only: bool = False) -> None:
    """Does tasks until none is left that this process could do, or wait for."""
    space.data.register()
    tasks = list(tasks_of(space, validate_only=validate_only))
    while True:
        open_tasks = [task for task in tasks if not task.done(space, results)]
        if not open_tasks:
            return
        for task in open_tasks:
            if task.ready(space, results) and _try_task(task, tasks, space, results):
                break
        else:
            # Other processes hold what is ready, or make what the rest depends on.
            time.sleep(POLL_SECONDS)


def _try_task(task: Task, tasks: list[Task], space: Workspace, results: Path) -> bool:
    """Runs one of the tasks unless another process holds it."""
    with _lock(space.output / "locks" / task.name, wait=False) as held:
        if not held or task.done(space, results):
            return held
        start = time.perf_counter()
        outcome = task.run(space, results)
        done = sum(other.done(space, results) for other in tasks)
        seconds = time.perf_counter() - start
        print(f"[{done}/{len(tasks)}] {task.name}: {outcome} ({seconds:.0f} s)", flush=True)
        return True


def _work_in_process(
    benchmark, config_root, output, results, jobs, validate_only, device, number: int
) -> None:
    end_with_parent()
    keep_freed_memory()
    # Where several calls share a machine, each of which knows but its own jobs, the user says it.
    share = max(1, (os.cpu_count() or 1) // jobs)
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", share)))
    # Only the first shows bars: two of them would overwrite each other.
    space = Workspace(benchmark, config_root, output, device=device, progress=number == 0)
    work(space, results, validate_only=validate_only)


def end_with_parent() -> None:
    """Makes this process end when the one that started it does, however that was killed: else it
    would go on, unseen, and hold its locks."""
    parent = multiprocessing.parent_process()

    def watch():
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextlib.contextmanager
def _lock(path: Path, *, wait: bool) -> Iterator[bool]:
    """Whether this process got the lock; the system frees it when the process ends, however."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w") as file:
        yield lock_file(file.fileno(), wait=wait)
