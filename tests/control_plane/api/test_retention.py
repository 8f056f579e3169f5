from __future__ import annotations

from control_plane.projections import kept
from control_plane.retention.policies import MOST_GROUPS
from control_plane.store.engine import Stores
from tests.control_plane.api.editing import NEW, Api, declare, gateway, group
from tests.control_plane.conftest import START_MS

HOUR_MS = 3_600_000


def test_a_group_has_its_own_and_all_others_the_servers(admin: Api) -> None:
    group(admin, "pharma")
    made = admin.do("PUT", "/retention/pharma", {"readings_days": 3650}, etag=NEW)
    assert (made["raw_days"], made["readings_days"], made["own"]) == (30, 3650, {"readings_days": 3650})
    usual, own = admin.get("/retention")["items"]
    assert (usual["group"], usual["raw_days"], usual["readings_days"]) == (None, 30, 0)
    assert own == made == admin.get("/retention/pharma")
    admin.do("PUT", "/retention/pharma", {"raw_days": 0}, etag=NEW, expect=412)
    changed = admin.do("PUT", "/retention/pharma", {"raw_days": 0}, etag=made["etag"])
    assert (changed["raw_days"], changed["readings_days"]) == (0, 0)
    admin.do("DELETE", "/retention/pharma", etag=changed["etag"], expect=204)
    admin.get("/retention/pharma", expect=404)
    again = admin.do("PUT", "/retention/pharma", {}, etag=NEW)
    assert again["etag"] not in {made["etag"], changed["etag"]}


def test_what_makes_no_sense_is_refused_with_the_field(admin: Api) -> None:
    group(admin, "pharma")
    answer = admin.do("PUT", "/retention/pharma", {"raw_days": 0.5}, etag=NEW, expect=422)
    assert "raw_days" in str(answer)
    admin.do("PUT", "/retention/pharma", {"weeks": 1}, etag=NEW, expect=422)
    admin.do("PUT", "/retention/nobody", {"raw_days": 2}, etag=NEW, expect=404)


def test_so_many_groups_have_their_own_and_no_more(admin: Api) -> None:
    for number in range(MOST_GROUPS + 1):
        group(admin, f"group-{number}")
        expect = 200 if number < MOST_GROUPS else 409
        admin.do("PUT", f"/retention/group-{number}", {"raw_days": 2}, etag=NEW, expect=expect)
    assert len(admin.get("/retention?limit=4")["items"]) == 4


def test_the_retention_of_a_group_that_is_gone_counts_no_more(admin: Api) -> None:
    group(admin, "pharma")
    admin.do("PUT", "/retention/pharma", {"raw_days": 2}, etag=NEW)
    admin.do("DELETE", "/groups/pharma", etag='"1"', expect=204)
    assert [item["group"] for item in admin.get("/retention")["items"]] == [None]


def test_a_file_says_from_when_on_there_is_something(admin: Api, stores: Stores) -> None:
    one = gateway(admin, "truck")
    declare(stores, one, "box")
    asked = f"/readings/export?series={one}/box/temperature&from=2025-11-22T00:00:00Z&to=2025-11-23T00:00:00Z"
    before = admin.ask("GET", asked)
    assert (before.status_code, before.headers.get("Comboio-Not-Kept-Before")) == (200, None)
    before.close()
    with stores.telemetry.write() as connection:
        kept.tell(connection, kept.READINGS, [one], START_MS)
        kept.tell(connection, kept.READINGS, [one], START_MS - HOUR_MS)  # an older word changes nothing
    after = admin.ask("GET", asked)
    assert after.headers["Comboio-Not-Kept-Before"] == "2025-11-22T10:00:00.000Z"
    after.close()
    assert admin.get(asked.replace("/export", ""))["not_kept_before"] is None  # rollups of that time are kept
    with stores.telemetry.write() as connection:
        for what in kept.LEVELS:
            kept.tell(connection, what, [one], START_MS)
    readings = admin.get(asked.replace("/export", ""))
    assert readings["not_kept_before"] == "2025-11-22T10:00:00Z"
