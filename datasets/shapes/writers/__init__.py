"""Referring Shapes in the layouts of the real data sets."""

from datasets.shapes.writers.a2d import A2D
from datasets.shapes.writers.base import Layout
from datasets.shapes.writers.davis import Davis
from datasets.shapes.writers.jhmdb import Jhmdb
from datasets.shapes.writers.mevis import Mevis
from datasets.shapes.writers.ref_youtube_vos import RefYoutubeVosLayout
from datasets.shapes.writers.refcoco import Refcoco

LAYOUTS: dict[str, Layout] = {
    layout.name: layout for layout in (RefYoutubeVosLayout(), A2D(), Jhmdb(), Davis(), Refcoco(), Mevis())
}
"""Layouts by the name that `python -m tools.make_shapes --format` knows them by."""
