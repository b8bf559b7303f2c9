"""The live charts as a panel: what the page says decides between ECharts and an image; nothing is drawn twice, and nothing breaks."""

import asyncio
import html
import sys

import ipywidgets as widgets
import pytest
from made_history import go_on, long

from workbench import charts
from workbench.events import History
from workbench.panels.monitor import live_charts
from workbench.panels.monitor.live_charts import LiveCharts
from workbench.panels.panel import everything_in


@pytest.fixture
def history(tmp_path) -> History:
    return long(tmp_path, 40, 100)


@pytest.fixture
def panel(monkeypatch) -> LiveCharts:
    monkeypatch.setattr(live_charts, "LEAST_SECONDS", 0.0)
    monkeypatch.setattr(live_charts, "SHARE_OF_TIME", 1e9)
    return LiveCharts()


@pytest.fixture
def impatient(monkeypatch) -> None:
    monkeypatch.setattr(live_charts, "PATIENCE_SECONDS", 0.0)


def page_says_drawn(panel: LiveCharts) -> None:
    plot = panel.plot
    plot._handle_custom_msg({"action": "widget_init"}, [])


def shown(panel: LiveCharts) -> set[str]:
    """What takes room on the page."""
    rooms = {
        "echarts": panel.plot_box.layout.height != "0",
        "image": panel.image.layout.display != "none",
    }
    return {name for name, there in rooms.items() if there}


def test_nothing_takes_room_until_the_page_has_drawn_echarts(panel, history):
    panel.follow(history)
    assert shown(panel) == set()
    page_says_drawn(panel)
    assert shown(panel) == {"echarts"}
    assert panel.image.value == ""


def test_an_image_takes_its_place_when_the_page_does_not_say_so(panel, history, impatient):
    panel.follow(history)
    assert shown(panel) == {"image"}
    assert 'src="data:image/png;base64,iVBOR' in panel.image.value
    assert f'alt="{html.escape(repr(panel))}"' in panel.image.value
    before = panel.image.value
    go_on(history, 50, 100)
    panel.follow(history)
    assert panel.image.value != before


def test_echarts_takes_over_whenever_it_says_so(panel, history, impatient):
    panel.follow(history)
    before = panel.image.value
    page_says_drawn(panel)
    assert shown(panel) == {"echarts"}
    go_on(history, 50, 100)
    panel.follow(history)
    assert panel.image.value == before


def test_without_the_package_there_is_the_image_at_once(monkeypatch, history):
    monkeypatch.setitem(sys.modules, "ipecharts", None)
    panel = LiveCharts()
    assert panel.plot is None
    panel.follow(history)
    assert shown(panel) == {"image"}


def test_a_redraw_is_one_message_and_nothing_changed_is_none(panel, history):
    panel.follow(history)
    page_says_drawn(panel)
    go_on(history, 45, 100)
    changes = []
    for part in everything_in(panel):
        part.observe(changes.append)
    panel.follow(history)
    assert sorted(change.name for change in changes) == ["option", "value"]
    changes.clear()
    panel.follow(history)
    panel.follow(history, now=True)
    assert changes == []


def test_it_is_drawn_at_most_once_in_a_while_unless_now(monkeypatch, history):
    monkeypatch.setattr(live_charts, "LEAST_SECONDS", 1e6)
    panel = LiveCharts()
    panel.follow(history)
    before = panel.plot.option
    go_on(history, 50, 100)
    panel.follow(history)
    assert panel.plot.option is before
    panel.follow(history, now=True)
    assert panel.plot.option["series"][0]["data"][-1][0] == 50


def test_what_was_put_off_is_drawn_by_itself(monkeypatch, history):
    monkeypatch.setattr(live_charts, "LEAST_SECONDS", 0.02)
    panel = LiveCharts()

    async def watch() -> None:
        panel.follow(history)
        go_on(history, 50, 100)
        panel.follow(history)
        while panel.plot.option["series"][0]["data"][-1][0] != 50:
            await asyncio.sleep(0.01)
        panel.close()

    asyncio.run(asyncio.wait_for(watch(), 60))


def test_the_controls_choose_what_is_shown_and_show_their_python(panel, history):
    panel.follow(history)
    assert "wb.picture(run)" in panel.code.value
    panel.show.value = "last half"
    panel.logarithmic.value = True
    panel.one_column.value = True
    assert (
        "wb.picture(run, show=&#x27;last half&#x27;, logarithmic=True, columns=1)"
        in panel.code.value
    )
    option = panel.plot.option
    assert option["xAxis"][0]["min"] == 20
    assert option["yAxis"][0]["type"] == "log"
    assert len({grid["left"] for grid in option["grid"]}) == 1


def test_a_control_and_nothing_else_ends_a_zoom(monkeypatch, panel, history):
    panel.follow(history)
    page_says_drawn(panel)
    sent = []
    monkeypatch.setattr(panel.plot, "dispatchAction", sent.append)
    go_on(history, 50, 100)
    panel.follow(history)
    assert sent == []
    for number, (control, value) in enumerate(
        [(panel.show, "last half"), (panel.logarithmic, True), (panel.one_column, True)], 1
    ):
        control.value = value
        assert sent == [{"type": "dataZoom", "start": 0, "end": 100}] * number


def test_each_control_has_a_label_and_a_tooltip(panel):
    for control in (panel.show, panel.logarithmic, panel.one_column):
        assert control.description
        assert len(control.tooltip) > 20


def test_the_newest_values_stand_beside_for_those_who_do_not_see_the_picture(panel, history):
    panel.follow(history)
    assert charts.newest(charts.live_charts(history)) in panel.told.value
    assert repr(panel) == charts.newest(charts.live_charts(history))
    assert repr(LiveCharts()) == "Charts of a run that is not followed yet."


def test_what_goes_wrong_is_said_and_breaks_nothing(monkeypatch, panel, history):
    def fails(*_: object) -> None:
        raise RuntimeError("<no> ink")

    with monkeypatch.context() as patched:
        patched.setattr(charts, "live_charts", fails)
        panel.follow(history)
    assert "RuntimeError: &lt;no&gt; ink" in panel.told.value
    assert panel.told.layout.display == ""
    go_on(history, 50, 100)
    panel.follow(history)
    assert "ink" not in panel.told.value


def test_closing_it_closes_all_that_is_in_it(panel, history):
    panel.follow(history)
    parts = everything_in(panel)
    assert len(parts) > 10
    panel.close()
    assert all(part.comm is None for part in parts)


def test_only_plain_widgets_are_used(panel):
    kinds = (
        widgets.VBox,
        widgets.HBox,
        widgets.HTML,
        widgets.Dropdown,
        widgets.Checkbox,
    )
    others = [
        p
        for p in everything_in(panel)
        if isinstance(p, widgets.DOMWidget) and not isinstance(p, kinds)
    ]
    assert others == [panel.plot]
