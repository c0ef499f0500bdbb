// A client of the official SDK for Node: prints one JSON document that says what it saw.
import fs from "node:fs";
import process from "node:process";
import OpenAI, { toFile } from "openai";

const [, , baseURL, filename] = process.argv;
const client = new OpenAI({ baseURL, apiKey: "sk-node", maxRetries: 0 });
const bob = new OpenAI({ baseURL, apiKey: "sk-bob", maxRetries: 0 });
const endpoint = "/v1/chat/completions";

async function ended(batch) {
  while (!["completed", "failed", "expired", "cancelled"].includes(batch.status)) {
    await new Promise((resolve) => setTimeout(resolve, 20));
    batch = await client.batches.retrieve(batch.id);
  }
  return batch;
}

async function create(file) {
  const made = await client.files.create({ file, purpose: "batch" });
  return client.batches.create({ input_file_id: made.id, endpoint, completion_window: "24h" });
}

async function refusal(call) {
  try {
    await call;
    return null;
  } catch (error) {
    return [error.constructor.name, error.status, error.code, error.param, error.type];
  }
}

async function lines(id) {
  const text = await (await client.files.content(id)).text();
  return text.trimEnd().split("\n").map((line) => JSON.parse(line));
}

const done = await ended(await create(fs.createReadStream(filename)));
const invalid = await ended(await create(await toFile(Buffer.from("oops\n"), "bad.jsonl")));
const short = await client.files.create({
  file: await toFile(Buffer.from("x"), "x"),
  purpose: "batch",
  expires_after: { anchor: "created_at", seconds: 3600 },
});
const cancelled = await client.batches.cancel((await create(fs.createReadStream(filename))).id);
const seen = { files: [], batches: [] };
for await (const file of client.files.list({ limit: 2 })) seen.files.push(file.id);
for await (const batch of client.batches.list({ limit: 1 })) seen.batches.push(batch.id);

console.log(
  JSON.stringify({
    done,
    output: await lines(done.output_file_id),
    error: await lines(done.error_file_id),
    invalid,
    short,
    cancelled: (await ended(cancelled)).status,
    ...seen,
    deleted: await client.files.delete(short.id),
    refusals: [
      await refusal(bob.batches.retrieve(done.id)),
      await refusal(bob.files.content(done.output_file_id)),
      await refusal(client.files.retrieve(short.id)),
      await refusal(client.batches.create({ input_file_id: "file-x", endpoint, completion_window: "24h" })),
      await refusal(client.files.create({ file: await toFile(Buffer.from("x"), "x"), purpose: "vision" })),
    ],
  }),
);
