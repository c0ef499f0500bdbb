// An upstream of Node's own HTTP server, at an open socket: node server.mjs DESCRIPTOR
import { createHash } from "node:crypto";
import { createServer } from "node:http";

const WORDS = ["one ", "two ", "three ", "four ", "fünf"];

const held = new Set(); // answers of /held, until somebody asks for /release

async function read(request) {
  const hash = createHash("sha256");
  let length = 0;
  for await (const piece of request) {
    length += piece.length;
    hash.update(piece);
  }
  return { length, sha256: hash.digest("hex") };
}

const PATHS = {
  "/length": (request, response) => response.end("known before"),
  // The answer that comes just before Node closes: the next request is likely to meet a connection that ends.
  "/idle": (request, response) => setTimeout(() => response.end(), Math.random() * 2 * server.keepAliveTimeout),
  "/chunked": async (request, response) => {
    for (const word of WORDS) {
      response.write(word);
      await new Promise(setImmediate);
    }
    response.end();
  },
  "/trailers": (request, response) => {
    response.writeHead(200, { "content-type": "text/plain", trailer: "x-checksum" });
    response.write("body");
    response.addTrailers({ "x-checksum": "1234" });
    response.end();
  },
  "/early": (request, response) => {
    response.writeEarlyHints({ link: "</style.css>; rel=preload; as=style" });
    response.writeEarlyHints({ link: "</other.css>; rel=preload; as=style" });
    response.writeProcessing();
    response.setHeader("content-type", "text/plain");
    response.end("after three interim answers");
  },
  "/events": (request, response) => {
    response.writeHead(200, { "content-type": "text/event-stream", "cache-control": "no-store" });
    for (let number = 0; number < 3; number += 1) response.write(`id: ${number}\ndata: event ${number}\n\n`);
    response.end();
  },
  "/held": (request, response) => {
    response.writeHead(200, { "content-type": "text/event-stream" });
    response.write("data: first\n\n");
    held.add(response);
    response.on("close", () => held.delete(response));
  },
  "/release": (request, response) => {
    for (const each of held) each.end("data: last\n\n");
    response.end(`${held.size}`);
  },
  "/cookies": (request, response) => {
    response.setHeader("Set-Cookie", ["a=1; Path=/", "b=2; HttpOnly", "c="]);
    response.end();
  },
  "/headers": (request, response) => {
    response.writeHead(200, [["X-Twice", "1"], ["X-Other", "\xe4\xf6"], ["x-twice", "2"], ["X-Empty", ""]].flat());
    response.end();
  },
  "/phrase": (request, response) => response.writeHead(299, "Quite Special").end(),
  "/empty": (request, response) => response.writeHead(204).end(),
  "/unchanged": (request, response) => response.writeHead(304, { etag: '"x"' }).end(),
  "/reset": (request) => request.socket.destroy(),
  "/broken": (request, response) => {
    response.writeHead(200, { "content-type": "text/plain", "content-length": "100" });
    response.write("the beginning", () => request.socket.destroy());
  },
  "/torn": (request, response) => {
    response.writeHead(200, { "content-type": "text/plain" });
    response.write("the beginning", () => request.socket.destroy());
  },
  "/nonsense": (request) => request.socket.end("This is not HTTP.\r\n\r\n"),
  "/refused": (request, response) => response.writeHead(413, { connection: "close" }).end("too large"),
  "/upload": async (request, response) => {
    const { url, method } = request;
    response.setHeader("content-type", "application/json");
    response.end(JSON.stringify({ url, method, ...(await read(request)) }));
  },
};

const server = createServer((request, response) => {
  const path = request.url.split("?")[0];
  const answer = PATHS[path] ?? ((_, other) => other.writeHead(404).end(`no ${request.method} ${request.url}`));
  return answer(request, response);
});
server.keepAliveTimeout = 20; // shorter than any proxy keeps an idle connection
server.listen({ fd: Number(process.argv[2]) });
