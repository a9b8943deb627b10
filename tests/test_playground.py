"""The page to play with: what it draws, and the page itself in a browser."""

import contextlib
import os
import re
import shutil
import subprocess
import sys
import threading
import time
import urllib.parse

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import scorax
from pages import ROOT
from scorax.sde_lib import VPSDE
from scorax.tools.playground import __main__ as playground
from scorax.tools.playground import plane
from scorax.tools.playground.canvas import read_canvas, to_canvas
from scorax.tools.playground.studio import How, Run, Runs, Studio

FEW = How("dpmpp_2m_sde", 10, 4, 3)


@pytest.fixture(scope="module")
def digits():
    return playground.load_studio("pretrained/mnist_ve", "ve/mnist", None)


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch):
    monkeypatch.chdir(ROOT)


def last(moments):
    *_, moment = moments
    return moment


def counting():
    """A run that counts to its argument, and how far each call has come on the host."""
    seen = []

    def build(tell):
        def note(i):
            time.sleep(0.005)
            seen.append(int(i))
            tell(i)

        def count(n):
            def step(i, x):
                jax.debug.callback(note, i, ordered=True)
                return x + 1.0

            return jax.lax.fori_loop(0, n, step, jnp.zeros(2)), n

        return count

    return Run(build), seen


def test_a_run_is_seen_step_by_step_and_ends_with_samples_and_cost():
    run, _ = counting()
    moments = list(run(np.int32(5)))
    assert [int(m.state[0]) for m in moments if m.state and not m.nfe] == [0, 1, 2, 3, 4]
    assert moments[-1].nfe == 5 and moments[-1].state[0].tolist() == [5.0, 5.0]
    assert moments[-1].compile_seconds > 0
    assert last(run(np.int32(2))).compile_seconds == 0  # compiled once


def test_a_run_that_nobody_watches_any_more_stops_and_can_be_called_again(caplog):
    run, seen = counting()
    moments = run(np.int32(4000))
    while next(moments).state is None:
        pass
    moments.close()
    assert last(run(np.int32(3))).nfe == 3
    assert len(seen) < 1000
    unread = run(np.int32(4000))
    next(unread)
    assert last(run(np.int32(3))).nfe == 3  # and so does a call that is left lying
    assert "Stopped" not in caplog.text


def test_an_error_of_a_run_reaches_who_watches_and_does_no_harm():
    def build(tell):
        return lambda x: (x / x.sum(), 1)

    run = Run(build)
    with pytest.raises(FloatingPointError, match="not finite"):
        list(run(np.zeros(2)))
    assert last(run(np.ones(2))).state[0].tolist() == [0.5, 0.5]
    with pytest.raises(AttributeError, match="nothing"):
        list(Run(lambda tell: lambda x: x.nothing())(np.ones(2)))


def test_only_the_last_runs_are_kept():
    runs = Runs()
    made = [runs.get(str(i), lambda i=i: i) for i in (*range(40), 39, 0)]
    assert made[-2:] == [39, 0] and len(runs._kept) == 32


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (("nope", 10, 4, 0), "'nope' is no sampler; choose from: ddim, heun"),
        (("ddim", 0, 4, 0), "steps must be a whole number from 1 to 1000, not 0"),
        (("ddim", None, 4, 0), "steps .* not empty"),
        (("ddim", 10, 0, 0), "number of samples must be .* at least 1, not 0"),
        (("ddim", 10, 4, 1.5), "seed must be .* not 1.5"),
        (("ddim", 10, 4, float("nan")), "seed must be .* not nan"),
        (("ddim", 10, 4, -1), "seed must be .* from 0 to 4294967295, not -1"),
        (("ddim", 10, 4, "x"), "seed must be .* not x"),
    ],
)
def test_settings_that_cannot_be_are_refused_in_a_sentence(values, said):
    with pytest.raises(ValueError, match=said):
        How(*values)


def test_drawing_is_sampling_from_the_model(digits):
    moments = list(digits.draw(FEW))
    want, nfe = digits.model.sample(jax.random.key(3), 4, method="dpmpp_2m_sde", steps=10)
    done, total, first = next(m.state for m in moments if m.state)
    assert (int(done), int(total), first.shape) == (1, 10, (4, 28, 28, 1))
    assert moments[-1].nfe == nfe == 10
    np.testing.assert_allclose(np.clip(moments[-1].state[-1], 0, 1), want, atol=1e-3)


@pytest.mark.slow
def test_a_class_can_be_asked_for(digits):
    assert digits.classes == [str(i) for i in range(10)] and digits.weight == 15
    x = last(digits.draw(How("dpmpp_2m_sde", 20, 8, 0), "3", 15.0)).state[-1]
    judge = scorax.load("pretrained/mnist_classifier")
    logits = judge.classifier_fn(judge.to_model(jnp.asarray(x)), jnp.full(8, 0.05))
    assert (np.asarray(logits).argmax(-1) == 3).sum() >= 7


def test_a_completion_keeps_what_is_known(digits):
    image, hidden = digits.examples[5], np.zeros((28, 28), bool)
    hidden[14:] = True
    x = last(digits.complete(FEW, image, hidden)).state[-1]
    np.testing.assert_array_equal(x[:, :14], np.repeat(image[None, :14], 4, 0))
    assert x[:, 14:].std(0).max() > 0.1  # and differs where it is not


def test_a_restoration_agrees_with_what_the_instrument_saw(digits):
    how = How("dpmpp_2m_sde", 20, 4, 0)
    image = digits.examples[2]
    y, seen = digits.measure(how, image, "block_mean", 4, 0.05)
    assert y.shape == (7, 7, 1) and seen.shape == (28, 28, 1)
    x = last(digits.restore(how, y, "block_mean", 4, 0.05)).state[-1]
    means = x.reshape(4, 7, 4, 7, 4).mean((2, 4))
    assert np.sqrt(((means - y[..., 0]) ** 2).mean()) < 0.08
    before = ((np.repeat(np.repeat(y, 4, 0), 4, 1) - image) ** 2).mean()
    assert ((x.mean(0) - image) ** 2).mean() < 0.7 * before


@pytest.mark.parametrize(
    ("ask", "said"),
    [
        (lambda s, x: s.complete(FEW, x, np.zeros((28, 28), bool)), "nothing is hidden"),
        (lambda s, x: s.draw(FEW, "eleven"), "'eleven' is no class; choose from: 0, 1"),
        (lambda s, x: s.draw(FEW, "3", None), "weight of the class must be a number, not empty"),
        (lambda s, x: s.draw(FEW, "3", float("nan")), "guidance.weight=nan must be"),
        (lambda s, x: s.draw(How("ddim", 10, 65, 0)), "samples .* from 1 to 64, not 65"),
        (lambda s, x: s.measure(FEW, x, "lens", 4, 0.1), "'lens' is no instrument"),
        (lambda s, x: s.measure(FEW, x, "block_mean", 4, 0), "noise must be .* above 0, not 0"),
        (lambda s, x: s.measure(FEW, x, "block_mean", 3.5, 0.1), "size of blocks .* not 3.5"),
        (lambda s, x: s.measure(FEW, x, "block_mean", 3, 0.1), "blocks of 3 pixels do not divide"),
        (lambda s, x: s.measure(FEW, x, "gaussian_blur", None, 0.1), "pixels, not empty"),
        (lambda s, x: s.measure(FEW, x, "gaussian_blur", -1, 0.1), "operator_width=-1"),
    ],
)
def test_what_cannot_be_drawn_is_refused_in_a_sentence(digits, ask, said):
    with pytest.raises(ValueError, match=said):
        list(ask(digits, digits.examples[0]))


def test_networks_of_other_data_are_refused():
    with pytest.raises(ValueError, match="networks of images with 1 or 3 channels"):
        Studio(scorax.load("pretrained/lorenz63"))
    with pytest.raises(ValueError, match="classifier"):
        Studio(scorax.load("pretrained/mnist_classifier"))


def sheet(height, width, color=(0, 0, 0, 0)):
    return np.full((height, width, 4), color, np.uint8)


def test_a_drawing_is_read_at_the_size_of_the_network_and_red_paint_hides():
    paint = sheet(280, 280)
    paint[100:140, 60:80] = (255, 255, 255, 255)  # 4 x 2 pixels
    paint[200:, :] = (255, 0, 0, 255)
    value = {"background": sheet(280, 280, (0, 0, 0, 255)), "layers": [paint]}
    image, hidden = read_canvas(value, (28, 28, 1))
    want = np.zeros((28, 28, 1))
    want[10:14, 6:8] = 1
    np.testing.assert_array_equal(image, want)
    assert hidden[20:].all() and not hidden[:20].any()
    assert read_canvas(value, (28, 28, 3))[0].shape == (28, 28, 3)


def test_red_in_the_picture_itself_does_not_hide():
    value = {"background": sheet(56, 56, (255, 0, 0, 255)), "layers": [sheet(56, 56)]}
    image, hidden = read_canvas(value, (28, 28, 3))
    assert not hidden.any() and image[3, 3].tolist() == [1, 0, 0]


def test_an_example_on_the_canvas_is_read_as_it_was(digits):
    image = digits.examples[4]
    background = np.concatenate([to_canvas(image, 280), np.full((280, 280, 1), 255, np.uint8)], -1)
    read, hidden = read_canvas({"background": background, "layers": []}, (28, 28, 1))
    np.testing.assert_allclose(read, image, atol=1e-6)
    assert not hidden.any()


@pytest.mark.parametrize("value", [None, {"background": None, "layers": []}])
def test_an_empty_canvas_is_refused(value):
    with pytest.raises(ValueError, match="the canvas is empty; draw something"):
        read_canvas(value, (28, 28, 1))


@pytest.mark.parametrize("data", ["gaussians", "moons"])
def test_the_score_of_points_is_the_gradient_of_their_density(data):
    centres, spread = plane.centres_of(data)
    sde, x, t = VPSDE(), jax.random.normal(jax.random.key(0), (6, 2)), jnp.linspace(0.01, 1, 6)

    def log_density(x, t):
        mu, sigma = sde.marginal_coeffs(t)
        squares = ((x[None] - mu * jnp.asarray(centres, jnp.float32)) ** 2).sum(-1)
        return jax.scipy.special.logsumexp(-squares / (2 * ((mu * spread) ** 2 + sigma**2)))

    want = jax.vmap(jax.grad(log_density))(x, t)
    np.testing.assert_allclose(
        plane.mixture_score(sde, centres, spread)(x, t), want, rtol=1e-3, atol=1e-4
    )


@pytest.mark.parametrize("sde", plane.SDES)
def test_points_flow_to_the_ring(sde):
    moments = list(plane.Plane().flow(How("dpmpp_2m", 20, 200, 0), "gaussians", sde))
    times = [float(m.state[0]) for m in moments if m.state and not m.nfe]
    assert times == sorted(times, reverse=True) and len(times) == moments[-1].nfe == 20
    radius = np.linalg.norm(moments[-1].state[0], axis=1)
    assert abs(np.median(radius) - 1) < 0.05 and radius.std() < 0.2


def test_points_are_drawn_over_the_score():
    view = plane.Plane()
    pictures = [view.draw(np.full((9, 2), 0.5), t, "gaussians", "vpsde") for t in (0.01, 0.9)]
    assert all(p.shape == (500, 500, 3) for p in pictures)
    assert (pictures[0] != pictures[1]).any()
    for name, sde in (("rings", "vpsde"), ("moons", "nope")):
        with pytest.raises(ValueError, match="rings|nope"):
            list(view.flow(FEW, name, sde))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--port", "99999"], "--port=99999 is no port"),
        (["--config", "ve/mnist"], "name it with --model"),
        (["--model", "nowhere"], "nowhere does not exist"),
        (["--model", "pretrained/lorenz63"], "networks of images"),
        (["--mdoel", "x"], "unrecognized arguments: --mdoel x; see --help"),
    ],
)
def test_a_wrong_command_line_is_refused_in_a_sentence(arguments, said):
    pytest.importorskip("gradio", reason="the page needs requirements-playground.txt")
    with pytest.raises(ValueError, match=said):
        playground.run(["playground", *arguments])


def test_without_gradio_the_command_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(ValueError, match="pip install -r requirements-playground.txt"):
        playground.run(["playground"])


# In a browser


def find_browser():
    names = ("chromium", "chromium-browser", "google-chrome")
    return next(filter(None, map(shutil.which, names)), None)


@pytest.fixture(scope="module")
def address():
    """The address of a page that is being served."""
    pytest.importorskip("gradio", reason="the page needs requirements-playground.txt")
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    command = [sys.executable, "-m", "tools.playground", "--port", "0"]
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True
    ) as server:
        impatient = threading.Timer(120, server.kill)
        impatient.start()
        try:
            line = next((x for x in iter(server.stdout.readline, "") if x.startswith("open")), "")
            found = re.search(r"http://127\.0\.0\.1:\d+", line)
            assert found, "the page was not served within two minutes"
            impatient.cancel()
            yield found[0]
        finally:
            server.terminate()
            server.wait(30)


@pytest.fixture(scope="module")
def chromium():
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with playwright.sync_playwright() as p:
        path = find_browser() or p.chromium.executable_path
        if not os.path.exists(path):
            pytest.skip("there is no browser; install one with: playwright install chromium")
        quiet = ("--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync")
        quiet += ("--disable-background-networking", "--disable-component-update", "--no-sandbox")
        browser = p.chromium.launch(executable_path=path, args=list(quiet))
        yield browser
        browser.close()


@pytest.fixture
def visit(chromium, address):
    """Opens the page with settings in its address, each time as another visitor."""
    with contextlib.ExitStack() as stack:

        def open_page(tab="draw", wide=1200, scheme="light", **settings):
            context = chromium.new_context(
                viewport={"width": wide, "height": 900}, color_scheme=scheme
            )
            stack.callback(context.close)
            page = context.new_page()
            page.goto(f"{address}/?{urllib.parse.urlencode({'tab': tab, **settings})}")
            page.locator(f"#{tab}-run").wait_for(timeout=60_000)
            page.wait_for_function(  # the settings of the link are there
                "() => document.querySelector('.status[aria-live]')", timeout=60_000
            )
            page.wait_for_load_state("networkidle")
            return page

        yield open_page


def start(page, tab):
    page.locator(f"#{tab}-run").click()


def status(page, tab, pattern=r"evaluations of the score each, [\d.]+ s", seconds=120):
    """Waits for a status, and returns it."""
    place = page.locator(f"#{tab}-status")
    place.get_by_text(re.compile(pattern)).wait_for(timeout=seconds * 1000)
    return place.inner_text()


def pixels(page, tab, nth=-1):
    """The pixels of a picture of a tab, by default of its last one: (H, W, 4)."""
    values = page.evaluate(
        """async ([tab, nth]) => {
          const i = [...document.querySelectorAll(`#${tab}-pictures img`)].at(nth);
          await i.decode();
          const c = new OffscreenCanvas(i.naturalWidth, i.naturalHeight).getContext('2d');
          c.drawImage(i, 0, 0);
          const d = c.getImageData(0, 0, i.naturalWidth, i.naturalHeight);
          return [d.height, d.width, ...d.data];
        }""",
        [tab, nth],
    )
    return np.array(values[2:], np.uint8).reshape(*values[:2], 4)


def settled_canvas(page, tab):
    """The canvas, once the editor has laid itself out and has its picture and its brush."""
    canvas = page.locator(f"#{tab}-canvas canvas").first
    canvas.wait_for(timeout=60_000)
    canvas.scroll_into_view_if_needed()
    page.wait_for_timeout(1500)
    return canvas


def paint(page, tab, points):
    """Moves the pointer, with its button down, through points in canvas pixels from the middle."""
    canvas = settled_canvas(page, tab)
    box = canvas.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x + points[0][0], y + points[0][1])
    page.mouse.down()
    for dx, dy in points[1:]:
        page.mouse.move(x + dx, y + dy, steps=8)
    page.mouse.up()
    page.wait_for_timeout(800)  # until the drawing has been sent


SEVEN = [(-50, -70), (45, -70), (5, 80)]


@pytest.mark.slow
def test_the_page_draws_and_a_reload_keeps_the_settings(visit):
    page = visit()
    page.get_by_label("Seed").fill("7")
    page.get_by_role("spinbutton", name=re.compile("Images")).fill("4")
    page.get_by_role("spinbutton", name=re.compile("Images")).press("Tab")
    start(page, "draw")
    assert status(page, "draw").startswith("4 images: 20 evaluations")
    drawn = pixels(page, "draw")
    assert drawn.shape == (62, 62, 4) and drawn[..., 0].std() > 30
    slider = page.get_by_label("From noise to data")
    slider.focus()
    page.keyboard.press("Home")
    noise = pixels(page, "draw")
    assert noise[..., 0].std() > 1.2 * drawn[..., 0].std()
    page.reload()
    page.get_by_label("Seed").wait_for()
    page.wait_for_function("() => document.querySelector('[aria-live]')")
    page.wait_for_load_state("networkidle")
    assert page.get_by_label("Seed").input_value() == "7"
    start(page, "draw")
    assert status(page, "draw").startswith("4 images")
    np.testing.assert_array_equal(pixels(page, "draw"), drawn)


@pytest.mark.slow
def test_the_page_completes_a_drawing_of_the_pointer(visit):
    page = visit("complete", completions=4, steps=10)
    paint(page, "complete", SEVEN)
    start(page, "complete")
    status(page, "complete", "^4 completions")
    given, drawn = pixels(page, "complete", 0), pixels(page, "complete")
    given, first = given[2:30, 2:30, 0], drawn[2:30, 2:30, 0]
    assert (given[14:] == 128).all() and (given[:14] == 255).sum() > 10
    np.testing.assert_array_equal(first[:14], given[:14])


@pytest.mark.slow
def test_red_paint_hides_a_part_of_an_example(visit):
    page = visit("complete", completions=1, steps=10, picture="example 4")
    settled_canvas(page, "complete")  # a picture that comes later would bring the first colour back
    page.get_by_label("Color", exact=True).click()
    page.locator("#complete-canvas button.color").nth(1).click()
    for _ in range(2):  # the first may only close the colours
        paint(page, "complete", [(60, 70), (-60, 70)])
    start(page, "complete")
    status(page, "complete", "^1 completions")
    given = pixels(page, "complete", 0)[2:30, 2:30, 0]
    row = np.isin(given, 128).mean(1)
    assert row[20:22].min() > 0.3 and row[:18].max() == 0 and row[25:].max() == 0


@pytest.mark.slow
def test_the_page_restores_a_sketch_and_lets_points_flow(visit):
    page = visit("restore", restorations=4, steps=10, picture="example 1", size=7)
    paint(page, "restore", SEVEN)
    start(page, "restore")
    status(page, "restore", "^4 restorations")
    seen = pixels(page, "restore", 0)[2:30, 2:30, 0].reshape(4, 7, 4, 7)
    assert (seen == seen[:, :1, :, :1]).all()  # blocks
    page.get_by_role("tab", name="Points").click()
    start(page, "points")
    status(page, "points", "^500 points and the score: 10 evaluations")
    assert pixels(page, "points").shape == (500, 500, 4)


@pytest.mark.slow
def test_two_visitors_at_once_are_both_served(visit):
    pages = [visit(n=n, seed=n, sampler="heun", steps=15) for n in (3, 5)]
    for page in pages:
        start(page, "draw")
    for n, page in zip((3, 5), pages, strict=True):
        assert status(page, "draw").startswith(f"{n} images")
    assert pixels(pages[0], "draw").shape != pixels(pages[1], "draw").shape


@pytest.mark.slow
def test_a_visitor_can_stop_and_start_again(visit):
    page = visit(n=36, sampler="pc", steps=200)
    start(page, "draw")
    status(page, "draw", "Compiling|Drawing")
    page.locator("#draw-stop").click()
    status(page, "draw", "Stopped")
    page.get_by_role("spinbutton", name=re.compile("Steps")).fill("5")
    page.get_by_role("spinbutton", name=re.compile("Steps")).press("Tab")
    start(page, "draw")
    assert status(page, "draw").startswith("36 images: 10 evaluations")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("tab", "settings", "label", "value", "said"),
    [
        ("draw", {}, "Seed", "1.5", "The seed must be a whole number from 0 to 4294967295, not"),
        ("draw", {"class": "3"}, "Weight of the class", "", "The weight of the class must be a"),
        ("restore", {}, "Size of its blocks or blur, in pixels", "3", "blocks of 3 pixels do not"),
        ("restore", {}, "Noise, where white is 1", "-1", "The noise must be a number above 0"),
    ],
)
def test_bad_input_is_answered_by_a_sentence(visit, tab, settings, label, value, said):
    page = visit(tab, **settings)
    page.get_by_label(label).fill(value)
    page.get_by_label(label).press("Tab")
    start(page, tab)
    alert = page.locator(f"#{tab}-status").get_by_role("alert")
    alert.wait_for(timeout=30_000)
    assert said in alert.inner_text()


@pytest.mark.slow
def test_a_link_with_settings_that_do_not_exist_says_so(visit):
    page = visit(sampler="magic", steps=10**9, seed="x", n=9)
    page.get_by_text("sampler=magic, steps=1000000000, seed=x").first.wait_for(timeout=30_000)
    assert page.get_by_role("spinbutton", name=re.compile("Images")).input_value() == "9"


@pytest.mark.slow
def test_the_page_fits_a_phone_and_everything_on_it_has_a_name(visit):
    page = visit(n=2, steps=5, wide=360, scheme="dark")
    page.locator("#draw-run").focus()
    page.keyboard.press("Enter")
    status(page, "draw")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    assert page.get_by_role("img", name="2 images").count() == 1
    for tab in ("Draw", "Complete", "Restore", "Points"):
        page.get_by_role("tab", name=tab).click()
        page.wait_for_timeout(1500)
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        unnamed = page.evaluate(
            """() => [...document.querySelectorAll('input, button, select, textarea, img')]
              .filter(e => e.checkVisibility() && e.type !== 'file' &&
                !(e.labels?.length || e.ariaLabel || e.title || e.alt || e.innerText ||
                  e.getAttribute('aria-labelledby') || e.closest('label')))
              .map(e => e.outerHTML.slice(0, 200))"""
        )
        assert not unnamed, unnamed
    dark = page.evaluate(
        "getComputedStyle(document.querySelector('.gradio-container')).backgroundColor"
    )
    assert sum(map(int, re.findall(r"\d+", dark)[:3])) < 200
