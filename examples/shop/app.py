"""The shop's API. It knows nothing of batches."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Depends, FastAPI, Header, HTTPException, Path as InPath, Query, Request, Response
from fastapi.responses import JSONResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from examples.shop.models import Category, Credentials, Item, NewItem, NewOrder, Order, Page, Sales, Token, User
from examples.shop.store import Conflict, Missing, Row, Store

Id = Annotated[int, InPath(ge=1, le=2**63 - 1)]

router = APIRouter(prefix="/api")


async def opened_store(request: Request) -> Store:
    store: Store = request.app.state.store
    return store


OpenedStore = Annotated[Store, Depends(opened_store)]


def signed_in(store: OpenedStore, credentials: Annotated[HTTPAuthorizationCredentials, Depends(HTTPBearer())]) -> Row:
    try:
        return store.user_of(credentials.credentials)
    except Missing:
        raise HTTPException(401, "The token is not valid.", {"WWW-Authenticate": "Bearer"}) from None


SignedIn = Annotated[Row, Depends(signed_in)]


@router.get("/items")
def list_items(
    store: OpenedStore,
    q: Annotated[str, Query(max_length=100, description="Part of the name.")] = "",
    category: str | None = None,
    page: Annotated[int, Query(ge=1, le=10**6)] = 1,
    size: Annotated[int, Query(ge=1, le=100)] = 20,
) -> Page:
    found = store.items(search=q, category=category, offset=(page - 1) * size, limit=size)
    return Page(items=[Item(**row) for row in found], total=store.count(search=q, category=category), page=page)


@router.post("/items", status_code=201)
def create_item(item: NewItem, store: OpenedStore, response: Response) -> Item:
    created = store.add_item(item.model_dump())
    response.headers["Location"] = f"/api/items/{created['id']}"
    return Item(**created)


@router.get("/items/{item_id}", response_model=Item)
def get_item(
    item_id: Id, store: OpenedStore, response: Response, if_none_match: Annotated[str, Header()] = ""
) -> Item | Response:
    item = store.item(item_id)
    etag = f'"{item["id"]}.{item["revision"]}"'
    if etag in if_none_match or if_none_match == "*":
        return Response(status_code=304, headers={"ETag": etag})
    response.headers["ETag"] = etag
    return Item(**item)


@router.put("/items/{item_id}")
def replace_item(item_id: Id, item: NewItem, store: OpenedStore, user: SignedIn) -> Item:
    return Item(**store.replace_item(item_id, item.model_dump()))


@router.delete("/items/{item_id}", status_code=204)
def remove_item(item_id: Id, store: OpenedStore, user: SignedIn) -> None:
    store.remove_item(item_id)


@router.get("/items/{item_id}/image", response_class=Response, responses={200: {"content": {"image/png": {}}}})
def get_image(item_id: Id, store: OpenedStore) -> Response:
    return Response(store.image(item_id), media_type="image/png")


@router.get("/categories")
def list_categories(store: OpenedStore) -> list[Category]:
    return [Category(**row) for row in store.categories()]


@router.post("/users", status_code=201)
def create_user(credentials: Credentials, store: OpenedStore) -> User:
    return User(**store.add_user(credentials.name, credentials.password))


@router.post("/login")
def login(credentials: Credentials, store: OpenedStore) -> Token:
    try:
        return Token(token=store.login(credentials.name, credentials.password))
    except Missing:
        raise HTTPException(401, "The name or the password is wrong.", {"WWW-Authenticate": "Bearer"}) from None


@router.get("/users/me")
def me(user: SignedIn) -> User:
    return User(**user)


@router.post("/orders", status_code=201)
def create_order(order: NewOrder, store: OpenedStore, user: SignedIn, response: Response) -> Order:
    quantities: dict[int, int] = {}
    for line in order.lines:
        quantities[line.item_id] = quantities.get(line.item_id, 0) + line.quantity
    created = store.order(user["id"], quantities)
    response.headers["Location"] = f"/api/orders/{created['id']}"
    return Order(**created)


@router.get("/orders/{order_id}")
def get_order(order_id: Id, store: OpenedStore, user: SignedIn) -> Order:
    return Order(**store.order_of(user["id"], order_id))


@router.get("/reports/sales")
def sales(store: OpenedStore) -> list[Sales]:
    time.sleep(0.4)  # stands for a query over years of orders
    return [Sales(**row) for row in store.sales()]


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Open the database that SHOP_DATABASE names, else one that is gone when the shop closes."""
    with tempfile.TemporaryDirectory(prefix="shop-") as folder:
        app.state.store = Store(Path(os.environ.get("SHOP_DATABASE") or Path(folder, "shop.db")))
        yield


async def missing(request: Request, error: Exception) -> JSONResponse:
    return JSONResponse({"detail": "Not Found"}, 404)


async def conflict(request: Request, error: Exception) -> JSONResponse:
    return JSONResponse({"detail": str(error)}, 409)


def create_app() -> FastAPI:
    app = FastAPI(title="Shop", lifespan=lifespan)
    app.include_router(router)
    app.add_exception_handler(Missing, missing)
    app.add_exception_handler(Conflict, conflict)
    return app


app = create_app()
