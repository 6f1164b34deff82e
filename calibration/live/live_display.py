"""What a person sees while images take themselves: on a terminal what the camera sees just now, else a line for each image that is kept."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from calibration.live.collecting import Guide, Look

Show = Callable[[Look | None], None]  # None: nothing was looked at yet


@contextmanager
def shown(guide: Guide, *, quiet: bool) -> Iterator[Show]:
    """A display on stderr."""
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    console = Console(stderr=True, quiet=quiet)
    with Live(console=console, auto_refresh=False, transient=True) as live:

        def show(look: Look | None) -> None:
            if console.is_terminal:
                lines = (guide.status(), _seen(look), f"next: {guide.advice()}", "Ctrl-C ends it, and what is there counts")
                live.update(Text("\n".join(lines)), refresh=True)
            if look is None or look.name:
                kept = f"{look.name}: {look.place.words()}; " if look and look.place else ""
                console.print(f"{kept}next: {guide.advice()}", highlight=False, markup=False, soft_wrap=True)

        yield show


def _seen(look: Look | None) -> str:
    if look is None:
        return "waiting for the camera"
    where = f"the board is seen {look.place.words()}" if look.place else ""
    return ": ".join(filter(None, (where, look.why_not or "kept")))
