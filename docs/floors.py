"""Draws docs/floors.svg: the packages of src/ on the floors that import-linter holds them to, each module a label.

    python docs/floors.py

A package may import only packages on floors below its own. Packages of one subject are coloured.
"""

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
WIDTH, MARGIN, GAP, FLOOR_GAP = 1120, 12, 8, 8
CHIP_HEIGHT, CHIP_GAP, HEAD, CHAR = 15, 3, 20, 6.0
COLOURS = {
    "audit": "#d1495b",
    "quota": "#e08e12",
    "shards": "#3d8b4f",
    "deletion": "#7b4fb5",
    "orgs": "#2878b5",
    "alerts": "#8a6d1d",
    "tracebility_engine": "#0f8b8d",
}
STYLE = (
    "text{fill:#1c2330;font-size:10px}.n{font-weight:600;font-size:12px}.room{fill:#f4f6fa;stroke:#b8c0cf}"
    ".m{fill:#fff;stroke:#d5dae4}.w{fill:#fff}"
    "@media(prefers-color-scheme:dark){text{fill:#e8ebf0}.room{fill:#1b202a;stroke:#4a5468}.m{fill:#242b38;stroke:#3a4456}"
    ".w{fill:#fff}}"
)


def floors() -> list[list[str]]:
    """Rooms by floor, the top one first, as pyproject.toml has them."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    [layers] = [contract["layers"] for contract in contracts if contract["type"] == "layers"]
    return [[room.strip() for room in layer.replace(":", "|").split("|")] for layer in layers]


def modules(room: Path) -> list[str]:
    """Names of the modules of a package, those of its packages with a folder."""
    files = sorted(room.rglob("*.py")) if room.is_dir() else [room.with_suffix(".py")]
    names = [file.relative_to(room).with_suffix("") for file in files if room.is_dir() and file.stem != "__init__"]
    return [str(name) for name in names]


def merged(rows: Sequence[Sequence[str]], sizes: Mapping[str, int]) -> Iterator[list[str]]:
    """Floors, with neighbours that are single modules on one."""
    line: list[str] = []
    for row in rows:
        if all(not sizes[room] for room in row):
            line += row
            continue
        if line:
            yield line
            line = []
        yield list(row)
    if line:
        yield line


def room_box(name: str, members: Sequence[str], x: float, y: float, width: float) -> tuple[list[str], float]:
    """The labels in a room, and the height they need."""
    shapes, at, top = [], x + 6, y + HEAD
    for member in members:
        chip = len(member) * CHAR + 8
        if at + chip > x + width - 6:
            at, top = x + 6, top + CHIP_HEIGHT + CHIP_GAP
        colour = COLOURS.get(f"{name}/{member}", COLOURS.get(name, ""))
        fill = f'style="fill:{colour};stroke:{colour}"' if colour else ""
        text = 'class="w" style="fill:#fff"' if colour else ""
        shapes.append(
            f'<rect class="m" {fill} x="{at:.1f}" y="{top:.1f}" width="{chip:.1f}" height="{CHIP_HEIGHT}" rx="3"/>'
            f'<text {text} x="{at + 4:.1f}" y="{top + 11:.1f}">{member}</text>'
        )
        at += chip + CHIP_GAP
    height = top - y + (CHIP_HEIGHT + 6 if members else 4)
    title = f'<text class="n" x="{x + 6:.1f}" y="{y + 14:.1f}">{name}</text>'
    return [title, *shapes], height


def draw(source: Path, rows: Sequence[Sequence[str]]) -> str:
    """The picture as SVG."""
    package = source / "tracebility"
    members = {room: modules(package / room) for row in rows for room in row}
    shapes: list[str] = []
    y = float(MARGIN)
    lines = [*merged(rows, {room: len(found) for room, found in members.items()}), ["tracebility_engine"]]
    members["tracebility_engine"] = modules(source / "tracebility_engine")
    for line in lines:
        weights = [max(len(members[room]), 2) ** 0.8 for room in line]
        free = WIDTH - 2 * MARGIN - GAP * (len(line) - 1)
        boxes, x, tallest = [], float(MARGIN), 0.0
        for room, weight in zip(line, weights, strict=True):
            width = free * weight / sum(weights)
            inner, height = room_box(room, members[room], x, y, width)
            boxes.append((x, width, inner))
            tallest = max(tallest, height)
            x += width + GAP
        for left, width, inner in boxes:
            shapes.append(
                f'<rect class="room" x="{left:.1f}" y="{y:.1f}" width="{width:.1f}" height="{tallest:.1f}" rx="6"/>'
            )
            shapes += inner
        y += tallest + FLOOR_GAP
    label = "Packages by floor; each imports only from floors below: " + ", ".join(members)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y + MARGIN:.0f}" role="img" '
        f'font-family="system-ui, sans-serif" aria-label="{label}">\n<style>{STYLE}</style>\n'
        + "\n".join(shapes)
        + "\n</svg>\n"
    )


if __name__ == "__main__":
    (ROOT / "docs" / "floors.svg").write_text(draw(ROOT / "src", floors()))
