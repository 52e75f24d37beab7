"""The cards of the zoo as documentation: zoo/NAME.yaml says what zoo/NAME.pth is.

    python -m benchmarks.zoo --update-docs docs/zoo.md

A document says where the cards are to stand:

    <!-- generated: zoo -->
    <!-- end -->
"""

import hashlib
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import yaml
from tabulate import tabulate

from benchmarks.generated import fill_generated
from detectron2_agssp.io.unique_keys import UniqueKeyLoader
from detectron2_agssp.io.zoo_files import PREFIX, zoo_root
from detectron2_agssp.utils.command_line import CommandParser, readable_errors

_NOTHING = "There are no weights in the zoo yet.\n"


@dataclass(frozen=True)
class Card:
    """What a weight file is, in words and figures; every field is a key of the yaml.

    Attributes:
        what: a few words.
        config: that fine-tunes it, as ``agssp://finetune/NAME.yaml``; "" for any with its backbone.
        settings: keys and values that have to stand beside that config.
        data: sets that it has seen, of each "set", "images", "where" and "licence"; or the name of
            the card that lists the same ones.
        command: that made it, a line each.
        commit: of this repository, at which that ran.
        time: that it took, and on what.
        figures: sentences with what was measured.
        ap: in short, for the table; "" where nothing was measured.
        limits: sentences.
    """

    what: str
    config: str
    settings: dict[str, Any]
    data: list[dict[str, Any]] | str
    command: str
    commit: str
    time: str
    figures: list[str]
    ap: str
    limits: list[str]


def read_cards(root: Path) -> dict[str, Card]:
    """Of every ``.pth`` of the zoo, by its name without the suffix.

    Raises:
        ValueError: a card without weights, weights without a card, or a card that lacks a key or
            has one too many, or an empty one, or names a card that is not there.
    """
    weights, cards = ({path.stem for path in root.glob(f"*.{end}")} for end in ("pth", "yaml"))
    if weights != cards:
        lone = sorted(weights ^ cards)
        raise ValueError(
            f"{root}: of {', '.join(lone)} there is only one of the two, weights (.pth) and card "
            "(.yaml). Add the other, or delete it."
        )
    read = {name: _read_card(root / f"{name}.yaml") for name in sorted(cards)}
    for name, card in read.items():
        if isinstance(card.data, str) and (card.data == name or card.data not in read):
            raise ValueError(
                f"{root / name}.yaml: there is no other card {card.data!r} of its data."
            )
    return read


def _read_card(path: Path) -> Card:
    content = yaml.load(path.read_text(encoding="utf-8"), Loader=UniqueKeyLoader)
    keys = [field.name for field in fields(Card)]
    if not isinstance(content, dict) or sorted(content) != sorted(keys):
        found = ", ".join(content) if isinstance(content, dict) else "no keys"
        raise ValueError(f"{path}: a card has the keys {', '.join(keys)}; here are {found}.")
    may_be_empty = ("config", "settings", "ap", "figures")
    empty = [key for key in keys if not content[key] and key not in may_be_empty]
    if empty:
        raise ValueError(f"{path}: nothing is said of {', '.join(empty)}.")
    return Card(**content)


def cards_text(root: Path) -> str:
    """The generated part of the page: a table of all, and a section of each."""
    cards = read_cards(root)
    if not cards:
        return _NOTHING
    rows = [
        {
            "`MODEL.WEIGHTS`": f"`{PREFIX}{name}.pth`",
            "what it is": card.what,
            "config": _linked(card.config) or "any with its backbone",
            "made in": card.time,
            "AP": card.ap or "not measured",
            "size": f"{(root / f'{name}.pth').stat().st_size / 1e6:.1f} MB",
        }
        for name, card in cards.items()
    ]
    table = tabulate(rows, headers="keys", tablefmt="github", disable_numparse=True)
    sections = [_section(name, card, root) for name, card in cards.items()]
    return "\n".join([f"{table}\n", *sections])


def _linked(config: str) -> str:
    return f"`{config}`" if config else ""


def _section(name: str, card: Card, root: Path) -> str:
    digest = hashlib.sha256((root / f"{name}.pth").read_bytes()).hexdigest()
    if isinstance(card.data, str):
        sets = f"What it has seen, without labels: what [{card.data}](#{card.data}) has.\n"
    else:
        table = tabulate(card.data, headers="keys", tablefmt="github", disable_numparse=True)
        sets = f"What it has seen, without labels:\n\n{table}\n"
    parts = [f"### {name}\n", f"{card.what}. SHA-256 `{digest}`.\n"]
    if card.config:
        pairs = "".join(f" \\\n    {key} {_quoted(value)}" for key, value in card.settings.items())
        command = f"agssp train --config-file {card.config} MODEL.WEIGHTS {PREFIX}{name}.pth{pairs}"
        parts.append(f"```bash\n{command}\n```\n")
    parts += [
        f"Made in {card.time}, at commit `{card.commit}`, by\n",
        f"```text\n{card.command.strip()}\n```\n",
    ]
    if card.figures:
        parts.append("\n".join(f"- {line}" for line in card.figures) + "\n")
    parts += [
        "Limits:\n",
        "\n".join(f"- {line}" for line in card.limits) + "\n",
        sets,
    ]
    return "\n".join(parts)


def _quoted(value: Any) -> str:
    return str(value) if isinstance(value, int | float) else f'"{value}"'


def update_document(path: str | Path, root: Path | None = None) -> bool:
    """Brings the cards in a markdown file up to date; whether it has changed.

    Args:
        root: folder of weights and cards; None for the checkout's.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it has no place for the cards; or as :func:`read_cards`.
    """
    text = cards_text(root or zoo_root())
    changed = fill_generated(path, "zoo", lambda words: text)
    if changed < 0:
        raise ValueError(
            f"{path} has no place for the cards. Expected the lines <!-- generated: zoo --> and "
            "<!-- end --> in it."
        )
    return changed > 0


def main() -> None:
    parser = CommandParser("python -m benchmarks.zoo", __doc__)
    parser.add_argument(
        "--update-docs", nargs="+", required=True, metavar="FILE", help="that show the cards"
    )
    args = parser.parse()
    with readable_errors():
        for path in args.update_docs:
            print(f"{path}: {'updated' if update_document(path) else 'up to date'}")


if __name__ == "__main__":
    main()
