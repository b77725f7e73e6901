"""Pages escape what is put into them, and let browsers load and run nothing."""

import re
from base64 import b64encode
from hashlib import sha256

from tracebility.api.html import Html, fill, page


def test_values_are_escaped_and_html_is_not() -> None:
    assert fill("<a title='$t'>$b</a>", t="'\"<script>", b=Html("<b>x</b>")) == (
        "<a title='&#x27;&quot;&lt;script&gt;'><b>x</b></a>"
    )


def test_a_page_is_self_contained_and_its_policy_allows_its_own_style_only() -> None:
    response = page("t", Html("<p>x</p>"))
    text = bytes(response.body).decode()
    assert "<script" not in text
    assert not re.search(r"""(src|href)=["']?(https?:)?//""", text)
    style = re.search(r"<style>(.*?)</style>", text, re.DOTALL)
    assert style is not None
    digest = b64encode(sha256(style[1].encode()).digest()).decode()
    policy = response.headers["content-security-policy"]
    assert f"style-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy
    assert " style=" not in text
