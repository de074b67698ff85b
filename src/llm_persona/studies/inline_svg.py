"""A figure as SVG inside a page: in the page's own font and ink, without ids that clash, with words on its points."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET  # nosec B405
from typing import Any

from llm_persona.studies.figures import INK, Drawing, svg_of

SVG, XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
REFERENCE = re.compile(r"(?<=url\(#)[\w.-]+")
LINKS = ("href", f"{{{XLINK}}}href")


def inline_svg(drawing: Drawing, name: str) -> str:
    """The drawing as an `<svg>` element. Ids begin with `name`; a marker that has words carries them as its title."""
    import matplotlib

    with matplotlib.rc_context({"svg.fonttype": "none"}):
        faces = _see_through(drawing.figure)
        text = svg_of(drawing.figure)
        for patch, shown in faces:
            patch.set_visible(shown)
    root = ET.fromstring(text)  # noqa: S314  # nosec B314  # our own drawing
    _tell(root, drawing.points)
    _plain(root)
    _own_ids(root, name)
    for attribute in ("width", "height", "version"):
        root.attrib.pop(attribute, None)
    root.set("class", "chart")
    root.set("role", "img")
    root.set("aria-label", drawing.alt)
    root.set("stroke-linejoin", "round")
    ET.register_namespace("", SVG)
    ET.register_namespace("xlink", XLINK)
    return re.sub(r">\s+<", "><", ET.tostring(root, encoding="unicode"))


def _see_through(figure: Any) -> list[tuple[Any, bool]]:
    """Hide the backgrounds, so that the page's shows; returns what was shown."""
    patches = [figure.patch, *(axis.patch for axis in figure.axes)]
    faces = [(patch, patch.get_visible()) for patch in patches]
    for patch in patches:
        patch.set_visible(False)
    return faces


def _tell(root: ET.Element, points: dict[str, list[str]]) -> None:
    """Markers are drawn one `<use>` each, in the order of their points."""
    for group in root.iter(f"{{{SVG}}}g"):
        words = points.get(group.get("id", ""), [])
        markers = list(group.iter(f"{{{SVG}}}use"))
        if words and len(markers) == len(words):
            for marker, said in zip(markers, words, strict=True):
                marker.set("class", "pt")
                ET.SubElement(marker, f"{{{SVG}}}title").text = said


def _plain(root: ET.Element) -> None:
    """Take out metadata and rules for the whole page; black becomes the page's ink, fonts the page's font."""
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in (f"{{{SVG}}}metadata", f"{{{SVG}}}style"):
                parent.remove(child)
        style = parent.get("style")
        if style is not None:
            style = re.sub(r"font:\s*([\d.]+px)[^;]*", r"font-size: \1", style.replace(INK, "currentColor"))
            parent.set("style", style)


def _own_ids(root: ET.Element, name: str) -> None:
    """Only ids that are referred to stay, and only in this figure."""
    used = {found for e in root.iter() for value in e.attrib.values() for found in REFERENCE.findall(value)}
    used |= {e.attrib[link][1:] for e in root.iter() for link in LINKS if e.attrib.get(link, "").startswith("#")}
    for element in root.iter():
        for key, value in list(element.attrib.items()):
            if key == "id" and value not in used:
                del element.attrib["id"]
            elif key == "id":
                element.set("id", f"{name}-{value}")
            elif key in LINKS and value.startswith("#"):
                element.set(key, f"#{name}-{value[1:]}")
            else:
                element.set(key, REFERENCE.sub(lambda found: f"{name}-{found[0]}", value))
