"""The console script ``agssp``.

A module of its own beside the package, because whatever lies in that is imported after
``detectron2_agssp/__init__.py``, which installs the plugin and so imports torch and Detectron2: a
help would wait for them, and ``agssp info`` could not run where they are missing.
"""


def main() -> None:
    from detectron2_agssp.cli.main import main as run

    run()
