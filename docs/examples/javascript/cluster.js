// What the examples share: finding leaders, telling errors apart, and trying again.

import { fileURLToPath } from "node:url";
import { setTimeout as pause } from "node:timers/promises";
import grpc from "@grpc/grpc-js";
import loader from "@grpc/proto-loader";
import protobuf from "protobufjs";

const PROTO = fileURLToPath(new URL("../../../proto", import.meta.url));
const FILES = ["log", "metadata", "group"].map((name) => `jangada/v1/${name}.proto`);
// 64-bit numbers come as strings: offsets may be beyond what a number holds.
const definition = loader.loadSync(FILES, {
  includeDirs: [PROTO],
  keepCase: true,
  longs: String,
  enums: String,
  defaults: true,
});
export const v1 = grpc.loadPackageDefinition(definition).jangada.v1;

// A call that is not answered by then has an unknown outcome. The broker gives up before: it waits 10 s for a quorum.
const CALL_MS = 15_000;
// How long a call is tried again before the program gives up.
const PATIENCE_MS = 60_000;
// Batches and pieces of batches are smaller than gRPC's usual limit of 4 MiB; a single large record may not be.
const OPTIONS = { "grpc.max_receive_message_length": 25 * 1024 * 1024, "grpc.keepalive_time_ms": 10_000 };

// Reasons that pass by themselves, and after which another broker may be the right one.
const PASSING = new Set([
  "NOT_LEADER", "LEADER_NOT_AVAILABLE", "NOT_READY", "SHUTTING_DOWN", "STALE_LEADER_EPOCH", "UNKNOWN_LEADER_EPOCH",
  "PARTITION_BUSY", "BROKER_BUSY", "DISK_FULL", "QUORUM_TIMEOUT", "STORE_FENCED", "TOO_MANY_STREAMS", "GROUP_CHANGED",
  "UNKNOWN_PARTITION",
]);

// As much of google.rpc.Status and its details as is needed here.
const details = protobuf.parse(`
  syntax = "proto3";
  message Any { string type_url = 1; bytes value = 2; }
  message Status { int32 code = 1; string message = 2; repeated Any details = 3; }
  message ErrorInfo { string reason = 1; string domain = 2; map<string, string> metadata = 3; }
  message Duration { int64 seconds = 1; int32 nanos = 2; }
  message RetryInfo { Duration retry_delay = 1; }
`, { keepCase: true }).root;

// The reason of an error, its metadata, and the milliseconds after which to try again, if it says.
export function explain(error) {
  const said = { reason: "", metadata: {}, retryMs: undefined };
  for (const bytes of error.metadata?.get("grpc-status-details-bin") ?? []) {
    for (const { type_url, value } of details.lookupType("Status").decode(bytes).details) {
      if (type_url.endsWith("google.rpc.ErrorInfo")) {
        const { reason, metadata } = details.lookupType("ErrorInfo").decode(value);
        Object.assign(said, { reason, metadata });
      } else if (type_url.endsWith("google.rpc.RetryInfo")) {
        const { retry_delay } = details.lookupType("RetryInfo").decode(value);
        said.retryMs = Number(retry_delay.seconds) * 1_000 + retry_delay.nanos / 1e6;
      }
    }
  }
  return said;
}

// Whether the same call can succeed later. A connection that failed has no reason; its outcome is unknown.
function mayPass(error) {
  const { reason } = explain(error);
  const connectionFailed = [grpc.status.UNAVAILABLE, grpc.status.DEADLINE_EXCEEDED].includes(error.code);
  return PASSING.has(reason) || (reason === "" && connectionFailed);
}

export class Cluster {
  constructor(brokers) {
    this.seeds = brokers.split(",").map((address) => address.trim());
    this.clients = new Map();
    this.image = undefined;
  }

  // Calls a method of a broker, as a promise.
  call(address, service, method, request, ms = CALL_MS) {
    const key = `${address} ${service}`;
    if (!this.clients.has(key)) {
      this.clients.set(key, new v1[service](address, grpc.credentials.createInsecure(), OPTIONS));
    }
    const client = this.clients.get(key);
    return new Promise((resolve, reject) => {
      client[method](request, { deadline: Date.now() + ms }, (error, answer) => (error ? reject(error) : resolve(answer)));
    });
  }

  close() {
    for (const client of this.clients.values()) client.close();
  }

  // Asks one broker after the other for the topic's metadata.
  async refresh(topic) {
    const known = this.image?.brokers.map((broker) => broker.address) ?? [];
    let last;
    for (const address of [...known, ...this.seeds]) {
      try {
        this.image = await this.call(address, "MetadataService", "GetMetadata", { topics: [topic] }, 2_000);
        return this.image;
      } catch (error) {
        last = error;
      }
    }
    throw last;
  }

  async describe(topic) {
    const { topics } = await this.refresh(topic);
    if (topics.length === 0) {
      throw new Error(`topic ${topic} does not exist: create it with \`jangada topic create ${topic}\``);
    }
    return topics[0];
  }

  // Calls a method of LogService at the partition's leader until it succeeds or fails for good.
  onLeader(topic, partition, method, request) {
    const attempt = async () => {
      if (!this.image?.topics.some((known) => known.name === topic)) await this.refresh(topic);
      const known = this.image.topics.find((known) => known.name === topic);
      const leader = this.image.brokers.find((broker) => broker.broker_id === known?.partitions[partition]?.leader_id);
      return leader && this.call(leader.address, "LogService", method, request);
    };
    return this.until(attempt, () => this.refresh(topic), `${topic}/${partition}`);
  }

  // Calls a method of GroupService at the broker that coordinates the group.
  onCoordinator(group, method, request) {
    const attempt = async () => {
      const { address } = await this.call(this.seeds[0], "GroupService", "FindCoordinator", { group });
      return this.call(address, "GroupService", method, request);
    };
    return this.until(attempt, async () => this.seeds.push(this.seeds.shift()), `group ${group}`);
  }

  async until(attempt, lookAround, what) {
    const giveUp = Date.now() + PATIENCE_MS;
    for (;;) {
      let problem = "there is no leader at the moment";
      let delay = 200;
      try {
        const answer = await attempt();
        if (answer !== undefined) return answer;
      } catch (error) {
        if (!mayPass(error) || Date.now() > giveUp) throw error;
        problem = error.details;
        delay = explain(error).retryMs ?? delay;
      }
      if (Date.now() > giveUp) throw new Error(`${what}: ${problem}; gave up after ${PATIENCE_MS} ms`);
      console.error(`${what}: ${problem}; trying again`);
      await pause(delay);
      // No broker answers: the next round asks again.
      await lookAround().catch(() => {});
    }
  }
}
