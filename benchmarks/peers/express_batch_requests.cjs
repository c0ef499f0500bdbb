// express with express-batch-requests, which sends every item to the server itself, over a new connection.
const express = require("express");
const batch = require("express-batch-requests");

const app = express();
app.use(express.json());
app.get("/item/:id", (request, response) => {
  const id = Number(request.params.id);
  response.json({ id, name: `item ${id}`, price: 19.99, tags: ["new", "sale"], in_stock: true });
});
app.post("/batch", batch);

const server = app.listen(0, "127.0.0.1", () =>
  console.error(`running on http://127.0.0.1:${server.address().port}`),
);
