"""What a training run that was cut short may go on from."""

from pathlib import Path

from detectron2_agssp.io.files import TEMPORARY_PATTERN, atomic_write
from detectron2_agssp.io.weight_files import is_whole


def forget_damaged_checkpoints(folder: str | Path) -> list[str]:
    """Removes checkpoints of a run that are not whole, as after a full disk or a copy that broke
    off, and lets ``last_checkpoint`` name the newest whole one; without any, the run begins anew.

    Returns:
        Names of the files that were removed.
    """
    folder = Path(folder)
    damaged = [path for path in folder.glob("*.pth") if not is_whole(path)]
    for path in (*damaged, *folder.glob(TEMPORARY_PATTERN)):
        path.unlink()
    tag = folder / "last_checkpoint"
    # Without a name in it, it names the folder itself.
    named = tag.read_text(errors="replace").strip() if tag.exists() else ""
    if tag.exists() and ("/" in named or not (folder / named).is_file()):
        whole = sorted(folder.glob("model_[0-9]*.pth"))
        if whole:
            with atomic_write(tag) as file:
                file.write(whole[-1].name)
        else:
            tag.unlink()
    return sorted(path.name for path in damaged)
