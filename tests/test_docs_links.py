"""The check of the site's links finds what leads nowhere."""

from docs import check_links


def test_planted_links(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "a.html").write_text(
        '<h1 id="top"></h1><a href="sub/b.html#here"></a><a href="#top"></a><img src="no.png">'
        '<a href="sub/"></a><a href="https://example.org/x"></a><a href="sub/b.html#gone"></a>',
        encoding="utf-8",
    )
    (tmp_path / "sub" / "b.html").write_text('<p id="here"></p><a href="../a.html#lost"></a>')
    (tmp_path / "sub" / "index.html").write_text('<a href="c%20d.html"></a>')
    found = sorted(check_links.broken(tmp_path))
    assert [line.split(": ")[1] for line in found] == [
        "no.png", "sub/b.html#gone", "../a.html#lost", "c%20d.html"]  # fmt: skip
