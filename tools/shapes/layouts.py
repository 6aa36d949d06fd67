"""Referring Shapes in the layouts of the real data sets."""

from tools.shapes.writers.a2d import A2DWriter
from tools.shapes.writers.base import LayoutWriter
from tools.shapes.writers.davis import DavisWriter
from tools.shapes.writers.jhmdb import JhmdbWriter
from tools.shapes.writers.mevis import MevisV2Writer, MevisWriter
from tools.shapes.writers.ref_youtube_vos import RefYoutubeVosWriter
from tools.shapes.writers.refcoco import RefcocoWriter

LAYOUTS: dict[str, LayoutWriter] = {
    writer.name: writer
    for writer in (
        RefYoutubeVosWriter(),
        A2DWriter(),
        JhmdbWriter(),
        DavisWriter(),
        RefcocoWriter(),
        MevisWriter(),
        MevisV2Writer(),
    )
}
"""By name: the values of `python -m tools.make_shapes --format`."""
