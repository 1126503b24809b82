"""`subquad app`: name and flags of the command. Everything else is imported when it runs."""

from typing import Annotated

from cyclopts import Parameter

from subquad.app.settings import AppSettings

__all__ = ["app_command"]

FLAGS = Parameter(name="*", consume_multiple=1)


def app_command(settings: Annotated[AppSettings, FLAGS] = AppSettings()) -> None:
    """Open the web page; its help stands in `subquad.cli`, which does not import this module."""
    from subquad.app.server import serve

    serve(settings)
