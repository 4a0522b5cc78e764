"""No list grows without bound: pages of invoices and prices, and what of them a snapshot holds."""

from typing import Any
from uuid import UUID

import msgspec
import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.programs import prepare
from tests.test_protocol import INVOICE, Contract, request
from trio_ws.database import queries
from trio_ws.database.queries import InvoiceFilter
from trio_ws.events.prices import PAGE, Book
from trio_ws.paging import PAGE_BYTES, Cursor
from trio_ws.testing import SimulatedClient

pytestmark = pytest.mark.both_ways

BIG = {
    "memo": "m" * 1000,
    "webhook_url": "https://h.example/" + "w" * 1900,
    "redirect_url": "https://r.example/" + "r" * 1900,
}


async def make(client: SimulatedClient, count: int, **more: Any) -> list[int]:
    """The ids of new invoices, the newest first."""
    made = [await request(client, **INVOICE, **more) for _ in range(count)]
    return [reply["data"]["id"] for reply in made][::-1]


async def pages(client: SimulatedClient, **asked: Any) -> list[list[int]]:
    """The ids on each page of a list of invoices."""
    found: list[list[int]] = []
    cursor = None
    while True:
        reply = await request(client, action="list_invoices", cursor=cursor, **asked)
        assert reply["status"] == "success", reply
        found.append([invoice["id"] for invoice in reply["data"]])
        if (cursor := reply.get("next")) is None:
            return found


async def test_invoices_are_listed_page_by_page_the_newest_first(contract: Contract) -> None:
    world, _ = contract
    client = await world.connect()
    ids = await make(client, 7)
    assert await pages(client, limit=3) == [ids[:3], ids[3:6], ids[6:]]
    assert await pages(client, limit=7) == [ids], "and no page is empty"
    assert await pages(client, account_id=1, limit=None) == [ids]
    assert await pages(client, account_id=2) == [[]]


async def test_what_comes_meanwhile_makes_no_page_repeat_or_lack_one(
    contract: Contract,
) -> None:
    world, program = contract
    client = await world.connect()
    ids = await make(client, 4)
    reply = await request(client, action="list_invoices", limit=2)
    await make(client, 3)
    await program.update_invoice(UUID(reply["data"][0]["uid"]), status="confirming")
    rest = await request(client, action="list_invoices", limit=2, cursor=reply["next"])
    assert [invoice["id"] for invoice in rest["data"]] == ids[2:]
    assert list(rest) == ["status", "data"]


async def test_a_list_is_of_a_status_or_an_address(contract: Contract) -> None:
    world, program = contract
    client = await world.connect()
    here = await make(client, 2, address="here")
    there = await make(client, 3, address="there")
    uid = (await request(client, action="list_invoices", limit=1))["data"][0]["uid"]
    await program.update_invoice(UUID(uid), status="cancelled")
    assert await pages(client, address="here", limit=1) == [[here[0]], [here[1]]]
    assert await pages(client, status="cancelled") == [[there[0]]]
    assert await pages(client, status="unpaid", address="there", account_id=1) == [there[1:]]
    assert await pages(client, status="paid") == [[]]


@pytest.mark.parametrize(
    "wrong",
    [
        {"cursor": "7"},
        {"cursor": "all.x"},
        {"cursor": "*.1"},
        {"cursor": "all.1 "},
        {"limit": 0},
        {"limit": 101},
        {"status": "lost"},
    ],
)
async def test_what_is_no_page_is_said(contract: Contract, wrong: dict[str, Any]) -> None:
    world, _ = contract
    client = await world.connect()
    reply = await request(client, action="list_invoices", **wrong)
    assert (reply["status"], reply["code"]) == ("error", "invalid_value")


async def test_a_token_lists_its_own_account_alone(guarded: Contract) -> None:
    world, program = guarded
    mine, other = [await program.create_token(account, ("read", "write")) for account in (1, 2)]
    one = await world.connect(authorization=f"Bearer {mine}")
    two = await world.connect(authorization=f"Bearer {other}")
    ids = [(await request(one, action="create_invoice", amount=1, currency="USD"))["data"]["id"]]
    assert await pages(one) == await pages(one, account_id=1) == [ids]
    assert await pages(two) == [[]]
    assert (await request(two, action="list_invoices", account_id=1))["code"] == "forbidden"
    nobody = await world.connect()
    assert (await request(nobody, action="list_invoices"))["code"] == "unauthorized"


@pytest.mark.parametrize("topic", [("account", 1), ("address", "here")])
async def test_a_snapshot_is_a_page_and_a_list_goes_on_from_it(
    contract: Contract, topic: tuple[str, Any]
) -> None:
    world, program = contract
    client = await world.connect()
    ids = await make(client, 105, address="here")
    for invoice in (await request(client, action="list_invoices", limit=3))["data"]:
        await program.update_invoice(UUID(invoice["uid"]), status="cancelled")
    reply = await request(client, action="subscribe", type=topic[0], id=topic[1], snapshot=True)
    data = reply["data"]
    assert list(data) == ["position", "recovered", "snapshot", "next"]
    assert [invoice["id"] for invoice in data["snapshot"]] == ids[3:103]
    field = "account_id" if topic[0] == "account" else "address"
    rest = await request(client, action="list_invoices", **{field: topic[1]}, cursor=data["next"])
    assert [invoice["id"] for invoice in rest["data"]] == ids[103:]


async def test_large_invoices_end_a_page_sooner(contract: Contract) -> None:
    world, _ = contract
    client = await world.connect()
    ids = await make(client, 40, **BIG)
    found = await pages(client, limit=100)
    assert [id_ for page in found for id_ in page] == ids
    assert len(found) == 2, "128 KiB are some 26 of these"
    reply = await request(client, action="subscribe", type="account", id=1, snapshot=True)
    assert PAGE_BYTES < len(msgspec.json.encode(reply["data"]["snapshot"])) < PAGE_BYTES + 10_000


@pytest.mark.parametrize(
    "wanted",
    [
        InvoiceFilter(1, None, queries.OPEN, None, 50),
        InvoiceFilter(1, None, ("expired",), None, 50),
        InvoiceFilter(None, "here", queries.OPEN, None, 50),
        InvoiceFilter(1, None, None, 15_000, 50),
        InvoiceFilter(None, None, ("expired",), None, 50),
        InvoiceFilter(None, None, None, None, 50),
        InvoiceFilter(1, "mine", None, None, 50),
        InvoiceFilter(2, "here", None, None, 50),
    ],
)
def test_a_page_costs_what_it_holds_whatever_the_statistics_say(conninfo: str, wanted: InvoiceFilter) -> None:
    with psycopg.connect(conninfo, autocommit=True) as connection:
        prepare(connection)
        for _ in range(6):  # so that the plan is made before there is anything
            queries.list_invoices(connection, wanted)
        connection.execute("ALTER TABLE invoices SET (autovacuum_enabled = off)")
        connection.execute(
            "INSERT INTO invoices (account_id, amount, currency, status, address)"
            " SELECT 1, 1, 'USD', CASE WHEN n % 1000 = 0 THEN 'unpaid' WHEN n = 5 THEN 'expired'"
            " ELSE 'paid' END, 'here'"
            " FROM generate_series(1, 20000) n"
        )
        connection.execute("INSERT INTO accounts DEFAULT VALUES")
        connection.execute(
            "INSERT INTO invoices (account_id, amount, currency, address)"
            " VALUES (1, 1, 'USD', 'mine'), (2, 1, 'USD', 'here')"
        )
        with connection.transaction():
            before = rows_read(connection)
            page = queries.list_invoices(connection, wanted)
            assert page.items != msgspec.Raw(b"[]")
            assert rows_read(connection) - before < 500


def rows_read(connection: psycopg.Connection[Any], table: str = "invoices") -> int:
    ((rows,),) = connection.execute(
        "SELECT idx_tup_fetch + seq_tup_read FROM pg_stat_xact_user_tables WHERE relname = %s", [table]
    )
    return int(rows)


# Prices


def price(id_: int, account: int, pair: tuple[str, str], value: int, since: int) -> msgspec.Raw:
    currency, base = pair
    return msgspec.Raw(
        msgspec.json.encode(
            {
                "id": id_,
                "currency": currency,
                "amount": value,
                "account_id": account,
                "createdAt": "",
                "updatedAt": f"{since:09}",
                "base_currency": base,
                "value": value,
            }
        )
    )


STEPS = st.lists(
    st.tuples(
        st.integers(1, 12),
        st.integers(1, 3),
        st.sampled_from(["AAA", "BBB", "CCC"]),
        st.sampled_from(["USD", "EUR"]),
        st.booleans(),
    ),
    max_size=40,
)


@given(STEPS)
def test_a_book_that_follows_the_log_is_the_one_that_would_be_read(steps: list[Any]) -> None:
    book = Book()
    rows: dict[int, tuple[int, str, str, int]] = {}
    for since, (id_, account, currency, base, goes) in enumerate(steps):
        if goes:
            book.drop(id_)
            rows.pop(id_, None)
        elif all((a, c, b) != (account, currency, base) or i == id_ for i, (a, c, b, _) in rows.items()):
            rows[id_] = (account, currency, base, since)
            book.put(price(id_, account, (currency, base), since + 1, since))
    assert len(book) == len(rows)
    for account in (None, 1, 2, 3):
        latest: dict[Any, int] = {}
        for id_, (_, currency, base, since) in rows.items():
            known = latest.get((currency, base))
            if known is None or rows[known][3] < since:
                latest[currency, base] = id_
        own = {row[1:3]: id_ for id_, row in rows.items() if row[0] == account}
        listed = msgspec.json.decode(book.page(account, Cursor("*", 0)).items)
        assert [one["id"] for one in listed] == sorted({*own.values(), *latest.values()})
        for (currency, base), id_ in {**latest, **own}.items():
            found = book.find_rate(currency, base, account)
            assert found is not None
            assert found.value == rows[id_][3] + 1
        of_one = msgspec.json.decode(book.page(account, Cursor("AAA", 0)).items)
        assert [one["id"] for one in of_one] == [one["id"] for one in listed if one["currency"] == "AAA"]


def test_pages_of_prices_are_bounded_and_together_all_of_them() -> None:
    book = Book(price(id_, 1 + id_ % 2, (f"C{id_}", "USD"), 1, id_) for id_ in range(1, 2 * PAGE))
    found: list[int] = []
    cursor: str | None = "*.0"
    count = 0
    while cursor is not None:
        page = book.page(1, Cursor.parse(cursor, r"\*"))
        assert len(page.items) < PAGE_BYTES + 1000
        found += [one["id"] for one in msgspec.json.decode(page.items)]
        cursor = page.next
        count += 1
    assert found == list(range(1, 2 * PAGE))
    assert count > 1


async def test_prices_of_others_are_listed_where_they_are_the_latest_of_their_pair(guarded: Contract) -> None:
    world, program = guarded
    clients = []
    for account in (1, 2):
        token = await program.create_token(account, ("read", "process"))
        clients.append(await world.connect(authorization=f"Bearer {token}"))
    one, two = clients
    for client, value in ((one, 5), (two, 6), (two, 7)):
        await request(client, action="set_price", currency="XYZ", base_currency="USD", value=value)
    for client, expected in ((one, [5, 7]), (two, [7])):
        listed = (await request(client, action="list_prices"))["data"]
        assert [one["value"] for one in listed if one["currency"] == "XYZ"] == expected
        reply = await request(client, action="subscribe", type="price", id="XYZ", snapshot=True)
        assert [one["value"] for one in reply["data"]["snapshot"]] == expected
    assert (await request(one, action="list_prices", cursor="all.1"))["code"] == "invalid_value"
