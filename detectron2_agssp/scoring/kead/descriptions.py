"""What objects look like, sound and defective: the text that KeAD's prompts are made of.

``docs/descriptions.md`` says how to write a file; those of this package are in ``builtin/``.
"""

import difflib
import json
import re
from dataclasses import dataclass
from pathlib import Path

import yaml
from yaml import MappingNode, Node, ScalarNode, SequenceNode

BUILTIN_FOLDER = Path(__file__).parent / "builtin"
PLACEHOLDER = "{}"

_OBJECT_KEYS = ("normal", "defects")
_DEFECT_KEYS = ("name", "appearance")
_RELEASED_KEYS = ("des", "map", "samples")
_RELEASED_STATES = ("good", "defect")
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
        ValueError: the content is not what it should be; file, line and way out are named.
    """
    name = str(path_or_builtin_name)
    known = builtin_descriptions()
    if name in known:
        return _Reader(BUILTIN_FOLDER / f"{name}.yaml").read()
    path = Path(path_or_builtin_name).expanduser()
    if not path.is_file():
        close = difflib.get_close_matches(name, known, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise FileNotFoundError(
            f"Descriptions {name!r} are neither a file nor built in.{hint} Give the path of a yaml "
            f"file (docs/descriptions.md says how to write one) or one of: {', '.join(known)}."
        )
    return _Reader(path).read()


class _Reader:
    """One file. Read as yaml's node tree, because that keeps the lines; JSON is read as yaml too,
    once it is known to be JSON."""

    def __init__(self, path: Path):
        self.path = path

    def read(self) -> dict[str, ObjectDescription]:
        root = self._compose()
        what = "objects, each with `normal` and `defects`"
        entries = self._entries(root, "The file", what)
        if not entries:
            raise self._error(root, f"The file describes no object. Write {what}.")
        objects = {}
        for name, (key, value) in entries.items():
            where = f"Object {name!r}"
            fields = self._entries(value, where, "a mapping of `normal` and `defects`", at=key)
            released = "des" in fields
            objects[name] = (self._released if released else self._object)(name, key, fields)
        return objects

    # ---- our layout ----------------------------------------------------------------------

    def _object(self, name: str, key: Node, fields: dict) -> ObjectDescription:
        where = f"Object {name!r}"
        self._check_keys(fields, key, where, required=_OBJECT_KEYS)
        states = self._list(*fields["normal"], f"`normal` of {where}", "what it looks like")
        states = tuple(self._text(node, f"A normal state of {where}") for node in states)
        defects: dict[str, Defect] = {}
        listed = self._list(*fields["defects"], f"`defects` of {where}", "`name` and `appearance`")
        for node in listed:
            parts = self._entries(node, f"A defect of {where}", "`name` and `appearance`")
            self._check_keys(parts, node, f"A defect of {where}", required=_DEFECT_KEYS)
            defect = self._text(parts["name"][1], f"The name of a defect of {where}")
            if defect.casefold() in defects:
                raise self._error(
                    node,
                    f"{where} has the defect {defect!r} twice. Give each its own name, or merge "
                    "the two appearances.",
                )
            appearance = self._text(parts["appearance"][1], f"The appearance of {defect!r}")
            defects[defect.casefold()] = Defect(defect, appearance)
        return ObjectDescription(name, states, tuple(defects.values()))

    # ---- the released layout -------------------------------------------------------------

    def _released(self, key_name: str, key: Node, fields: dict) -> ObjectDescription:
        where = f"Object {key_name!r}"
        self._check_keys(
            fields, key, where, required=_RELEASED_KEYS[:2], optional=_RELEASED_KEYS[2:]
        )
        name = self._text(fields["map"][1], f"`map` of {where}")
        key, value = fields["des"]
        sides = self._entries(value, f"`des` of {where}", "`good` and `defect`", at=key)
        self._check_keys(sides, key, f"`des` of {where}", required=_RELEASED_STATES)
        phrases = {side: self._phrases(*sides[side], f"`{side}` of {where}") for side in sides}
        defects: dict[str, Defect] = {}
        for phrase in phrases["defect"]:
            match = _RELEASED_DEFECT.match(phrase)
            plain = match["name"] if match else phrase.replace(PLACEHOLDER, "").strip(" ,.")
            label, count = plain, 1
            while label.casefold() in defects:
                count += 1
                label = f"{plain} {count}"
            defects[label.casefold()] = Defect(label, phrase)
        return ObjectDescription(name, tuple(phrases["good"]), tuple(defects.values()))

    def _phrases(self, key: Node, value: Node, what: str) -> list[str]:
        phrases = []
        for node in self._list(key, value, what, "phrases with {} for the object"):
            phrase = self._text(node, f"A phrase in {what}")
            if PLACEHOLDER not in phrase:
                raise self._error(
                    node, f"A phrase in {what} has no {{}}: {phrase!r}. Write {{}} for the object."
                )
            phrases.append(phrase)
        return phrases

    # ---- checks --------------------------------------------------------------------------

    def _entries(
        self, node: Node, what: str, expected: str, at: Node | None = None
    ) -> dict[str, tuple[Node, Node]]:
        """Key -> its node and its value's, of a mapping with different, textual keys."""
        if not isinstance(node, MappingNode):
            raise self._error(at or node, f"{what} is {_describe(node)}; expected {expected}.")
        entries: dict[str, tuple[Node, Node]] = {}
        for key, value in node.value:
            name = self._text(key, f"A key in {what[0].lower()}{what[1:]}")
            twin = next((other for other in entries if other.casefold() == name.casefold()), None)
            if twin is not None:
                line = entries[twin][0].start_mark.line + 1
                raise self._error(
                    key, f"{name!r} was there already, in line {line}. Rename or remove one."
                )
            entries[name] = (key, value)
        return entries

    def _check_keys(self, entries, at, where, *, required, optional=()):
        known = ", ".join((*required, *optional))
        for name, (key, _) in entries.items():
            if name not in (*required, *optional):
                raise self._error(key, f"{where} has the unknown key {name!r}. Known: {known}.")
        missing = [name for name in required if name not in entries]
        if missing:
            raise self._error(
                at, f"{where} lacks {', '.join(map(repr, missing))}. It needs: {known}."
            )

    def _list(self, key: Node, value: Node, what: str, items: str) -> list[Node]:
        if not isinstance(value, SequenceNode):
            raise self._error(key, f"{what} is {_describe(value)}; expected a list of {items}.")
        if not value.value:
            raise self._error(key, f"{what} is an empty list. Add one or more: {items}.")
        return value.value

    def _text(self, node: Node, what: str) -> str:
        """The text of a node, on one line."""
        if not isinstance(node, ScalarNode) or node.tag != "tag:yaml.org,2002:str":
            raise self._error(
                node, f"{what} is {_describe(node)}; expected text. Put it in quotes. {_QUOTES}"
            )
        text = " ".join(node.value.split())
        if not text:
            raise self._error(node, f"{what} is empty. Write some text.")
        if set("{}") & set(text.replace(PLACEHOLDER, "")):
            raise self._error(
                node,
                f"{what} has braces other than {{}}: {text!r}. Only {{}} can be filled in, with "
                "the object's name.",
            )
        return text

    # ---- the file ------------------------------------------------------------------------

    def _compose(self) -> Node:
        try:
            text = self.path.read_text(encoding="utf-8-sig")
        except UnicodeDecodeError as error:
            line = error.object.count(b"\n", 0, error.start) + 1
            raise ValueError(
                f"{self.path}, line {line}: not UTF-8 ({error.reason}). Save the file as UTF-8."
            ) from error
        try:
            if self.path.suffix.lower() == ".json" and text.strip():
                json.loads(text)
                # Valid JSON has tabs between its tokens only, where yaml allows none.
                text = text.replace("\t", " ")
            root = yaml.compose(text, Loader=yaml.SafeLoader)
        except json.JSONDecodeError as error:
            raise ValueError(
                f"{self.path}, line {error.lineno}: not JSON ({error.msg}, column {error.colno}). "
                "Correct it there, or write yaml into a file that ends in .yaml."
            ) from error
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            raise ValueError(
                f"{self.path}, line {mark.line + 1}: not yaml ({error.problem}, column "
                f"{mark.column + 1}). {_QUOTES}"
            ) from error
        except yaml.reader.ReaderError as error:
            line = text.count("\n", 0, error.position) + 1
            raise ValueError(
                f"{self.path}, line {line}: the character {error.character!r} is not allowed in "
                "yaml. Remove it."
            ) from error
        if root is None:
            raise ValueError(
                f"{self.path}, line 1: the file is empty. Describe an object; "
                f"{BUILTIN_FOLDER / 'metal_surface.yaml'} is an example."
            )
        return root

    def _error(self, node: Node, text: str) -> ValueError:
        return ValueError(f"{self.path}, line {node.start_mark.line + 1}: {text}")


def _describe(node: Node) -> str:
    """What a node is, for an error."""
    if isinstance(node, MappingNode):
        return "a mapping" if node.value else "an empty mapping"
    if isinstance(node, SequenceNode):
        return "a list" if node.value else "an empty list"
    kind = node.tag.rsplit(":", 1)[-1]
    if kind == "null":
        return "empty"
    return f"the text {node.value!r}" if kind == "str" else f"{node.value} ({kind})"
