"""What the shop's API takes and gives. Prices are in cents."""

from typing import Annotated

from pydantic import BaseModel, Field

Name = Annotated[str, Field(min_length=1, max_length=100)]


class NewItem(BaseModel):
    name: Name
    price: int = Field(default=0, ge=0, le=10**9)
    stock: int = Field(default=0, ge=0, le=10**6)
    category: str | None = None


class Item(BaseModel):
    id: int
    name: str
    price: int
    stock: int
    category: str | None


class Page(BaseModel):
    items: list[Item]
    total: int
    page: int


class Category(BaseModel):
    id: int
    name: str


class Credentials(BaseModel):
    name: Name
    password: str = Field(min_length=8, max_length=200)


class User(BaseModel):
    id: int
    name: str


class Token(BaseModel):
    token: str


class OrderLine(BaseModel):
    item_id: int = Field(ge=1, le=2**63 - 1)
    quantity: int = Field(ge=1, le=1000)


class NewOrder(BaseModel):
    lines: list[OrderLine] = Field(min_length=1, max_length=50)


class PricedLine(OrderLine):
    price: int


class Order(BaseModel):
    id: int
    lines: list[PricedLine]
    total: int


class Sales(BaseModel):
    category: str | None
    pieces: int
    revenue: int
