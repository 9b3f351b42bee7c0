"""The report in a real browser: it draws itself, asks for nothing, runs nothing from outside, and can be used.

The page is served by a local server that notes every request. What a reader does is played by a script in a
copy of the page whose policy is taken out (the policy refuses such scripts).
"""

from __future__ import annotations

import io
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image

from clip_transforms.review import ReportInputs
from clip_transforms.review.report import render_report
from clip_transforms.storage import Store
from tests.chromium_kit import FLAGS, Site, chromium
from tests.report_kit import (
    Picture,
    label_row,
    load_file,
    pictures,
    run_record,
    write_embeddings,
    write_failures,
    write_labels,
)

pytestmark = pytest.mark.chromium

Browse = Callable[..., str]
TAG = "pets@1a2b3c4d"
OTHER = "kind@99aa00bb"


@pytest.fixture
def site() -> Iterator[Site]:
    """A server on loopback."""
    with Site() as made:
        yield made


@pytest.fixture
def browse(tmp_path: Path) -> Browse:
    """Opens a url in Chromium, runs its scripts, gives back the document."""
    path = chromium()

    def call(url: str, *flags: str) -> str:
        profile = tmp_path / "profile"
        shutil.rmtree(profile, ignore_errors=True)
        command = [path, *FLAGS, f"--user-data-dir={profile}", *(flags or ("--dump-dom",)), url]
        done = subprocess.run(command, capture_output=True, timeout=90, check=True)
        return done.stdout.decode()

    return call


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of nine images with two prompt sets, one of which has two labels."""
    folder = tmp_path / "run"
    images = pictures(folder / "images", 9)
    write_embeddings(folder, images)
    spread = [{"cat": 0.5 + number / 20, "dog": 0.5 - number / 20} for number in range(9)]
    rows = [label_row(image, scores, tag=TAG) for image, scores in zip(images, spread, strict=True)]
    write_labels(folder, TAG, rows)
    write_labels(
        folder, OTHER, [label_row(image, {"photo": 0.9, "drawing": 0.1}, tag=OTHER) for image in images]
    )
    return folder


def page_of(run: Path, **record: object) -> bytes:
    data = ReportInputs(run=run_record(inputs=9, failed=0, **record))
    return render_report(Store(str(run)), data=data, load_image=load_file)


def acted(page: bytes, script: str) -> bytes:
    """The page without its policy, with a reader who does what the script says; `out` is written down."""
    html, count = re.subn(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page.decode())
    assert count == 1
    note = 'document.documentElement.setAttribute("data-out", JSON.stringify(out));'
    return html.replace("</body>", f"<script>const out = {{}};{script};{note}</script></body>").encode()


def outcome(document: str) -> str:
    (found,) = re.findall(r'data-out="([^"]*)"', document)
    return str(found).replace("&quot;", '"')


def test_the_page_draws_itself_and_asks_for_nothing(
    run: Path, site: Site, browse: Browse, tmp_path: Path
) -> None:
    site.page = page_of(run)
    document = browse(f"{site.url}/report.html")
    assert site.asked == ["/report.html"]
    assert 'data-ready="yes"' in document  # its own script ran, so the policy's hash is right
    assert re.search(r'id="set1"[^>]* hidden', document) or re.search(r'hidden[^>]* id="set1"', document)
    shot = tmp_path / "shot.png"
    browse(f"{site.url}/report.html", f"--screenshot={shot}", "--window-size=1300,1400")
    assert site.asked == ["/report.html"] * 2
    image = Image.open(io.BytesIO(shot.read_bytes())).convert("RGB")
    assert image.getpixel((2, 2)) == (0xFA, 0xF9, 0xF6)  # its own styles apply
    colours = image.getcolors(1 << 24)
    assert len(colours) > 10_000  # the thumbnails are drawn


def test_dark_is_dark(run: Path, site: Site, browse: Browse, tmp_path: Path) -> None:
    site.page = page_of(run)
    shot = tmp_path / "shot.png"
    flags = (f"--screenshot={shot}", "--window-size=600,400", "--blink-settings=preferredColorScheme=0")
    browse(f"{site.url}/report.html", *flags)
    assert Image.open(shot).convert("RGB").getpixel((2, 2)) == (0x14, 0x15, 0x17)


@pytest.mark.parametrize("width", [500, 1400])
def test_nothing_is_wider_than_the_window(run: Path, site: Site, browse: Browse, width: int) -> None:
    long = "Donaudampfschifffahrtsgesellschaftskapitänsmütze" * 3
    image = Picture(path=f"/photos/{long}/{long}.jpg", caption=long)
    write_embeddings(run, [image], name="part-1.parquet")
    write_labels(run, TAG, [label_row(image, {long: 0.6, "cat": 0.4}, tag=TAG)], name="part-1.parquet")
    write_failures(run, [(f"gs://bucket/{long}/{long}.jpg", "fetch", "not_found", long)])
    site.page = acted(
        page_of(run, output=f"gs://{long}/{long}"),
        "out.wide = document.documentElement.scrollWidth - document.documentElement.clientWidth",
    )
    assert outcome(browse(site.url, "--dump-dom", f"--window-size={width},900")) == '{"wide":0}'


def test_hostile_names_captions_and_labels_are_only_text(site: Site, browse: Browse, tmp_path: Path) -> None:
    hits = [
        "<script>document.title='ran'</script>",
        f"</script><script>fetch('{site.url}/evil')</script>",
        f"\"'><img src='{site.url}/evil' onerror=\"document.title='ran'\">",
        f"<svg onload=\"document.title='ran'\"><image href='{site.url}/evil'/></svg>",
        f"</style><link rel=stylesheet href='{site.url}/evil'><style>@import '{site.url}/evil'",
        "<!--<script>",
        f"]]>\u2028<base href='{site.url}/evil/'><iframe src='{site.url}/evil'></iframe>",
    ]
    folder = tmp_path / "hostile"
    images = pictures(
        folder / "images", len(hits), names=[f"{n} <b onclick=x> '\"&.jpg" for n in range(len(hits))]
    )
    for image, words in zip(images, hits, strict=True):
        image.caption = words
    images.append(Picture(path=f"javascript:document.title='ran'//{hits[1]}", caption=hits[1]))
    images.append(Picture(path=f"https://example.org/{hits[2]}", caption=hits[2]))
    write_embeddings(folder, images)
    rows = [
        label_row(image, {words: 0.6, "x" + words: 0.4}, tag=TAG, path=["root" + words, words])
        for image, words in zip(images, [*hits, *hits[:2]], strict=True)
    ]
    write_labels(folder, TAG, rows)
    write_failures(folder, [(f"{words}.jpg", words, words, words) for words in hits])
    record = run_record(inputs=16, failed=7, output=hits[1], encoder=hits[2], config={hits[3]: hits[4]})
    site.page = render_report(Store(str(folder)), data=ReportInputs(run=record), load_image=load_file)
    document = browse(f"{site.url}/report.html")
    assert site.asked == ["/report.html"]
    assert re.findall(r"<title>.*?ran.*?</title>", document) == [] and 'data-ready="yes"' in document
    assert document.count("<script") == 9 and "<iframe" not in document and "<base" not in document
    assert not re.search(r'href="javascript:', document)
    # The same, with the tiles' data put into the page by its script, and without the policy that stands behind.
    script = """
      for (const frame of document.querySelectorAll('.frame')) {
        frame.click(); document.querySelector('dialog').close(); }
      out.title = document.title;
      out.scripts = document.querySelectorAll('script').length;
      out.evil = document.querySelectorAll('[onerror],[onload],[onclick]').length
    """
    site.asked.clear()
    site.page = acted(site.page, script)
    found = outcome(browse(f"{site.url}/report.html"))
    assert '"scripts":10,"evil":0' in found and '"title":"ran"' not in found
    assert site.asked == ["/report.html"]


def test_a_tile_opens_and_the_arrows_go_on(run: Path, site: Site, browse: Browse) -> None:
    script = """
      const frames = [...document.querySelectorAll('#set1 .frame')], dialog = document.querySelector('dialog');
      const press = (key, at) => at.dispatchEvent(new KeyboardEvent('keydown', {key, bubbles: true}));
      frames[0].focus(); press('ArrowRight', frames[0]);
      out.focus = frames.indexOf(document.activeElement);
      frames[1].click();
      out.open = dialog.open;
      out.name = document.getElementById('detail-name').textContent;
      out.first = dialog.querySelector('.guesses li').textContent;
      press('ArrowRight', dialog);
      out.next = document.getElementById('detail-name').textContent;
      dialog.querySelector('[data-do=back]').click();
      out.back = document.getElementById('detail-name').textContent;
      dialog.querySelector('[data-do=close]').click();
      out.closed = !dialog.open
    """
    site.page = acted(page_of(run), script)
    assert outcome(browse(f"{site.url}/#set1")) == (
        '{"focus":1,"open":true,"name":"image00001.jpg","first":"1catshown0.550cos 0.255",'
        '"next":"image00002.jpg","back":"image00001.jpg","closed":true}'
    )


def test_prompt_sets_are_switched_by_tabs_and_by_links(run: Path, site: Site, browse: Browse) -> None:
    script = """
      const seen = () => [...document.querySelectorAll('.set')].filter((one) => !one.hidden).map((one) => one.id);
      out.first = seen(); document.querySelectorAll('.tab')[1].click(); out.second = seen();
      out.current = document.querySelector('[aria-current]').textContent.trim()
    """
    site.page = acted(page_of(run), script)
    assert outcome(browse(site.url)) == '{"first":["set0"],"second":["set1"],"current":"pets 1a2b3c4d"}'
    site.page = acted(
        page_of(run), "out.seen = [...document.querySelectorAll('.set')].map((one) => one.hidden)"
    )
    assert outcome(browse(f"{site.url}/#set1-sheet0")) == '{"seen":[true,false]}'


def test_labels_are_found_by_typing(run: Path, site: Site, browse: Browse) -> None:
    images = pictures(run / "more", 15, seed=50)
    rows = [label_row(image, {f"kind {n}": 0.9, "x": 0.1}, tag=TAG) for n, image in enumerate(images)]
    write_labels(run, TAG, rows, name="part-1.parquet")
    script = """
      const input = document.querySelector('#set1 .find'), lines = document.querySelectorAll('#set1 .index li');
      input.value = 'KIND 1'; input.dispatchEvent(new Event('input'));
      out.left = [...lines].filter((one) => !one.hidden).map((one) => one.dataset.word.trim())
    """
    site.page = acted(page_of(run), script)
    words = ["kind 1", "kind 10", "kind 11", "kind 12", "kind 13", "kind 14"]
    assert outcome(browse(site.url)) == '{"left":[' + ",".join(f'"{word}"' for word in words) + "]}"


def test_text_has_contrast_and_controls_have_names(run: Path, site: Site, browse: Browse) -> None:
    script = """
      const rgb = (text) => text.match(/[\\d.]+/g).slice(0, 3).map(Number);
      const linear = (v) => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
      const light = (text) => rgb(text).map((v) => linear(v / 255)).reduce(
        (sum, v, at) => sum + v * [0.2126, 0.7152, 0.0722][at], 0);
      const ground = (node) => { for (; node; node = node.parentElement) {
        const colour = getComputedStyle(node).backgroundColor; if (!/, 0\\)$/.test(colour)) return colour; } };
      out.pale = [...document.querySelectorAll('body *')].filter((node) =>
        node.offsetParent && !node.closest('.sr, .over, svg')
        && [...node.childNodes].some((child) => child.nodeType === 3 && child.data.trim())).filter((node) => {
          const [a, b] = [light(getComputedStyle(node).color), light(ground(node))].sort((x, y) => y - x);
          return (a + 0.05) / (b + 0.05) < 4.5; }).map((node) => node.outerHTML.slice(0, 80));
      out.nameless = [...document.querySelectorAll('button, a, input, summary')].filter((node) =>
        !(node.textContent.trim() || node.getAttribute('aria-label'))).length;
      out.images = [...document.querySelectorAll('img')].filter((node) => !node.hasAttribute('alt')).length
    """
    write_failures(run, [("/a.jpg", "fetch", "not_found", "no such file")])
    for scheme in ("0", "1"):
        site.page = acted(page_of(run), script)
        found = outcome(browse(site.url, "--dump-dom", f"--blink-settings=preferredColorScheme={scheme}"))
        assert found == '{"pale":[],"nameless":0,"images":0}', scheme
