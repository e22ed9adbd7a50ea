"""Who may use a server: tokens, loopback addresses, other names and pages."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from animate_rt.__main__ import main
from animate_rt.errors import ConfigError, InputMissing
from animate_rt.runtime.service.http.auth import Guard, read_tokens

from .serving import TOKEN, Served, error_of, serving

OTHER = "another-token-of-the-tests"
CLOSED = ("/v1/videos", "/v1/models", "/metrics", "/docs/oauth2-redirect", "/nothing")
OPEN = ("/livez", "/readyz", "/", "/docs", "/openapi.json")


@pytest.fixture(scope="module")
def with_tokens(small_bundle: Path) -> Iterator[Served]:
    with serving(small_bundle, tokens=(TOKEN, OTHER)) as served:
        yield served


@pytest.fixture(scope="module")
def without_tokens(small_bundle: Path) -> Iterator[Served]:
    with serving(small_bundle) as served:
        yield served


@pytest.mark.parametrize(
    "authorization",
    [
        None,
        "",
        "Bearer",
        f"Bearer {TOKEN[:-1]}",
        f"Bearer {TOKEN}x",
        f"Bearer {TOKEN} {OTHER}",
        f"Basic {TOKEN}",
        TOKEN,
        f"Bearer {TOKEN.upper()}",
        "Bearer \x80\xff",
        f"Bearer {'x' * 8000}",
    ],
)
def test_a_wrong_token_is_refused(with_tokens: Served, authorization: str | None) -> None:
    headers = {} if authorization is None else {"Authorization": authorization.encode("latin-1")}
    with with_tokens.client(headers=headers) as client:
        for path in CLOSED:
            answer = client.get(path)
            error = error_of(answer, 401)
            assert (error["code"], error["type"]) == ("unauthorized", "authentication_error")
            assert answer.headers["www-authenticate"] == "Bearer"
        assert [client.get(path).status_code for path in OPEN] == [200] * len(OPEN)


@pytest.mark.parametrize("server", ["with_tokens", "without_tokens"])
def test_the_page_of_the_api_loads_nothing_from_other_hosts(
    server: str, request: pytest.FixtureRequest
) -> None:
    """It can be opened without a token, from the link of the page."""
    served: Served = request.getfixturevalue(server)
    with served.client() as client:
        assert client.get("/openapi.json").json()["paths"]
        page = client.get("/docs").text
        loaded = re.findall(r'(?:src|href)="([^"]+)"', page)
        assert len(loaded) >= 2
        for path in loaded:
            assert path.startswith("/")
            assert client.get(path).status_code == 200


@pytest.mark.parametrize("token", [TOKEN, OTHER])
def test_each_token_is_accepted(with_tokens: Served, token: str) -> None:
    with with_tokens.client(headers={"Authorization": f"Bearer {token}", "Host": "video.example"}) as client:
        assert client.get("/v1/models").status_code == 200
        assert client.get("/v1/videos").status_code == 200


def test_tokens_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every token is compared, whatever the first ones gave, and what is compared is of one length."""
    import hmac

    compared = []

    def note(one: bytes, other: bytes) -> bool:
        compared.append((len(one), len(other)))
        return one == other

    monkeypatch.setattr(hmac, "compare_digest", note)
    guard = Guard(None, (TOKEN, OTHER), ())  # type: ignore[arg-type]
    for text, expected in ((TOKEN, True), (OTHER, True), ("", False), (TOKEN[:5], False)):
        compared.clear()
        assert guard.knows(f"Bearer {text}") is expected
        assert compared == [(32, 32)] * 2


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "127.0.0.1"}, 200),
        ({"Host": "localhost:1"}, 200),
        ({"Host": "[::1]:8000"}, 200),
        ({"Host": "evil.example"}, 403),  # a name that was made to mean this machine
        ({"Host": "127.0.0.1.evil.example"}, 403),
        ({"Host": "localhost@evil.example"}, 403),
        ({"Host": "192.168.0.1"}, 403),
        ({"Host": "[::1"}, 403),
        ({"Host": ""}, 403),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Host": "localhost:1", "Origin": "http://localhost:2"}, 403),
        ({"Host": "localhost:1", "Origin": "http://localhost:1"}, 200),
    ],
)
def test_without_tokens_only_this_machine_is_answered(
    without_tokens: Served, headers: dict[str, str], status: int
) -> None:
    with without_tokens.client() as client:
        answer = client.get("/v1/videos", headers=headers)
        assert answer.status_code == status
        if status == 403:
            assert error_of(answer, 403)["code"] == "forbidden"


def test_a_token_file(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    path.write_text(f"\n{TOKEN}\r\n  {OTHER}  \n\n")
    assert read_tokens(path) == [TOKEN, OTHER]
    for content in ("", "\n \n", "short", "with a space in the token", "t" * 15, "ümlaut-in-the-token"):
        path.write_text(content)
        with pytest.raises(ConfigError, match="--token-file: expected"):
            read_tokens(path)
    with pytest.raises(InputMissing, match="--token-file"):
        read_tokens(tmp_path / "none")
    with pytest.raises(ConfigError, match="--token-file: cannot read"):
        read_tokens(tmp_path)


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_other_addresses_need_a_token(
    small_bundle: Path, host: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["serve", str(small_bundle), "--port", "0", "--host", host]) == ConfigError.exit_status
    error = capsys.readouterr().err
    assert "--host: expected a loopback address" in error
    assert "--token-file" in error


def test_other_addresses_need_a_policy_or_the_word_that_there_is_none(
    small_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text(TOKEN)
    command = ["serve", str(small_bundle), "--port", "0", "--host", "0.0.0.0", "--token-file", str(tokens)]
    assert main(command) == ConfigError.exit_status
    (line,) = capsys.readouterr().err.splitlines()
    assert "nothing decides who may be animated" in line
    assert "--policy MODULE:OBJECT, or --no-policy" in line
    assert main([*command, "--policy", "no_such_module:policy"]) == ConfigError.exit_status
    (line,) = capsys.readouterr().err.splitlines()
    assert "--policy: cannot use" in line


@pytest.mark.parametrize(
    "options",
    [
        ["--port", "70000"],
        ["--host", "no.such.name.example.invalid"],
        ["--keep-hours", "0"],
        ["--drain-s", "-1"],
        ["--drain-s", "nan"],
        ["--drain-s", "inf"],
        ["--keep-gb", "inf"],
        ["--memory-gb", "inf"],
        ["--queue", "0"],
        ["--max-video-mib", "0"],
    ],
)
def test_bad_options_are_one_line(
    small_bundle: Path, options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["serve", str(small_bundle), "--port", "0", *options]) == ConfigError.exit_status
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_two_bundles_of_one_size(small_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", str(small_bundle), str(small_bundle)]) == ConfigError.exit_status
    assert "found two of 64x96" in capsys.readouterr().err


def test_a_port_in_use(
    small_bundle: Path, without_tokens: Served, capsys: pytest.CaptureFixture[str]
) -> None:
    port = without_tokens.url.rpartition(":")[2]
    assert main(["serve", str(small_bundle), "--port", port]) == ConfigError.exit_status
    assert "in use" in capsys.readouterr().err
