"""What all panels of the explorer share: a picture with its text, errors in plain sight, work in the background.

A panel is a thin layer: its controls make settings, `compute` functions make numbers of them, draw functions a picture.
All pictures are <img> or <svg> elements with alternative text on a white ground, so they read alike on light and dark
themes and to a screen reader; all controls are native ones, which the keyboard reaches.
"""

import base64
import contextvars
import functools
import html
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import ipywidgets as w
from matplotlib.figure import Figure

from fspad_ref.errors import FspadError
from fspad_ref.teaching.exercises import claim, small_png
from fspad_ref.viz.explorer.markup import framed
from fspad_ref.viz.explorer.runs import Cancelled, Progress, Stopped
from fspad_ref.viz.explorer.stage_plots import png_of

Work = Callable[[Stopped, Progress], Any]  # (stopped, progress) -> a result

ONE_AT_A_TIME = threading.Lock()  # decodings are timed: two at once would slow each other down
DRAWING = threading.RLock()  # the style of figures is a setting of the whole process while one is drawn
WIDE = {"description_width": "9em"}


class Panel(w.VBox):
    """Controls on top, then what is going on, then what went wrong, then the picture and its text.

    figure, text: what is shown now; both are also what stands in for the panel where no kernel runs (GitHub, nbviewer).
    The figure is drawn when it is asked for: what is on the screen may be markup that takes far less time.
    """

    def __init__(self, controls: Sequence[w.Widget], views: Sequence[w.Widget] = ()):
        self._draw_figure: Callable[[], Figure | None] = lambda: None
        self.text = "Nothing has been drawn yet."
        self.status, self.error = w.HTML(), w.HTML()
        self.picture, self.caption = w.HTML(layout=w.Layout(width="100%")), w.HTML()
        self.cancel = w.Button(description="Cancel", disabled=True, tooltip="Stop what is being decoded")
        self.cancel.on_click(lambda _: self.stop())
        self._stop, self._thread = threading.Event(), None
        super().__init__([*controls, self.error, *(views or [self.picture]), self.caption])

    # --- pictures ---

    @property
    def figure(self) -> Figure | None:
        with DRAWING:
            return self._draw_figure()

    def tell(self, text: str, draw: Callable[[], Figure | None] = lambda: None) -> None:
        """The line of text under the picture, and what draws the figure that both stand for."""
        self.text, self._draw_figure = text, functools.cache(draw)
        self.caption.value = f'<p style="line-height: 1.4">{html.escape(text)}</p>'

    def show_picture(self, figure: Figure, text: str) -> None:
        """Put a figure and its text on the screen."""
        self.picture.value = image(figure, text)
        self.tell(text, lambda: figure)

    def _repr_mimebundle_(self, **kwargs) -> tuple[dict, dict]:
        """The widget, and beside it a PNG and a line of text for where widgets do not run."""
        data = super()._repr_mimebundle_(**kwargs) or {}
        data["text/plain"] = self.text
        figure = self.figure
        if figure is None:
            return data, {}
        data["image/png"] = base64.b64encode(small_png(figure)).decode()
        width, height = (round(side * figure.dpi) for side in figure.get_size_inches())
        return data, {"image/png": {"alt": self.text, "width": width, "height": height}}

    def show(self) -> None:
        """Display the panel, and its claim under it as under every figure."""
        from IPython.display import display

        display(self)
        claim(self.text)

    # --- errors ---

    @contextmanager
    def guard(self) -> Iterator[None]:
        """Whatever goes wrong inside is shown in the panel; what was drawn before stays."""
        self.error.value = ""
        try:
            with DRAWING:
                yield
        except Exception as error:  # shown in full: in a callback nobody else would see it
            self.error.value = error_box(error)

    # --- work that takes a while ---

    def in_background(self, work: Work, done: Callable[[Any], None]) -> None:
        """Run work(stopped, progress) in a thread instead of what is running, then done(result)."""
        self._stop.set()
        self._stop, self.cancel.disabled, self.error.value = threading.Event(), False, ""
        self._say("waiting")
        context = contextvars.copy_context()  # messages of the thread belong to the cell or event that began it
        self._thread = threading.Thread(target=context.run, args=(self._work, work, done, self._stop), daemon=True)
        self._thread.start()

    def _work(self, work: Work, done: Callable[[Any], None], stop: threading.Event) -> None:
        def progress(text: str) -> None:
            if self._stop is stop:
                self._say(text)

        with ONE_AT_A_TIME:
            try:
                if not stop.is_set():
                    result = work(stop.is_set, progress)
                    if not stop.is_set():
                        with self.guard():
                            done(result)
            except Cancelled:
                pass  # asked for, and said below
            except Exception as error:
                self.error.value = error_box(error)
        if self._stop is stop:  # no other piece of work has taken this one's place
            self.cancel.disabled = True
            self.status.value = "Stopped." if stop.is_set() else ""

    def _say(self, text: str) -> None:
        self.status.value = f'<span role="status" aria-live="polite">⏳ {html.escape(text)} …</span>'

    def stop(self) -> None:
        """Ask what is running to stop; it does so within a round."""
        self._stop.set()
        self.status.value = "Stopped."

    def wait(self, seconds: float | None = None) -> "Panel":
        """Return when the work in the background is done: for scripts, and for cells that show the panel."""
        if self._thread is not None:
            self._thread.join(seconds)
        return self


def image(figure: Figure, text: str) -> str:
    """An <img> of the figure in a box that scrolls, with alternative text."""
    data = base64.b64encode(png_of(figure)).decode()
    picture = (
        f'<img alt="{html.escape(text)}" style="max-width: 100%; height: auto" src="data:image/png;base64,{data}">'
    )
    return framed(picture, "picture")


def error_box(error: Exception) -> str:
    """An error as a reader should see it; one that is not the package's own comes with where it happened."""
    where = "" if isinstance(error, FspadError) else "".join(traceback.format_exception(error))
    detail = f"<details><summary>where</summary><pre>{html.escape(where)}</pre></details>" if where else ""
    message = f"<b>Error</b> ({type(error).__name__}): {html.escape(str(error))}"
    style = "border: 2px solid #D55E00; padding: 0.4em; background: white; color: black"
    return f'<div role="alert" style="{style}">{message}{detail}</div>'


def slider(kind: type, description: str, value, low, high, step, **more) -> w.Widget:
    """A slider that reports when it is let go, not on its way: what it changes takes a while."""
    return kind(value=value, min=low, max=high, step=step, description=description, continuous_update=False,
                style=WIDE, layout=w.Layout(width="26em"), **more)  # fmt: skip


def table(rows: dict[str, str]) -> str:
    """Names and values as a small HTML table."""
    left = 'style="text-align: left; vertical-align: top; padding-right: 1em"'
    cells = "".join(
        f"<tr><th {left}>{html.escape(name)}</th><td {left}>{html.escape(value)}</td></tr>"
        for name, value in rows.items()
    )
    return f'<table style="line-height: 1.4">{cells}</table>'
