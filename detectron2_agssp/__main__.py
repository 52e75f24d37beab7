"""``python -m detectron2_agssp``: the command ``agssp``."""

from detectron2_agssp.cli.main import main

if __name__ == "__main__":
    main()
