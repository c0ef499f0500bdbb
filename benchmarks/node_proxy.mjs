// The plain way to batch over a proxy in Node: an agent with kept connections, JSON parsed and written again.
import http from "node:http";

const upstream = Number(process.argv[2]);
const agent = new http.Agent({ keepAlive: true, maxSockets: 100 });

function ask(item) {
  return new Promise((resolve) => {
    const options = { agent, host: "127.0.0.1", port: upstream, method: item.method ?? "GET", path: item.path };
    const request = http.request(options, (answer) => {
      const pieces = [];
      answer.on("data", (piece) => pieces.push(piece));
      answer.on("end", () => {
        const headers = { "content-type": answer.headers["content-type"] };
        resolve({ status: answer.statusCode, headers, body: JSON.parse(Buffer.concat(pieces)) });
      });
    });
    request.on("error", () => resolve({ status: 502 }));
    request.end();
  });
}

const server = http.createServer((request, response) => {
  const pieces = [];
  request.on("data", (piece) => pieces.push(piece));
  request.on("end", async () => {
    const batch = JSON.parse(Buffer.concat(pieces));
    const written = JSON.stringify({ responses: await Promise.all(batch.requests.map(ask)) });
    response.writeHead(200, { "content-type": "application/json", "content-length": Buffer.byteLength(written) });
    response.end(written);
  });
});
server.listen(0, "127.0.0.1", () => console.error(`running on http://127.0.0.1:${server.address().port}`));
