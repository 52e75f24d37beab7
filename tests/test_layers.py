"""The package's rooms, as their imports draw them: none imports upward, and there is no circle."""

import ast

import pytest

from tests.conftest import REPOSITORY

PACKAGE = REPOSITORY / "detectron2_agssp"
# From the ground floor up: a room imports those of the lines before it; of its own line, others
# only where these do not import it.
LAYERS = (
    ("version", "config", "utils", "ops", "io"),
    ("visualization", "modeling"),
    ("checkpoint",),
    ("scoring",),
    ("maps",),
    ("boxes",),
    ("data",),
    ("evaluation",),
    ("reports",),
    ("engine",),
    ("inference",),
    ("plugin", "cli"),
)
LAYER = {room: number for number, rooms in enumerate(LAYERS) for room in rooms}
# (room, room): why the first may import the second nevertheless.
EXCEPTIONS: dict[tuple[str, str], str] = {}


def room_of(module: str) -> str:
    """ "detectron2_agssp.maps.store" -> "maps"; the package itself is ""."""
    return module.split(".")[1] if "." in module else ""


def imported_modules(source: str) -> set[str]:
    """Modules of the package that a file names in import statements, wherever these stand."""
    modules = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            # What is imported from the package itself may be a room.
            if node.module == "detectron2_agssp":
                modules |= {f"{node.module}.{alias.name}" for alias in node.names}
            else:
                modules.add(node.module)
    return {name for name in modules if name.split(".")[0] == "detectron2_agssp"}


def draw_imports() -> dict[tuple[str, str], list[str]]:
    """(room, room that it imports) -> the files that do."""
    edges: dict[tuple[str, str], list[str]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        room = "" if parts == ("__init__",) else parts[0]
        for module in imported_modules(path.read_text(encoding="utf-8")):
            if (target := room_of(module)) != room:
                edges.setdefault((room, target), []).append("/".join(parts))
    return edges


@pytest.fixture(scope="module")
def edges():
    return draw_imports()


def test_every_room_has_its_layer(edges):
    rooms = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py"}
    rooms |= {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert rooms - {"__init__", "__main__"} - set(LAYER) == set()
    assert ("maps", "scoring") in edges
    assert ("data", "boxes") in edges


def test_nothing_imports_upward(edges):
    upward = {
        (room, target): files
        for (room, target), files in edges.items()
        if room in LAYER and LAYER.get(target, -1) > LAYER[room]
    }
    assert {pair: files for pair, files in upward.items() if pair not in EXCEPTIONS} == {}
    assert set(EXCEPTIONS) <= set(upward), "an exception that is no more"


def test_no_two_rooms_import_each_other(edges):
    """Nor in a circle: rooms are taken away that import none of those left, until none is."""
    left = {pair for pair in edges if "" not in pair and pair not in EXCEPTIONS}
    while left:
        importing = {room for room, _ in left}
        kept = {(room, target) for room, target in left if target in importing}
        assert kept != left, f"a circle: {sorted(left)}"
        left = kept


def test_the_package_itself_is_not_imported_inside(edges):
    inside = {room: files for (room, target), files in edges.items() if target == ""}
    assert set(inside) <= {"__main__"}


def test_imports_are_absolute():
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            assert not (isinstance(node, ast.ImportFrom) and node.level), path


def test_the_drawing_sees_imports_inside_functions():
    source = (
        "def f():\n    import detectron2_agssp.maps.store\n    from detectron2_agssp import io\n"
    )
    assert imported_modules(source) == {"detectron2_agssp.maps.store", "detectron2_agssp.io"}
    assert room_of("detectron2_agssp.maps.store") == "maps"
    assert room_of("detectron2_agssp") == ""
