"""Links to the page: its address keeps the settings, and a link restores them."""

import json
import math
import urllib.parse
from collections.abc import Mapping, Sequence
from typing import Any

import gradio as gr

from scorax.tools.playground.markup import alert


def get_link_js(tab: str, names: Sequence[str]) -> str:
    """JavaScript that puts the values of the controls into the address of the page."""
    return f"""(...values) => {{
      const query = new URLSearchParams({{tab: {json.dumps(tab)}}});
      {json.dumps(list(names))}.forEach((name, i) => query.set(name, values[i] ?? ''));
      history.replaceState(null, '', '?' + query);
      return location.href;
    }}"""


def get_updates(query: str, tabs: Sequence[str], controls: Mapping[str, Any]) -> list[Any]:
    """The updates of tabs, notice and controls for an address of the page.

    Args:
      query: the address after its question mark.
      tabs: the names of the tabs.
      controls: by their names in links.
    """
    asked = dict(urllib.parse.parse_qsl(query))
    updates: list[Any] = [gr.skip(), ""] + [gr.skip()] * len(controls)
    if asked.get("tab") in tabs:
        updates[0] = gr.Tabs(selected=asked["tab"])
    wrong: list[str] = []
    for i, (name, control) in enumerate(controls.items(), 2):
        if name in asked:
            try:
                updates[i] = gr.update(value=_read_value(control, asked[name]))
            except ValueError:
                wrong.append(f"{name}={asked[name]}")
    if wrong:
        text = f"These settings of the link do not exist and are left out: {', '.join(wrong)}"
        gr.Warning(text)
        updates[1] = alert(text)
    return updates


def _read_value(control: Any, text: str) -> Any:
    """The value of a control in a link.

    Raises:
      ValueError: if the control cannot have it.
    """
    if isinstance(control, gr.Dropdown):
        if text not in [value for _, value in control.choices]:
            raise ValueError
        return text
    value = float(text)
    low, high = (getattr(control, name, None) for name in ("minimum", "maximum"))
    if not math.isfinite(value) or (low is not None and not low <= value <= high):
        raise ValueError
    return value
