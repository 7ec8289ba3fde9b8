"""Words on pictures: nothing that could be read is drawn as a box, whatever fonts a machine has."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from densecli import fonts
from densecli.fonts import Font, drawable, own_font


@pytest.fixture(params=["this machine's fonts", "none"])
def some_fonts(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "none":
        monkeypatch.setattr(fonts, "_SYSTEM", ())
    fonts._there.cache_clear()
    request.addfinalizer(fonts._there.cache_clear)


def boxes(text: str, font: Font) -> list[str]:
    """Characters that a font draws as it draws what no font has."""
    box = font.getmask("\U0010fffe")
    return [c for c in text if not c.isspace() and bytes(font.getmask(c)) == bytes(box)]


def test_plain_names_in_pillows_own_font(some_fonts: None) -> None:
    text, font = drawable("desk (2).jpg ~100 %", 24)
    assert text == "desk (2).jpg ~100 %" and bytes(font.getmask(text)) == bytes(own_font(24).getmask(text))


@pytest.mark.parametrize("name", ["Prüfstück.png", "café", "Ångström", "señal žluťoučký kůň", "Ｄｅｓｋ", "x²"])
def test_accents_are_no_boxes(some_fonts: None, name: str) -> None:
    text, font = drawable(name, 24)
    assert not boxes(text, font)
    for drawn, named in zip(text, name, strict=True):
        assert drawn in (named, unicodedata.normalize("NFKD", named)[0])


def test_one_name_in_two_writings_is_one(some_fonts: None) -> None:
    assert drawable(unicodedata.normalize("NFD", "Prüfstück"), 24)[0] == drawable("Prüfstück", 24)[0]


@given(st.text(max_size=20))
def test_never_more_boxes_than_in_pillows_own_font(name: str) -> None:
    text, font = drawable(name, 24)
    assert len(boxes(text, font)) <= len(boxes(text, own_font(24)))
    assert text.isprintable()


def test_names_in_other_scripts_in_a_font_that_has_them() -> None:
    text, font = drawable("Москва, Ελλάδα", 24)
    if not fonts._there():
        pytest.skip("this machine has no fonts")
    assert text == "Москва, Ελλάδα" and not boxes(text, font)
