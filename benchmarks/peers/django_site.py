"""Django with drf-batch-requests, and no middleware.

Runs in the peers' environment, behind gunicorn. Knows: nothing of ours.
"""

from collections.abc import Callable
from typing import Any

import django
from django.conf import settings
from django.core.handlers.wsgi import WSGIHandler
from django.http import HttpRequest, JsonResponse
from django.urls import path

settings.configure(
    ALLOWED_HOSTS=["127.0.0.1"],
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},  # its view opens a transaction
    MIDDLEWARE=[],  # it would load them anew for every item
    REST_FRAMEWORK={
        "DEFAULT_AUTHENTICATION_CLASSES": [],
        "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
        "UNAUTHENTICATED_USER": None,
    },
    ROOT_URLCONF=__name__,
    SECRET_KEY="none is needed",
)
django.setup()

from drf_batch_requests.views import BatchView  # type: ignore[import-not-found]  # noqa: E402


def read_item(request: HttpRequest, number: int) -> JsonResponse:
    """GET /item/{number}."""
    body = {"id": number, "name": f"item {number}", "price": 19.99, "tags": ["new", "sale"], "in_stock": True}
    return JsonResponse(body)


urlpatterns = [path("item/<int:number>", read_item), path("batch", BatchView.as_view())]
answer = WSGIHandler()


def application(environ: dict[str, Any], start_response: Callable[[str, list[tuple[str, str]]], Any]) -> Any:
    """With a length, which CommonMiddleware would set: gunicorn sends answers without one in chunks."""
    started: list[tuple[str, list[tuple[str, str]]]] = []
    response = answer(environ, lambda status, headers: started.append((status, headers)))
    [(status, headers)] = started
    start_response(status, [*headers, ("Content-Length", str(len(response.content)))])
    return response
