// BullMQ and undici: one job for each delivery, signed as ours are, without history.
// `node bullmq.mjs REDIS_URL URL BODY`: for each number read, queues as many jobs and prints the seconds they took.

import { createHmac } from "node:crypto";
import { createInterface } from "node:readline";
import { Queue, Worker } from "bullmq";
import IORedis from "ioredis";
import { Pool } from "undici";

const [redisUrl, target, body] = process.argv.slice(2);
const CONCURRENCY = 256;
const url = new URL(target);
const pool = new Pool(url.origin, { connections: 64 });
const connect = () => new IORedis(redisUrl, { maxRetriesPerRequest: null });
const queue = new Queue("deliveries", { connection: connect(), defaultJobOptions: { removeOnComplete: true } });
const key = Buffer.alloc(32, 7);

const hmac = (data) => createHmac("sha256", key).update(data);

async function deliver(job) {
  const seconds = Math.floor(Date.now() / 1000);
  const response = await pool.request({
    path: url.pathname,
    method: "POST",
    headers: {
      "Content-Type": "application/json",
      "webhook-id": job.id,
      "webhook-timestamp": String(seconds),
      "webhook-signature": `v1,${hmac(`${job.id}.${seconds}.${job.data.body}`).digest("base64")}`,
      "X-Hub-Signature-256": `sha256=${hmac(job.data.body).digest("hex")}`,
    },
    body: job.data.body,
  });
  await response.body.dump();
  if (response.statusCode !== 200) throw new Error(String(response.statusCode));
}

for await (const line of createInterface({ input: process.stdin })) {
  const count = Number(line);
  for (let start = 0; start < count; start += 1000) {
    const jobs = Array.from({ length: Math.min(1000, count - start) }, () => ({ name: "deliver", data: { body } }));
    await queue.addBulk(jobs);
  }
  let done = 0;
  const worker = new Worker("deliveries", deliver, { connection: connect(), concurrency: CONCURRENCY, autorun: false });
  const began = performance.now();
  await new Promise((resolve, reject) => {
    worker.on("completed", () => ++done === count && resolve());
    worker.on("failed", (_, error) => reject(error));
    worker.run();
  });
  console.log((performance.now() - began) / 1000);
  await worker.close();
}
process.exit(0);
