"""The site: every page, its links, what it escapes, and that it is the same each time."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from xml.dom import minidom

import pytest
from synthetic_records import IDLE_MODE, write_comparison

from zoo.entry import MethodEntry, load_registry
from zoo.errors import ZooError
from zoo.formulas import formula
from zoo.site import build_site
from zoo.site.mathml import equations, mathml

METHODS = ("gkd", "eopd", "opsd", "grpo", "kdrl", "spin", "sft", "gad", "aopd", "tml_opd")
ANCHORS = ("student", "teacher", "no_op")
VOID = {"meta", "link", "img", "input", "br", "hr"}


class Page(HTMLParser):
    """Links, ids, and whether tags are closed in the order in which they were opened."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.ids: list[str] = []
        self.open: list[str] = []
        self.wrong: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.links += [str(given[name]) for name in ("href", "src") if given.get(name)]
        self.ids += [str(given["id"])] if given.get("id") else []
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.wrong.append(f"</{tag}> at {self.getpos()}")


@pytest.fixture(scope="session")
def small() -> dict[str, MethodEntry]:
    registry = load_registry()
    return {name: registry[name] for name in sorted((*METHODS, *ANCHORS))}


@pytest.fixture(scope="session")
def records(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("records")
    write_comparison(root, "first", METHODS, range(5))
    write_comparison(root, "second", METHODS[:3], range(1))
    return root


@pytest.fixture(scope="session")
def built(small: dict[str, MethodEntry], records: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    tables = tmp_path_factory.mktemp("tables")
    head = "failure_mode,provocation,control,seed,fired_on_provocation,fired_on_control,first_alarm_step,accuracy_drop_step,validated"
    (tables / "failure_detection.csv").write_text(f"{head}\nFM05,narrow,plain,0,red,silent,12,20,yes\nFM09,<b>hard</b>,plain,0,silent,silent,,,no\n")
    out = tmp_path_factory.mktemp("site") / "out"
    build_site(small, records, tables, out)
    return out


def pages(out: Path) -> dict[str, Page]:
    return {path.relative_to(out).as_posix(): Page(path.read_text(encoding="utf-8")) for path in sorted(out.rglob("*.html"))}


def test_pages_that_are_due(built: Path) -> None:
    present = set(pages(built))
    due = {"index.html", "leaderboard.html", "taxonomy.html", "read.html", "add.html", "compare/index.html", "failures/index.html", "methods/index.html"}
    due |= {f"methods/{name}.html" for name in (*METHODS, *ANCHORS)} | {"compare/first.html", "compare/second.html", "failures/FM05.html"}
    due |= {f"records/first/{name}.html" for name in (*METHODS, *ANCHORS)}
    assert due <= present


def test_tags_are_closed_and_ids_are_unique(built: Path) -> None:
    for name, page in pages(built).items():
        assert page.wrong == [], name
        assert page.open == [], name
        assert len(page.ids) == len(set(page.ids)), name


def test_every_link_leads_somewhere(built: Path) -> None:
    """Files exist, and so do the places in them; what starts with a filter of the leaderboard is read by its script."""
    found = pages(built)
    broken = []
    for name, page in found.items():
        for link in page.links:
            if link.startswith(("https://arxiv.org/", "data:")):
                continue
            target, _, place = link.partition("#")
            path = ((built / name).parent / target).resolve() if target else (built / name).resolve()
            if not path.is_file() or (place and "=" not in place and place not in found[path.relative_to(built.resolve()).as_posix()].ids):
                broken.append(f"{name}: {link}")
    assert broken == []


def test_nothing_comes_from_elsewhere(built: Path) -> None:
    for path in built.rglob("*"):
        if path.suffix in (".html", ".css", ".js"):
            text = re.sub(r'<a href="https://arxiv\.org/abs/[\d.]+" rel="external">', "", path.read_text(encoding="utf-8"))
            text = text.replace("xmlns='http://www.w3.org/2000/svg'", "")
            text = re.sub(r"<pre[ >].*?</pre>", "", text, flags=re.DOTALL)
            assert not re.search(r"""(?:src|href)\s*=\s*["']?(?:https?:)?//|@import|url\(\s*["']?https?:|fetch\(|XMLHttpRequest""", text), path


def test_what_records_say_is_escaped(built: Path) -> None:
    """Titles, errors, reasons and the detection matrix hold signs of HTML."""
    for path in built.rglob("*.html"):
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"<(?:first|second|here|step|b>hard)", text), path
    assert "Synthetic &lt;first&gt; &amp; co" in (built / "compare" / "first.html").read_text()
    assert "&lt;b&gt;hard" in (built / "failures" / "index.html").read_text()


def test_a_cell_leads_to_its_records(built: Path) -> None:
    """The gap of a method rests on its five attempts and on the anchors'; each is a link to an attempt with its files."""
    text = (built / "leaderboard.html").read_text()
    assert 'href="records/first/eopd.html#c-sums.gap_closed"' in text
    page = (built / "records" / "first" / "eopd.html").read_text()
    section = next(part for part in page.split('<section class="traced">')[1:] if 'id="c-sums.gap_closed"' in part).partition("</section>")[0]
    links = re.findall(r'href="([^"]+)"', section)
    assert len(links) == 7
    assert sum("student.html#r-" in link or "teacher.html#r-" in link for link in links) == 2
    assert page.count('<article class="record"') == 5
    assert page.count("sha256 <code>") == 4 * 5  # run, evaluation, curve and failures of each


def test_numbers_are_those_of_the_tables(built: Path, records: Path) -> None:
    from zoo.records import load_records
    from zoo.score_frame import score_frame
    from zoo.table_layouts import main_table

    table = main_table(score_frame(load_records(records, "first")))
    page = (built / "compare" / "first.html").read_text()
    for row in table.rows:
        for column, cell in zip(table.columns[1:], row[1:], strict=True):
            assert f'href="../records/first/{row[0].text}.html#c-{column.key}"' in page or not cell.records
            assert cell.text in page


def test_failures_stand_on_three_pages(built: Path, records: Path) -> None:
    fired = next(path for path in sorted(records.rglob("failures.json")) if '"red"' in path.read_text())
    content = json.loads(fired.read_text())
    mode = next(name for name, finding in content["findings"].items() if finding[0] == "red")
    assert f"methods/{content['method']}.html" in (built / "failures" / f"{mode}.html").read_text()
    assert f"failures/{mode}.html" in (built / "methods" / f"{content['method']}.html").read_text()
    assert f"{mode} red" in (built / "records" / content["comparison"] / f"{content['method']}.html").read_text()
    assert "validated" in (built / "failures" / "FM05.html").read_text()


def test_the_same_bytes_again(built: Path, small: dict[str, MethodEntry], records: Path, tmp_path: Path) -> None:
    tables = tmp_path / "tables"
    tables.mkdir()
    for out in ("a", "b"):
        build_site(small, records, tables, tmp_path / out)
    first, second = ({path.relative_to(tmp_path / out): path.read_bytes() for path in (tmp_path / out).rglob("*") if path.is_file()} for out in ("a", "b"))
    assert first == second


def test_only_a_site_is_written_over(small: dict[str, MethodEntry], tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(ZooError, match="something else than a site"):
        build_site(small, tmp_path / "none", tmp_path, tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "mine"


def test_without_records_the_registry_alone(small: dict[str, MethodEntry], tmp_path: Path) -> None:
    out = tmp_path / "out"
    build_site(small, tmp_path / "none", tmp_path, out)
    assert "No comparison has records yet" in (out / "leaderboard.html").read_text()
    assert all(not page.wrong for page in pages(out).values())


def test_a_formula_in_mathml() -> None:
    assert mathml(r"\frac{1}{|M|} \sum_{t \in M} q_t^2") == (
        '<math alttext="1/|M| Σ_{t ∈ M} qₜ²"><mrow><mfrac><mrow><mn>1</mn></mrow><mrow><mo stretchy="false" lspace="0.1em" rspace="0.1em">|</mo><mi>M</mi>'
        '<mo stretchy="false" lspace="0.1em" rspace="0.1em">|</mo></mrow></mfrac><munder><mo>∑</mo><mrow><mi>t</mi><mo>∈</mo><mi>M</mi></mrow></munder>'
        "<msubsup><mi>q</mi><mi>t</mi><mn>2</mn></msubsup></mrow></math>"
    )
    assert mathml(r"\mathrm{log\_ratio} < 1") == '<math alttext="log_ratio &lt; 1"><mrow><mtext>log_ratio</mtext><mo>&lt;</mo><mn>1</mn></mrow></math>'


def test_every_formula_of_the_registry_is_well_formed_and_leaves_no_latex() -> None:
    for entry in load_registry().values():
        lines = formula(entry)
        made = [mathml(line.right) for line in lines if not line.left]
        made += [equations([(line.left, line.right, line.depth) for line in lines if line.left])] if lines else []
        for text in made:
            shown = minidom.parseString(text)
            words = "".join(node.data for node in _texts(shown))
            assert "\\" not in words, (entry.id, words)


def _texts(node: minidom.Node) -> list[minidom.Text]:
    if node.nodeType == node.TEXT_NODE:
        return [node]  # type: ignore[list-item]
    return [text for child in node.childNodes for text in _texts(child)]


def test_a_set_of_many_attempts_is_written_out_once(built: Path) -> None:
    """Win rates rest on all methods: their cells lead to one list of them."""
    page = (built / "records" / "first" / "eopd.html").read_text()
    name = re.search(r'href="index.html#(set-\d+)">which they are', page)
    assert name is not None
    text = (built / "records" / "first" / "index.html").read_text()
    listed = text.partition(f'id="{name[1]}"')[2].partition("</dd>")[0]
    found = dict(re.findall(r">([a-z_]+) \((\d)\)<", listed))
    assert found == dict.fromkeys(METHODS[:-1], "5")  # one seed of the last diverged


def test_words_of_entries_are_text_with_their_code_marked(built: Path) -> None:
    """What stands in backticks in an entry is code on its page; a remark of a formula that is words alone breaks like text."""
    page = (built / "methods" / "gkd.html").read_text(encoding="utf-8")
    notes = page[page.index('id="s-notes"') :].split("</section>")[0]
    assert "<code>gkd_on_policy</code>" in notes and "`" not in notes
    assert "<li>p: the student&#39;s law, M: the batch&#39;s supervised tokens" in page


def test_a_validated_mode_names_the_command_that_traces_it_and_links_its_sources(built: Path) -> None:
    page = (built / "failures" / "FM05.html").read_text(encoding="utf-8")
    assert "zoo trace failure_detection &#34;FM05 · 0&#34; validated" in page or 'zoo trace failure_detection "FM05 · 0" validated' in page
    assert 'href="https://arxiv.org/abs/2603.25562"' in page


def test_what_fires_without_learning_is_no_methods_failure(built: Path) -> None:
    """no_op stands first in the map, modes that fire for it are said to be the pair's, and the leaderboard does not count them."""
    atlas = (built / "failures" / "index.html").read_text(encoding="utf-8")
    assert atlas.index("Learns nothing") < atlas.index("Given texts") and f"{IDLE_MODE} fired for no_op too" in atlas
    fired = [name for name in METHODS if f'<a href="../failures/{IDLE_MODE}.html">{IDLE_MODE}</a></th>' in _page(built, f"methods/{name}.html")]
    assert fired
    for name in fired:
        assert 'and for <a href="../methods/no_op.html">no_op</a>' in _page(built, f"methods/{name}.html")


def _page(built: Path, address: str) -> str:
    return (built / address).read_text(encoding="utf-8")
