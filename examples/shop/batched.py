"""The shop with a batch endpoint. Serve it from the root of the repository: uvicorn examples.shop.batched:app"""

from batchproxy import BatchMiddleware
from examples.shop.app import create_app

app = create_app()
app.add_middleware(BatchMiddleware, path="/api/batch", base_path="/api")
