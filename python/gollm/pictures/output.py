"""Where a picture goes: a page of HTML that opens without a network, or PNG and SVG for a paper.

Vega draws all of them (altair writes its specifications): its JavaScript is in the page, and vl-convert runs it for PNG
and SVG, without a browser.
"""

from __future__ import annotations

import functools
import importlib
import json
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import jinja2

from gollm.errors import PictureError
from gollm.pictures import theme
from gollm.system.files import check_folder_of, replacing

ENDINGS = (".html", ".png", ".svg")
PNG_SCALE = 2  # pixels for each of the picture's

Spec = dict[str, Any]  # a chart of Vega-Lite


def library(name: str) -> Any:
    """A module of the extra `report`. Raises PictureError where it is not installed."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError:
        raise PictureError(f"pictures need {name}, which is not installed: pip install 'gollm[report]'") from None


def ending_of(path: str | Path) -> str:
    """.html, .png or .svg. Raises PictureError for another ending."""
    ending = Path(path).suffix.lower()
    if ending not in ENDINGS:
        raise PictureError(f"the picture's file is {str(path)!r}; its name must end with {', '.join(ENDINGS)}")
    return ending


def ready_for(path: str | Path) -> str:
    """ending_of(path), before anything long is computed for it. Raises PictureError, too, where its folder or a library
    that pictures need is missing."""
    ending = ending_of(path)
    check_folder_of(path, PictureError)
    library("altair")
    library("vl_convert")
    return ending


def save(path: str | Path, content: str | bytes) -> None:
    """Writes a picture, whole or not at all. Raises PictureError."""
    with replacing(path, PictureError) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def html(
    template: str,
    *,
    figures: Mapping[str, Spec],
    data: Mapping[str, Any],
    scripts: bool = True,
    **context: Any,
) -> str:
    """A page of one of the templates. `figures` are the charts by the names of their places in it, `data` is what its
    script puts into them. Without `scripts` it is what a live page takes its news from."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("gollm.pictures"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.policies["json.dumps_kwargs"] = {"ensure_ascii": False, "separators": (",", ":"), "allow_nan": False}
    return environment.get_template(template).render(
        figures=dict(figures),
        data=dict(data),
        vega=_vega() if scripts else "",
        themes={scheme: theme.config(scheme) for scheme in ("light", "dark")},
        version=metadata.version("gollm"),
        scripts=scripts,
        **context,
    )


def image(spec: Spec, ending: str) -> bytes:
    """A chart with its data as PNG or SVG, in the light colours."""
    vl_convert = library("vl_convert")
    options = {"vl_version": _vega_lite_version(), "config": theme.config("light")}
    text = json.dumps(spec)
    if ending == ".svg":
        return str(vl_convert.vegalite_to_svg(text, **options)).encode()
    return bytes(vl_convert.vegalite_to_png(text, scale=PNG_SCALE, **options))


def with_data(chart: Any, **datasets: list[dict[str, Any]]) -> Spec:
    """A chart of altair whose named datasets have these rows."""
    spec: Spec = chart.to_dict()
    spec["datasets"] = {**spec.get("datasets", {}), **datasets}
    return spec


@functools.cache
def _vega() -> str:
    """Vega, Vega-Lite and vega-embed in one script: 0.9 MB."""
    bundle: str = library("vl_convert").javascript_bundle(
        "window.vegaEmbed = vegaEmbed;", vl_version=_vega_lite_version()
    )
    return bundle.replace("</script", r"<\/script")


def _vega_lite_version() -> str:
    """The version of altair's specifications, "6.4"."""
    return ".".join(library("altair").SCHEMA_VERSION.removeprefix("v").split(".")[:2])
