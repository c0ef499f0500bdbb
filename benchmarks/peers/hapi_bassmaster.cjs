// hapi with the bassmaster plug-in: items are injected into the server, without sockets.
const Hapi = require("@hapi/hapi");
const Bassmaster = require("bassmaster");

async function main() {
  const server = Hapi.server({ host: "127.0.0.1", port: 0 });
  server.route({
    method: "GET",
    path: "/item/{id}",
    handler: ({ params }) => {
      const id = Number(params.id);
      return { id, name: `item ${id}`, price: 19.99, tags: ["new", "sale"], in_stock: true };
    },
  });
  await server.register(Bassmaster);
  await server.start();
  console.error(`running on http://127.0.0.1:${server.info.port}`);
}

main();
