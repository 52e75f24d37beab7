"""What objects look like, sound and defective: the text that KeAD's prompts are made of.

``docs/descriptions.md`` says how to write a file; those of this package are in ``builtin/``.
"""

import difflib
import json
import re
import reprlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import yaml

from detectron2_agssp.io.unique_keys import UniqueKeyLoader

BUILTIN_FOLDER = Path(__file__).parent / "builtin"
PLACEHOLDER = "{}"

_RELEASED_DEFECT = re.compile(r"^\{\} with (?P<name>.+?)(?= defect\b|,|$)")
_QUOTES = "Text that contains ': ' or ' #', or begins with one of { [ * & ! % @ -, needs quotes."


@dataclass(frozen=True)
class Defect:
    """One kind of defect.

    Attributes:
        name: as a class of the data set is called; prompts have spaces for its underscores.
        appearance: what it looks like, going on from "it appears as". If it contains ``{}``, it is
            the whole phrase, and ``{}`` stands for the object.
    """

    name: str
    appearance: str


@dataclass(frozen=True)
class ObjectDescription:
    """An object, sound and defective.

    Attributes:
        name: as the prompts call it.
        normal_states: what it looks like without defects, going on from "<object> with". One that
            contains ``{}`` is the whole phrase, and ``{}`` stands for the object.
        defects: one or more; their names differ.
    """

    name: str
    normal_states: tuple[str, ...]
    defects: tuple[Defect, ...]


def builtin_descriptions() -> list[str]:
    """Names of the descriptions that come with the package, sorted."""
    return sorted(path.stem for path in BUILTIN_FOLDER.glob("*.yaml"))


def load_descriptions(path_or_builtin_name: str | Path) -> dict[str, ObjectDescription]:
    """Reads descriptions from a yaml or JSON file, or those that come with the package.

    Args:
        path_or_builtin_name: a name of :func:`builtin_descriptions` (which goes before a file of
            that name), or a file. Besides our own layout, as yaml or JSON, the layout of the JSON
            files that AGSSP (arXiv 2509.18919) released is read, so that its prompts stay what
            they were: its phrases are kept whole, ``map`` names the object, ``samples`` (paths of
            normal images) are ignored, and a further phrase of the same defect gets a number.

    Returns:
        The objects by their key in the file, in its order. In our layout the key is the name.

    Raises:
        FileNotFoundError: no such file, and no such built-in name.
        ValueError: the content is not what it should be; file, key and way out are named.
    """
    name = str(path_or_builtin_name)
    known = builtin_descriptions()
    if name in known:
        return _read(BUILTIN_FOLDER / f"{name}.yaml")
    path = Path(path_or_builtin_name).expanduser()
    if not path.is_file():
        close = difflib.get_close_matches(name, known, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise FileNotFoundError(
            f"Descriptions {name!r} are neither a file nor built in.{hint} Give the path of a yaml "
            f"file (docs/descriptions.md says how to write one) or one of: {', '.join(known)}."
        )
    return _read(path)


def choose_object(descriptions: str, name: str) -> ObjectDescription:
    """The object ``name`` of a file or built-in of descriptions; "" if it has only one.

    Raises:
        ValueError: no such object, or several to choose from (they are listed).
    """
    objects = load_descriptions(descriptions)
    if not name and len(objects) == 1:
        return next(iter(objects.values()))
    if name in objects:
        return objects[name]
    raise ValueError(
        f"AGSSP.SCORER.KEAD.OBJECT is {name!r}. Choose one that {descriptions!r} "
        f"(AGSSP.SCORER.KEAD.DESCRIPTIONS) describes: {', '.join(map(repr, objects))}."
    )


def objects_by_source(entries: Iterable[str], descriptions: str) -> dict[str, ObjectDescription]:
    """Source -> its object, of ``AGSSP.SCORER.KEAD.OBJECTS_BY_SOURCE``.

    Args:
        entries: "source=object" each: an object of ``descriptions``, or else a file or built-in of
            descriptions that has only one.
        descriptions: ``AGSSP.SCORER.KEAD.DESCRIPTIONS``.

    Raises:
        ValueError: an entry is not of that form, or a source has two, or its object cannot be told
            (the entry is named).
    """
    known = load_descriptions(descriptions) if entries else {}
    found: dict[str, ObjectDescription] = {}
    for entry in entries:
        # A folder may be called "line=a"; an object is called by whoever writes the file.
        source, _, name = (part.strip() for part in str(entry).rpartition("="))
        if not source or not name or source in found:
            raise ValueError(
                f"AGSSP.SCORER.KEAD.OBJECTS_BY_SOURCE has {entry!r}: expected source=object, each "
                "source once."
            )
        objects = {name: known[name]} if name in known else {}
        try:
            objects = objects or load_descriptions(name)
        except FileNotFoundError as error:
            raise ValueError(
                f"AGSSP.SCORER.KEAD.OBJECTS_BY_SOURCE has {entry!r}, but {name!r} is neither an "
                f"object of {descriptions!r} ({', '.join(map(repr, known))}) nor a file or "
                f"built-in of descriptions ({', '.join(builtin_descriptions())})."
            ) from error
        if len(objects) > 1:
            raise ValueError(
                f"AGSSP.SCORER.KEAD.OBJECTS_BY_SOURCE has {entry!r}, but {name!r} describes "
                f"several objects: {', '.join(map(repr, objects))}. Put them into "
                "AGSSP.SCORER.KEAD.DESCRIPTIONS and name one of them."
            )
        found[source] = next(iter(objects.values()))
    return found


def _read(path: Path) -> dict[str, ObjectDescription]:
    try:
        text = path.read_text(encoding="utf-8-sig")
        if path.suffix.lower() == ".json" and text.strip():
            json.loads(text)
            # Valid JSON has tabs between its tokens only, where yaml allows none.
            text = text.replace("\t", " ")
        content = yaml.load(text, Loader=UniqueKeyLoader)
        if not content:
            raise ValueError("The file is empty: it describes no object.")
        objects = _mapping_of(content, "the file", "objects, each with `normal` and `defects`")
        return {name: _object(name, fields) for name, fields in objects.items()}
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 ({error}). Save it as UTF-8.") from error
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{path} is not JSON ({error}). Correct it there, or write yaml into a file that ends "
            "in .yaml."
        ) from error
    except (yaml.YAMLError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path} is not yaml: {reason}. {_QUOTES}") from error
    except ValueError as error:
        raise ValueError(f"{path}: {error} docs/descriptions.md says how to write it.") from error


def _object(name: str, fields) -> ObjectDescription:
    name = _text(name, "an object's name")
    fields = _mapping_of(fields, repr(name), "`normal` and `defects`")
    if "des" in fields:
        return _released(name, fields)
    _check_keys(fields, repr(name), required=("normal", "defects"))
    states = _list(fields["normal"], f"`normal` of {name!r}", "what it looks like")
    defects: dict[str, Defect] = {}
    for parts in _list(fields["defects"], f"`defects` of {name!r}", "`name` and `appearance`"):
        where = f"a defect of {name!r}"
        _check_keys(
            _mapping_of(parts, where, "`name` and `appearance`"),
            where,
            required=("name", "appearance"),
        )
        defect = _text(parts["name"], f"`name` of {where}")
        if defect.casefold() in defects:
            raise ValueError(f"{name!r} has the defect {defect!r} twice. Give each its own name.")
        appearance = _text(parts["appearance"], f"`appearance` of {defect!r}")
        defects[defect.casefold()] = Defect(defect, appearance)
    normal = tuple(_text(state, f"a state in `normal` of {name!r}") for state in states)
    return ObjectDescription(name, normal, tuple(defects.values()))


def _released(key: str, fields: dict) -> ObjectDescription:
    _check_keys(fields, repr(key), required=("des", "map"), optional=("samples",))
    sides = _mapping_of(fields["des"], f"`des` of {key!r}", "`good` and `defect`")
    _check_keys(sides, f"`des` of {key!r}", required=("good", "defect"))
    phrases = {}
    for side, listed in sides.items():
        where = f"`{side}` of {key!r}"
        listed = _list(listed, where, "phrases with {} for the object")
        phrases[side] = [_text(phrase, f"a phrase in {where}") for phrase in listed]
        for phrase in phrases[side]:
            if PLACEHOLDER not in phrase:
                raise ValueError(f"A phrase in {where} has no {{}} for the object: {phrase!r}.")
    defects: dict[str, Defect] = {}
    for phrase in phrases["defect"]:
        match = _RELEASED_DEFECT.match(phrase)
        plain = match["name"] if match else phrase.replace(PLACEHOLDER, "").strip(" ,.")
        label, count = plain, 1
        while label.casefold() in defects:
            count += 1
            label = f"{plain} {count}"
        defects[label.casefold()] = Defect(label, phrase)
    name = _text(fields["map"], f"`map` of {key!r}")
    return ObjectDescription(name, tuple(phrases["good"]), tuple(defects.values()))


def _mapping_of(value, what: str, expected: str) -> dict:
    if not isinstance(value, dict):
        raise ValueError(f"{_capital(what)} is {_describe(value)}; expected a mapping: {expected}.")
    return value


def _check_keys(fields: dict, where: str, *, required: tuple, optional: tuple = ()) -> None:
    known = ", ".join((*required, *optional))
    for name in fields:
        if name not in (*required, *optional):
            raise ValueError(f"{_capital(where)} has the unknown key {name!r}. Known: {known}.")
    missing = [name for name in required if name not in fields]
    if missing:
        raise ValueError(f"{_capital(where)} lacks {', '.join(missing)}. It needs: {known}.")


def _list(value, what: str, items: str) -> list:
    if not isinstance(value, list) or not value:
        raise ValueError(f"{_capital(what)} is {_describe(value)}; expected a list of {items}.")
    return value


def _text(value, what: str) -> str:
    """Text on one line, in which ``{}`` is the only brace."""
    if not isinstance(value, str):
        raise ValueError(
            f"{_capital(what)} is {_describe(value)}; expected text. Put it in quotes. {_QUOTES}"
        )
    text = " ".join(value.split())
    if not text:
        raise ValueError(f"{_capital(what)} is empty. Write some text.")
    if set("{}") & set(text.replace(PLACEHOLDER, "")):
        raise ValueError(
            f"{_capital(what)} has braces other than {{}}: {text!r}. Only {{}} can be filled in, "
            "with the object's name."
        )
    return text


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


def _describe(value) -> str:
    return "empty" if value is None or value in ([], {}) else reprlib.repr(value)
