"""Maps of object ids, one per pixel; 0 is background."""

VOID_INDEX = 255
"""Id of pixels in annotations that belong to no object and are not scored."""
