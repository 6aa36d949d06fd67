"""One module per layout that Referring Shapes can be written in."""
