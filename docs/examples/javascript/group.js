// A member of a consumer group: shares a topic's partitions with the other members, and commits how far it is.
//
//     node group.js 127.0.0.1:9400 clicks billing [RECORDS]
//
// Ends after so many records (default: never), leaving the group. Each record is handled before its offset is committed, so
// none is lost, and some may come again after a crash.

import { randomUUID } from "node:crypto";
import { Cluster, explain } from "./cluster.js";

const NEWLINE = Buffer.from("\n");

class Member {
  constructor(cluster, topic, group, topicId) {
    Object.assign(this, { cluster, topic, group, topicId });
    this.join();
  }

  join() {
    Object.assign(this, { memberId: randomUUID(), epoch: "0", version: "0", nextHeartbeat: 0 });
    // Where to read next, by partition: exactly what the member owns.
    this.positions = new Map();
  }

  call(method, request) {
    return this.cluster.onCoordinator(this.group, method, { group: this.group, ...request });
  }

  // Joins, or says that the member lives, and takes up or gives up partitions.
  async heartbeat() {
    if (Date.now() < this.nextHeartbeat) return;
    const request = { member_id: this.memberId, member_epoch: this.epoch, assignment_version: this.version };
    if (this.epoch === "0") {
      Object.assign(request, { client_id: "javascript-example", subscription: { topics: [this.topic] } });
    } else {
      const partitions = [...this.positions.keys()].sort((a, b) => a - b);
      request.owned = { topics: partitions.length > 0 ? [{ topic_id: this.topicId, partitions }] : [] };
    }
    let answer;
    try {
      answer = await this.call("Heartbeat", request);
    } catch (error) {
      // The group went on without this member: what it owned belongs to others. It joins again as another.
      if (["UNKNOWN_MEMBER", "FENCED_MEMBER_EPOCH"].includes(explain(error).reason)) return this.join();
      throw error;
    }
    this.epoch = answer.member_epoch;
    this.version = answer.assignment_version;
    this.nextHeartbeat = Date.now() + answer.heartbeat_interval_ms;
    if (answer.assignment) await this.assign(new Set(answer.assignment.topics.flatMap((topic) => topic.partitions)));
  }

  async assign(given) {
    for (const partition of [...this.positions.keys()].filter((partition) => !given.has(partition))) {
      this.positions.delete(partition);
      this.nextHeartbeat = 0; // Others wait for what was given up.
    }
    const added = [...given].filter((partition) => !this.positions.has(partition));
    if (added.length === 0) return;
    const partitions = added.map((partition) => ({ topic: this.topic, partition }));
    const { offsets } = await this.call("FetchOffsets", { partitions });
    for (const [at, partition] of added.entries()) {
      const committed = BigInt(offsets[at].offset);
      const nothing = "nothing is committed";
      this.positions.set(partition, committed < 0n ? await this.earliest(partition, nothing) : committed);
    }
  }

  // The first offset that is there: records may be gone from the log's start.
  async earliest(partition, why) {
    const request = { partition: { topic: this.topic, partition }, earliest: true };
    const { offset } = await this.cluster.onLeader(this.topic, partition, "ListOffsets", request);
    console.error(`${this.topic}/${partition}: ${why}: reading begins at the first record that is there, ${offset}`);
    return BigInt(offset);
  }

  // Records that came, as [partition, offset, value].
  async *poll() {
    for (const [partition, position] of [...this.positions]) {
      const request = {
        partition: { topic: this.topic, partition },
        offset: `${position}`,
        max_wait_ms: 50,
        form: "RECORD_FORM_PLAIN",
      };
      let answer;
      try {
        answer = await this.cluster.onLeader(this.topic, partition, "Fetch", request);
      } catch (error) {
        if (explain(error).reason !== "OFFSET_OUT_OF_RANGE") throw error;
        this.positions.set(partition, await this.earliest(partition, `there is no offset ${position}`));
        continue;
      }
      for (const record of answer.records) yield [partition, BigInt(record.offset), record.value];
    }
  }

  async commit() {
    const offsets = [...this.positions].map(([partition, offset]) => ({
      partition: { topic: this.topic, partition },
      offset: `${offset}`,
    }));
    if (offsets.length > 0) {
      await this.call("CommitOffsets", { member_id: this.memberId, member_epoch: this.epoch, offsets });
    }
  }

  leave() {
    return this.call("Heartbeat", { member_id: this.memberId, member_epoch: -1 });
  }
}

const [brokers, topic, group, records] = process.argv.slice(2);
const wanted = Number(records ?? Infinity);
const cluster = new Cluster(brokers);
const { topic_id } = await cluster.describe(topic);
const member = new Member(cluster, topic, group, topic_id);
let stopped = false;
process.once("SIGINT", () => (stopped = true));
for (let seen = 0; seen < wanted && !stopped; ) {
  await member.heartbeat();
  for await (const [partition, offset, value] of member.poll()) {
    if (seen === wanted) break;
    // A record without a value, a tombstone, is an empty line.
    process.stdout.write(Buffer.concat([value ?? Buffer.alloc(0), NEWLINE]));
    member.positions.set(partition, offset + 1n);
    seen += 1;
  }
  await member.commit();
}
await member.leave();
cluster.close();
