"""Pages: signing in and out, what is shown to whom, and that nothing leaks or executes."""

from tests.hub.site import Site
from tests.hub.world import public_id


def test_a_page_leads_to_sign_in_and_back(site: Site) -> None:
    client = site.client()
    path = f"/meetings/{public_id('会')}"
    response = client.get(path)
    assert response.status_code == 303
    client.get(response.headers["location"])
    response = client.post("/sign-in", data={"token": site.tokens["甲"], "next": path})
    assert (response.status_code, response.headers["location"]) == (303, path)
    page = client.get(path)
    assert page.status_code == 200
    assert "会题" in page.text
    assert client.get("/").status_code == 200
