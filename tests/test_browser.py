"""The eye that other tests look at pages with must see what is wrong with one."""

from browser import look

PAGE = """<!doctype html><html><head><meta name="color-scheme" content="light dark"></head><body>
<h1 style="color:#999;background:#fff">pale</h1><p style="font-size:8px">small</p>
<div style="width:900px">wide</div><img src="data:image/png;base64,AAAA" alt=""></body></html>"""


def test_faults_of_a_page_are_seen(tmp_path):
    file = tmp_path / "page.html"
    file.write_text(PAGE)
    seen = look(file, 390)
    assert (seen["width"], seen["dark"]) == (390, False)
    assert seen["scrolls"] >= 900
    assert seen["pale"] == [["pale", 2.8]]  # WCAG's own figure for #999 on white is 2.85
    assert seen["small"] == [["small", "8px"]]
    assert seen["broken"] == 1
    assert look(file, 1280, dark=True)["dark"]
    assert look(file, 1280)["scrolls"] <= 1280
