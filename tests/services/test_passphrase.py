"""The operator's passphrase."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from orch_server.core.errors import NotAllowed, PassphraseRequired
from orch_server.services import passphrase as module
from orch_server.services.passphrase import Passphrase


@pytest.fixture
def passphrase(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Passphrase:
    """None is set; hashing and the penalty are made quick."""
    monkeypatch.setitem(module._COST, "n", 2**4)
    monkeypatch.setattr(module, "_PENALTY", 0.01)
    return Passphrase(folder / "passphrase")


def test_without_one_the_mode_is_open(passphrase: Passphrase) -> None:
    assert not passphrase.is_set()
    asyncio.run(passphrase.demand("", "do it"))
    asyncio.run(passphrase.demand("anything", "do it"))


def test_the_right_one_passes_and_no_other(passphrase: Passphrase) -> None:
    passphrase.set("correct horse ß")
    assert passphrase.is_set()
    asyncio.run(passphrase.demand("correct horse ß", "do it"))
    for wrong in ("Correct horse ß", "correct horse", " correct horse ß", "x"):
        with pytest.raises(NotAllowed, match="wrong; it is needed to do it") as caught:
            asyncio.run(passphrase.demand(wrong, "do it"))
        assert not isinstance(caught.value, PassphraseRequired)
    with pytest.raises(PassphraseRequired, match="needed to do it"):
        asyncio.run(passphrase.demand("", "do it"))


def test_a_new_one_replaces_the_old(passphrase: Passphrase) -> None:
    passphrase.set("old")
    passphrase.set("new")
    assert (passphrase.matches("new"), passphrase.matches("old")) == (True, False)


def test_the_file_is_private_and_salted(passphrase: Passphrase, folder: Path) -> None:
    path = folder / "passphrase"
    passphrase.set("same")
    first = path.read_text()
    passphrase.set("same")
    assert path.read_text() != first
    assert "same" not in first
    assert path.stat().st_mode & 0o777 == 0o600
    assert [p.name for p in folder.iterdir()] == ["passphrase"]


@pytest.mark.parametrize("content", ["", "scrypt", "scrypt zz zz", "a b c d", "scrypt 00 00\n"])
def test_a_damaged_file_lets_nobody_pass(
    passphrase: Passphrase, folder: Path, content: str
) -> None:
    (folder / "passphrase").write_text(content)
    with pytest.raises(NotAllowed):
        asyncio.run(passphrase.demand("anything", "do it"))


def test_guesses_are_tried_one_after_the_other(
    passphrase: Passphrase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_PENALTY", 0.05)
    passphrase.set("right")

    async def body() -> float:
        loop = asyncio.get_running_loop()
        before = loop.time()
        guesses = [passphrase.demand(f"{n}", "x") for n in range(6)]
        results = await asyncio.gather(*guesses, return_exceptions=True)
        assert all(isinstance(r, NotAllowed) for r in results)
        return loop.time() - before

    assert asyncio.run(body()) >= 0.29
