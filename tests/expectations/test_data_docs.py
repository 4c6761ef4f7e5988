"""Pages that open without a network."""

from expectations.data_docs import index_page, page_without_network
from expectations.engine import Checked, Outcome

PAGE = """<html><head><link rel="stylesheet" href="https://a.example/x.css"/><style>old { }</style>
<script src="https://b.example/x.js" integrity="s"></script></head><body><nav><a href="../index.html">
<img class="NO-CACHE" src="https://c.example/logo.png" /></a><a href="../index.html">Home</a></nav>
<script>$(".x").fadeIn();</script><table><tr><td>2 unexpected</td></tr></table><footer><a href="https://d.example">Subscribe</a></footer></body></html>"""


def outcome(rule: str, *, success: bool, severity: str = "warning", **more: object) -> Outcome:
    return Outcome(
        rule=rule, column="c", description=f"{rule} holds", advice="try this", severity=severity, success=success, num_failed=0 if success else 1_234, **more
    )


def test_nothing_of_a_page_comes_from_elsewhere():
    page = page_without_network(PAGE)
    assert "https://" not in page
    assert "fadeIn" not in page
    assert "old { }" not in page
    assert "<td>2 unexpected</td>" in page
    assert page.count('<a href="../index.html">') == 1
    assert "function hideSucceededValidations" in page


def test_the_index_names_worst_rules_first_with_counts_and_escapes_what_it_shows():
    checked = [
        Checked("rows", (outcome("fine", success=True), outcome("odd", success=False))),
        Checked("table", (outcome("<few>", success=False, severity="critical"),)),
    ]
    page = index_page("Checks & more", {"rows in": "9"}, checked, {"rows": "validations/rows.html"})
    assert "Checks &amp; more" in page
    assert page.index("&lt;few&gt;") < page.index(">odd<") < page.index(">fine<")
    assert "<few>" not in page
    assert '<a href="validations/rows.html">rows</a>' in page
    assert "<li><b>1</b>critical</li><li><b>1</b>warnings</li>" in page
    assert "1,234" in page
    assert page.count("try this") == 2  # what to do stands at failed rules only


def test_an_exception_is_shown_in_place_of_the_advice():
    page = index_page("Checks", {}, [Checked("rows", (outcome("odd", success=False, error="column gone"),))], {})
    assert "column gone" in page
    assert "try this" not in page
