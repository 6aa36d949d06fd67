"""A page in the browser: `python -m tools.web --model FOLDER`; docs/web.md."""
