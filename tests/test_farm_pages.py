"""What a farm writes about its shots: text of any bytes stays text, and files of others stay theirs."""

from __future__ import annotations

import json
import os
import random
import urllib.parse
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import yaml
from animate_rt.__main__ import main
from animate_rt.errors import ConfigError
from animate_rt.runtime.farm import cluster, commands
from animate_rt.runtime.farm.farm import NO_PROGRESS, Farm
from animate_rt.runtime.farm.gallery import PAGE_BEGIN, write_gallery
from animate_rt.runtime.farm.openjd import MAX_VALUE, template
from animate_rt.runtime.farm.report import FarmReport, ShotReport, write_report
from animate_rt.runtime.shots.output import Output
from animate_rt.text import one_line

from .fixed_cost import example
from .job_lists import job, write_job_inputs

PIECES = [
    *("a", "Z", "0", "_", "-", ".", " ", "é", "日", "😀", "\u0301", "\u202e", "\u2028", "\ufeff", "\xad"),
    *(
        "\0",
        "\x01",
        "\x07",
        "\b",
        "\t",
        "\n",
        "\r",
        "\x0b",
        "\x1b[31m",
        "\x1b]0;t\x07",
        "\x7f",
        "\x85",
        "\x9b2J",
    ),
    *(
        "<",
        ">",
        "&",
        '"',
        "'",
        "</title>",
        "<script>alert(1)</script>",
        "<img src=x onerror=y>",
        "-->",
        "&amp;",
    ),
    *("{", "}", "{{Param.Jobs}}", "{0}", "%s", "#", ": ", "\\", "\\n", "|", "!", "*", "[", "- x"),
    *("\ud800", "\udc80", "\udcff", "\udfff", "\U0010ffff", "\ue000", "\ufffe"),
]


def names(count: int, seed: int) -> list[str]:
    chance = random.Random(seed)
    return ["".join(chance.choices(PIECES, k=chance.choice((1, 2, 5, 20, 200)))) for _ in range(count)]


def file_name(name: str) -> str:
    """A name that a file can have: the bytes of a name on disk, with surrogates for what is not UTF-8."""
    return os.fsdecode(name.encode("utf-8", "surrogatepass").replace(b"/", b"").replace(b"\0", b""))[:60]


class Page(HTMLParser):
    def __init__(self, text: str):
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            assert name in ("lang", "charset", "name", "content", "class", "href", "loading", "src", "alt"), (
                attrs
            )
            if name in ("href", "src"):
                assert value
                self.links.append(value)

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_names_and_errors_of_any_bytes_are_text_in_the_page_the_report_and_the_table(tmp_path: Path) -> None:
    """500 names and errors, each of done and failed shots, in folders whose names are such, too."""
    for turn in range(10):
        folder = tmp_path / (file_name(names(1, turn)[0]) + str(turn))
        folder.mkdir()
        shots, reports = [], []
        for i, name in enumerate(names(50, 100 + turn)):
            file = f"{i}{file_name(name)}"
            output = Output(folder / f"{file}.mp4", True)
            sheet = folder / f"{file}.png"
            if i % 4 == 0:
                sheet.touch()
            shots.append(
                replace(example(folder, folder / "x.mp4"), name=name, output=output, contact_sheet=sheet)
            )
            state = ("done", "failed")[i % 2]
            reports.append(ShotReport(name, state, num_frames=8, error=name * (i % 2), code="input"))
        report = FarmReport(reports)
        page, document = folder / "index.html", folder / "report.json"
        write_gallery(page, shots, report)
        write_report(document, report)
        text = page.read_text(encoding="utf-8")
        assert all(character.isprintable() or character == "\n" for character in text)
        parsed = Page(text)
        assert set(parsed.tags) == {
            *("html", "meta", "title", "style", "h1", "p", "section", "h2", "a", "span", "img"),
        }
        assert parsed.tags.count("section") == 50
        assert parsed.tags.count("meta") == 2
        shown = "".join(parsed.texts)
        assert all(one_line(name) in shown for name in (shot.name for shot in shots))
        found = {os.fsencode(entry.name) for entry in folder.iterdir()}
        for link in parsed.links:
            name = urllib.parse.unquote_to_bytes(link)
            assert link.isascii()
            assert "/" not in link
            assert name in found or any(os.fsencode(shot.output.path.name) == name for shot in shots)
        listed = json.loads(document.read_text(encoding="ascii"))["shots"]
        assert len(listed) == 50
        assert all(shot["name"].encode("utf-8") for shot in listed)
        table = report.table()
        assert table.count("\n") == 51
        assert all(character.isprintable() or character == "\n" for character in table)
        assert max(map(len, table.split("\n"))) < 2500


def test_a_template_holds_names_of_any_bytes_or_refuses_them(tmp_path: Path) -> None:
    """500 job lists and folders: the template's defaults are exactly their paths, or ConfigError says why."""
    bundle = write_job_inputs(tmp_path) / "bundle"
    shot = replace(example(tmp_path, tmp_path / "x.mp4"), bundle=bundle)
    refused: dict[str, str] = {}
    for name in map(file_name, names(500, 1)):
        jobs, output = Path("lists") / f"{name}.jsonl", Path("results") / name
        try:
            text = template(jobs, output, [shot])
        except ConfigError as error:
            refused[name] = str(error)
            continue
        assert all(character.isprintable() or character == "\n" for character in text)
        document = yaml.safe_load(text)
        assert [p["default"] for p in document["parameterDefinitions"]] == list(
            map(os.path.relpath, (jobs, output))
        )
        assert "{{" not in document["name"]
        assert "}}" not in document["name"]
        assert 0 < len(document["name"]) <= 128
        assert len(document["steps"]) == 1
        check(document)
        # Standard output may be ASCII; Python's escapes are YAML's.
        assert yaml.safe_load(text.encode("ascii", "backslashreplace")) == document
    assert 50 < len(refused) < 400
    for name, message in refused.items():
        assert any("\ud800" <= character <= "\udfff" for character in name)
        assert message.isprintable()
    for name in ("a{{b", "c}}", "\udcff", "x" * (MAX_VALUE + 1)):
        with pytest.raises(ConfigError, match=r"openjd: expected names"):
            template(Path("jobs.jsonl"), Path("out"), [replace(shot, name=name)])


def check(document: dict[str, Any]) -> None:
    try:
        from openjd.model import decode_job_template
    except ImportError:
        return
    decode_job_template(template=document)


@pytest.fixture
def farm_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """The command `farm` with one shot, whose engines and workers are left out."""
    inputs = write_job_inputs(tmp_path)
    (inputs / "list.jsonl").write_text(json.dumps(job("one")) + "\n")

    def finish(farm: Farm) -> None:
        farm.report.shots[0].state = "done"
        farm.show(farm.report)

    monkeypatch.setattr(commands, "run_in_driver", finish)
    return lambda: main(
        ["farm", str(inputs / "list.jsonl"), "--output", str(tmp_path / "out"), "--progress", "none"]
    )


def put_text(path: Path) -> None:
    path.write_text("<!doctype html>\n<html>my own page</html>")


def put_document(path: Path) -> None:
    path.write_text('{"states": "mine"}')


def put_empty_file(path: Path) -> None:
    path.touch()


def put_folder(path: Path) -> None:
    path.mkdir()
    (path / "kept").touch()


def put_pipe(path: Path) -> None:
    os.mkfifo(path)


def put_link(path: Path) -> None:
    target = path.with_name("target")
    target.write_text(PAGE_BEGIN)
    path.symlink_to(target)


def put_dangling_link(path: Path) -> None:
    path.symlink_to("nowhere")


PUTS = [put_text, put_document, put_empty_file, put_folder, put_pipe, put_link, put_dangling_link]


@pytest.mark.parametrize("name", ["index.html", "report.json"])
@pytest.mark.parametrize("put", PUTS)
def test_a_file_of_somebody_else_is_refused_and_stays(
    farm_command: Callable[[], int],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    put: Callable[[Path], None],
    name: str,
) -> None:
    (tmp_path / "out").mkdir()
    path = tmp_path / "out" / name
    put(path)
    before = path.lstat()
    assert farm_command() == 73
    message, _ = capsys.readouterr().err.splitlines()
    assert message.startswith(f"animate-rt: {path}"[:40])
    assert "found something else; move it away, or choose another folder" in message
    assert path.lstat() == before
    assert not (tmp_path / "out" / "one.mp4").exists()


def test_the_files_of_an_earlier_farm_are_replaced(farm_command: Callable[[], int], tmp_path: Path) -> None:
    assert farm_command() == 0
    old = {name: (tmp_path / "out" / name).lstat().st_ino for name in ("index.html", "report.json")}
    assert farm_command() == 0
    new = {name: (tmp_path / "out" / name).lstat().st_ino for name in old}
    assert all(new[name] != old[name] for name in old)


def test_a_file_that_appears_while_the_farm_runs_stays(
    farm_command: Callable[[], int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The farm goes on, ends with a status that says so, and still writes its report."""
    page = tmp_path / "out" / "index.html"
    finish, shown = commands.run_in_driver, []

    def run(farm: Farm) -> None:
        put_text(page)
        finish(farm)
        shown.append(farm.report.states)

    monkeypatch.setattr(commands, "run_in_driver", run)
    monkeypatch.setattr(commands, "GALLERY_S", -1.0)
    assert farm_command() == 73
    assert shown == [{"done": 1}]
    assert "my own page" in page.read_text()
    assert json.loads((tmp_path / "out" / "report.json").read_text())["states"] == {"done": 1}
    assert "index.html: expected nothing there" in capsys.readouterr().err


def test_the_job_list_is_not_overwritten_by_the_report(
    tmp_path: Path, farm_command: Callable[[], int], capsys: pytest.CaptureFixture[str]
) -> None:
    del farm_command  # its inputs are used
    path = tmp_path / "report.json"
    path.write_text(json.dumps(job("one")) + "\n")
    assert main(["farm", str(path), "--output", str(tmp_path)]) == 73
    assert json.loads(path.read_text())["name"] == "one"
    assert "found something else" in capsys.readouterr().err


def test_without_ray_nothing_is_read(
    farm_command: Callable[[], int], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "find_spec", lambda _name: None)
    monkeypatch.setattr(commands, "checked_jobs", None)
    assert farm_command() == 64
    message, _ = capsys.readouterr().err.splitlines()
    assert message.startswith("animate-rt: farm: expected the package ray, found none; install it with pip")


def test_an_error_is_kept_on_one_line_of_bounded_length(tmp_path: Path) -> None:
    inputs = write_job_inputs(tmp_path)
    farm = Farm([example(inputs, inputs / "x.mp4")])
    farm.began_s = 0.0
    (waiting,) = farm.waiting
    farm.waiting.clear()
    for error in names(500, 2):
        farm._retry_or_fail(waiting, error * 50, "input", False, NO_PROGRESS)
        assert waiting.report.error.isprintable()
        assert len(waiting.report.error) <= 2000
