"""The shop's data. Knows SQL; must not know HTTP."""

from __future__ import annotations

import hashlib
import secrets
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from examples.shop.pictures import png

Row = dict[str, Any]

SCHEMA = Path(__file__).with_name("schema.sql")

ITEM = "id, name, price, stock, category, revision"

# What is in a new shop: names, and the price in cents of each.
GOODS = {
    "books": {"Notes on the Engine": 2400, "Sketches": 1850, "A Short History of Looms": 3100},
    "tools": {"Hammer": 1999, "Fretsaw": 1450, "Spirit level": 2275, "Pliers": 1280},
    "kitchen": {"Teapot": 3490, "Whisk": 790, "Bread knife": 2660},
    "garden": {"Trowel": 890, "Watering can": 2150},
}
COLOURS = {"books": (178, 92, 54), "tools": (70, 96, 130), "kitchen": (196, 158, 60), "garden": (84, 140, 88)}


class Missing(Exception):
    """There is no such thing."""


class Conflict(Exception):
    """It is there, but it does not allow this; the text says why."""


class Store:
    """Opens a connection for each use, so that threads and parallel requests need no further care."""

    def __init__(self, file: Path) -> None:
        self._file = file
        if not file.exists():
            self._create()

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        with closing(sqlite3.connect(self._file, isolation_level=None, timeout=10)) as connection:
            connection.row_factory = sqlite3.Row
            connection.execute("pragma foreign_keys = on")
            yield connection

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        with self._reading() as connection:
            connection.execute("begin immediate")  # one writer at a time: nobody else takes the last piece
            with connection:
                yield connection

    def items(self, *, search: str = "", category: str | None = None, offset: int = 0, limit: int = 20) -> list[Row]:
        where, values = _matching(search, category)
        return self._all(f"select {ITEM} from items {where} order by id limit ? offset ?", *values, limit, offset)

    def count(self, *, search: str = "", category: str | None = None) -> int:
        where, values = _matching(search, category)
        return int(self._one(f"select count(*) as number from items {where}", *values)["number"])

    def item(self, item_id: int) -> Row:
        return self._one(f"select {ITEM} from items where id = ?", item_id)

    def add_item(self, fields: Row) -> Row:
        statement = f"insert into items (name, price, stock, category) values (?, ?, ?, ?) returning {ITEM}"
        return self._change(statement, *_item_values(fields), refusal="there is no such category")

    def replace_item(self, item_id: int, fields: Row) -> Row:
        statement = "update items set name = ?, price = ?, stock = ?, category = ?, revision = revision + 1"
        statement += f" where id = ? returning {ITEM}"
        return self._change(statement, *_item_values(fields), item_id, refusal="there is no such category")

    def remove_item(self, item_id: int) -> None:
        self._change("delete from items where id = ? returning id", item_id, refusal="it has been ordered")

    def image(self, item_id: int) -> bytes:
        return bytes(self._one("select image from items where id = ? and image is not null", item_id)["image"])

    def categories(self) -> list[Row]:
        return self._all("select id, name from categories order by id")

    def add_user(self, name: str, password: str) -> Row:
        salt = secrets.token_bytes(16)
        statement = "insert into users (name, salt, password) values (?, ?, ?) returning id, name"
        return self._change(statement, name, salt, _scrypt(password, salt), refusal="the name is taken")

    def login(self, name: str, password: str) -> str:
        """A new token for the user, to be shown once: only its digest is kept."""
        user = self._one("select id, salt, password from users where name = ?", name)
        if not secrets.compare_digest(user["password"], _scrypt(password, user["salt"])):
            raise Missing
        token = secrets.token_urlsafe(24)
        statement = "insert into tokens (digest, user_id) values (?, ?) returning user_id"
        self._change(statement, _sha256(token), user["id"])
        return token

    def user_of(self, token: str) -> Row:
        statement = "select id, name from users join tokens on user_id = id where digest = ?"
        return self._one(statement, _sha256(token))

    def order(self, user_id: int, quantities: dict[int, int]) -> Row:
        """Take the pieces out of the stock, all of them or none."""
        with self._writing() as connection:
            order_id = connection.execute("insert into orders (user_id) values (?)", (user_id,)).lastrowid
            for item_id, quantity in quantities.items():
                price = _take(connection, item_id, quantity)
                connection.execute("insert into order_lines values (?, ?, ?, ?)", (order_id, item_id, quantity, price))
        return self.order_of(user_id, int(order_id or 0))

    def order_of(self, user_id: int, order_id: int) -> Row:
        order = self._one("select id from orders where id = ? and user_id = ?", order_id, user_id)
        lines = self._all("select item_id, quantity, price from order_lines where order_id = ?", order_id)
        total = sum(line["quantity"] * line["price"] for line in lines)
        return {**order, "lines": lines, "total": total}

    def sales(self) -> list[Row]:
        statement = """
            select category, sum(quantity) as pieces, sum(quantity * order_lines.price) as revenue
            from order_lines join items on item_id = items.id group by category order by revenue desc
        """
        return self._all(statement)

    def _all(self, statement: str, *values: object) -> list[Row]:
        with self._reading() as connection:
            return [dict(row) for row in connection.execute(statement, values)]

    def _one(self, statement: str, *values: object) -> Row:
        rows = self._all(statement, *values)
        if not rows:
            raise Missing
        return rows[0]

    def _change(self, statement: str, *values: object, refusal: str = "") -> Row:
        """Change one row, and return it; `refusal` says what it means if the schema does not allow it."""
        try:
            with self._writing() as connection:
                row = connection.execute(statement, values).fetchone()
        except sqlite3.IntegrityError as error:
            raise Conflict(refusal) from error
        if row is None:
            raise Missing
        return dict(row)

    def _create(self) -> None:
        with self._reading() as connection:
            connection.execute("pragma journal_mode = wal")  # readers do not wait for a writer
            connection.executescript(SCHEMA.read_text("utf-8"))
        with self._writing() as connection:
            connection.executemany("insert into categories (name) values (?)", [(name,) for name in GOODS])
            statement = "insert into items (name, price, stock, category, image) values (?, ?, ?, ?, ?)"
            connection.executemany(statement, _seed())
        self.add_user("ada", "lovelace")


def _matching(search: str, category: str | None) -> tuple[str, list[object]]:
    """The condition of a search, and its values."""
    text = search.replace("\\", r"\\").replace("%", r"\%").replace("_", r"\_")
    if category is None:
        return r"where name like ? escape '\'", [f"%{text}%"]
    return r"where name like ? escape '\' and category = ?", [f"%{text}%", category]


def _item_values(fields: Row) -> tuple[object, ...]:
    return fields["name"], fields["price"], fields["stock"], fields["category"]


def _take(connection: sqlite3.Connection, item_id: int, quantity: int) -> int:
    """Take pieces of one item out of the stock; the price of one."""
    item = connection.execute("select name, price, stock from items where id = ?", (item_id,)).fetchone()
    if item is None:
        raise Conflict(f"there is no item {item_id}")
    if item["stock"] < quantity:
        raise Conflict(f"only {item['stock']} of {item['name']} in stock")
    connection.execute("update items set stock = stock - ?, revision = revision + 1 where id = ?", (quantity, item_id))
    return int(item["price"])


def _scrypt(password: str, salt: bytes) -> bytes:
    return hashlib.scrypt(password.encode(), salt=salt, n=2**14, r=8, p=1)


def _sha256(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


def _seed() -> Iterable[tuple[object, ...]]:
    for category, goods in GOODS.items():
        for name, price in goods.items():
            yield name, price, 25, category, png(COLOURS[category])
