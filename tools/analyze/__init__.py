"""Why an evaluation came out as it did, on one HTML page; `docs/analyze.md` explains it."""
