"""Referring Shapes in the layouts of the real data sets."""

from tools.shapes.writers.a2d import A2D
from tools.shapes.writers.base import Layout
from tools.shapes.writers.davis import Davis
from tools.shapes.writers.jhmdb import Jhmdb
from tools.shapes.writers.mevis import Mevis
from tools.shapes.writers.ref_youtube_vos import RefYoutubeVosLayout
from tools.shapes.writers.refcoco import Refcoco

LAYOUTS: dict[str, Layout] = {
    layout.name: layout for layout in (RefYoutubeVosLayout(), A2D(), Jhmdb(), Davis(), Refcoco(), Mevis())
}
"""Layouts by the name that `python -m tools.make_shapes --format` knows them by."""
