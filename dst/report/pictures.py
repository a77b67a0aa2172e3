"""Masks as pictures: the mask matrix, its change, and the connections of each input pixel."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup, escape
from matplotlib.image import imsave

from dst.inspect.mask_images import ACTIVE, LARGEST, Colour, enlarged, matrix, mixed, per_pixel
from dst.report.plots import Key, Plot, histogram
from dst.report.words import joined

# Mid tones, visible on light and on dark paper.
KEPT, GROWN, DROPPED = (139, 145, 153), (27, 175, 122), (235, 104, 52)
_SHARPEST = 1200  # small pictures are enlarged up to this width, so that browsers need not


@dataclass(frozen=True)
class MaskView:
    """The pictures of one layer.

    Attributes:
      path: of the layer.
      elongated: whether the matrices are so long that they are shown below each other.
      pixels: connections per input pixel, where the inputs form a square.
      pixel_text: what these pictures show, in numbers.
      matrices: the masks themselves.
      text: what changed between them, in numbers.
      degrees: histograms of connections per output and per input.
    """

    path: str
    elongated: bool
    pixels: tuple[Plot, ...]
    pixel_text: str
    matrices: tuple[Plot, ...]
    text: str
    degrees: tuple[Plot, ...]


def look(path: str, before: np.ndarray | None, after: np.ndarray | None) -> MaskView | None:
    """The pictures of one layer's masks; None where there is nothing to draw.

    Args:
      path: of the layer.
      before, after: bool masks ``[..., inputs, outputs]``; None where a file is missing.
    """
    known = [mask for mask in (before, after) if mask is not None]
    if not known or known[0].ndim < 2 or not known[0].size:
        return None
    if len(known) == 2 and known[0].shape != known[1].shape:
        return None
    shape = known[0].shape
    first, last = (None if m is None else matrix(m) for m in (before, after))
    inputs, outputs = matrix(known[0]).shape
    elongated = max(inputs, outputs) > 2 * min(inputs, outputs)
    maps, text = _pixels(first, last) if len(shape) == 2 else ((), "")
    drawn = _matrices(first, last)
    return MaskView(path, elongated, maps, text, *drawn, degrees=degrees(first, last))


def png(weighted: Sequence[tuple[np.ndarray, Colour]]) -> str:
    """A picture as a ``data:`` address: colours mixed by weight, transparent where all are zero.

    Args:
      weighted: per colour, weights ``[rows, columns]``, 0 or more. Opacity is the sum of the
        weights, relative to the largest sum in the picture.
    """
    return _encode(mixed(weighted))


def _encode(image: np.ndarray) -> str:
    out = io.BytesIO()
    large = enlarged(image, _SHARPEST)
    imsave(out, large, format="png", metadata={"Software": "dst"})
    return "data:image/png;base64," + base64.b64encode(out.getvalue()).decode()


def _matrices(first: np.ndarray | None, last: np.ndarray | None) -> tuple[tuple[Plot, ...], str]:
    known = [m for m in (first, last) if m is not None]
    inputs, outputs = known[0].shape
    turned = inputs > outputs  # the longer axis is horizontal
    axes = [f"{inputs:,} inputs", f"{outputs:,} outputs"]
    across, down = axes if turned else axes[::-1]
    how = f"{across} from left to right, {down} from top to bottom"

    def picture(
        title: str, weighted: Sequence[tuple[np.ndarray, Colour]], legend: tuple[Key, ...]
    ) -> Plot:
        laid = [(m.T if turned else m, colour) for m, colour in weighted]
        return Plot(title, _image(png(laid), f"{title}: {how}"), legend)

    active = (Key(_css(ACTIVE), "active connection"),)
    plots = []
    if first is not None:
        plots.append(picture("Mask before training", [(first, ACTIVE)], active))
    if last is not None:
        plots.append(picture("Mask after training", [(last, ACTIVE)], active))
    if max(inputs, outputs) > LARGEST:
        text = "Each point stands for several connections. It is more opaque if more are active."
    else:
        text = "Each point is one connection."
    text += f" The {across} run from left to right, the {down} from top to bottom."
    if first is None or last is None:
        return tuple(plots), text
    kept, grown, dropped = first & last, last & ~first, first & ~last
    if not grown.any() and not dropped.any():
        return tuple(plots), f"{text} The mask is the same before and after training."
    n = int(first.sum())
    chance = int(last.sum()) / last.size
    legend = (
        Key(_css(KEPT), f"kept {int(kept.sum()):,}"),
        Key(_css(GROWN), f"grown {int(grown.sum()):,}"),
        Key(_css(DROPPED), f"dropped {int(dropped.sum()):,}"),
    )
    change = [(kept, KEPT), (grown, GROWN), (dropped, DROPPED)]
    plots.append(picture("What changed", change, legend))
    if n:
        text += (
            f" Of the {n:,} connections at the start, {100 * int(kept.sum()) / n:.0f} % are active "
            f"at the end. A random mask would share {100 * chance:.0f} %."
        )
    return tuple(plots), text


def _pixels(first: np.ndarray | None, last: np.ndarray | None) -> tuple[tuple[Plot, ...], str]:
    """Active connections per input, where the inputs are the pixels of a square picture.

    The picture is grey or has three colours per pixel.
    """
    known = [
        (t, m) for t, m in (("Before training", first), ("After training", last)) if m is not None
    ]
    grids = [(title, grid) for title, m in known if (grid := per_pixel(m)) is not None]
    if not grids:
        return (), ""
    inputs, side = len(known[0][1]), len(grids[0][1])
    top = max(int(n.max()) for _, n in grids)
    plots, shares = [], []
    for title, grid in grids:
        n = grid.ravel()
        legend = (Key("", f"{int(n.min())} to {int(n.max())} connections per pixel"),)
        plots.append(Plot(title, _map(grid, top, f"{title}, connections per pixel"), legend))
        quarter = np.sort(n)[::-1][: max(1, n.size // 4)].sum() / max(1, int(n.sum()))
        shares.append(f"{100 * quarter:.0f} % {title.lower()}")
    text = (
        f"The {inputs:,} inputs are a picture of {side} × {side} pixels"
        f"{', with three colours each' if inputs > side * side else ''}. A pixel is more opaque if "
        "it has more active connections. Of all connections, the quarter of the pixels with the "
        f"most holds {joined(shares)}. An even spread would give 25 %."
    )
    if any((n == 0).any() for _, n in grids):
        idle = [f"{int((n == 0).sum())} {title.lower()}" for title, n in grids]
        text += f" Pixels without any connection: {', '.join(idle)}."
    return tuple(plots), text


def _map(grid: np.ndarray, top: int, label: str) -> Markup:
    """Counts as SVG: opacity is the count relative to ``top``; small grids show numbers."""
    side = grid.shape[0]
    shade = grid / max(top, 1)
    pixels = np.empty((*grid.shape, 4), np.uint8)
    pixels[..., :3] = ACTIVE
    pixels[..., 3] = np.rint(255 * shade)
    texts = []
    if side <= 12:
        for (row, column), n in np.ndenumerate(grid):
            tone = "on" if shade[row, column] > 0.9 else "off"
            texts.append(
                f'<text class="{tone}" x="{column + 0.5}" y="{row + 0.62}">{int(n)}</text>'
            )
    return Markup(
        f'<svg class="map" viewBox="0 0 {side} {side}" role="img" aria-label="{escape(label)}">'
        f'<image width="{side}" height="{side}" href="{_encode(pixels)}"/>'
        f"{''.join(texts)}</svg>"
    )


def degrees(first: np.ndarray | None, last: np.ndarray | None, whose: str = "") -> tuple[Plot, ...]:
    """How many active connections outputs and inputs have, before and after training.

    Args:
      first, last: bool masks ``[..., inputs, outputs]``; None where a file is missing.
      whose: added to the titles.
    """
    if last is None or last.ndim < 2 or not last.size:
        return ()
    if first is not None and first.shape != last.shape:
        first = None
    plots = []
    for title, unit, axis in (
        ("Connections per output", "output", 0),
        ("Connections per input", "input", 1),
    ):
        before, after = (
            None if mask is None else matrix(mask).sum(axis=axis) for mask in (first, last)
        )
        assert after is not None
        plots.append(histogram(f"{title}{whose}", unit, before, after))
    return tuple(plots)


def _css(colour: Colour) -> str:
    return f"rgb({', '.join(map(str, colour))})"


def _image(address: str, label: str) -> Markup:
    return Markup(f'<img class="mask" src="{address}" alt="{escape(label)}">')
