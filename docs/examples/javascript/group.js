// A member of a consumer group: shares a topic's partitions with the other members, and commits how far it is.
//
//     node group.js 127.0.0.1:9400 clicks billing [RECORDS [SESSION_MS]]
//
// Ends after so many records (default: never), leaving the group. Each record is handled before its offset is committed, so
// none is lost, and some may come again after a crash, or when the member was silent for longer than its session and lost its
// partitions.

import { randomUUID } from "node:crypto";
import { Cluster, explain } from "./cluster.js";

const NEWLINE = Buffer.from("\n");
// The group goes on without this member: it was silent for too long, and what it owned belongs to others.
const LOST = ["UNKNOWN_MEMBER", "UNKNOWN_GROUP", "FENCED_MEMBER_EPOCH"];

class Member {
  constructor(cluster, topic, group, topicId, sessionMs) {
    Object.assign(this, { cluster, topic, group, topicId, sessionMs });
    this.begin();
  }

  // Becomes a new member that owns nothing; the next heartbeat joins.
  begin() {
    Object.assign(this, { memberId: randomUUID(), epoch: "0", version: "0", nextHeartbeat: 0 });
    // Where to read next, by partition: exactly what the member owns.
    this.positions = new Map();
  }

  // Begins anew after an error that says that the membership is lost; throws any other.
  lost(error) {
    const { reason } = explain(error);
    if (!LOST.includes(reason)) throw error;
    console.error(`group ${this.group}: the membership is lost (${reason}); joining again`);
    this.begin();
  }

  call(method, request) {
    return this.cluster.onCoordinator(this.group, method, { group: this.group, ...request });
  }

  // Joins, or says that the member lives, and takes up or gives up partitions.
  async heartbeat() {
    if (Date.now() < this.nextHeartbeat) return;
    const request = { member_id: this.memberId, member_epoch: this.epoch, assignment_version: this.version };
    if (this.epoch === "0") {
      const subscription = { topics: [this.topic] };
      Object.assign(request, { client_id: "javascript-example", session_timeout_ms: this.sessionMs, subscription });
    } else {
      const partitions = [...this.positions.keys()].sort((a, b) => a - b);
      request.owned = { topics: partitions.length > 0 ? [{ topic_id: this.topicId, partitions }] : [] };
    }
    let answer;
    try {
      answer = await this.call("Heartbeat", request);
    } catch (error) {
      return this.lost(error);
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

  // Commits what was handled. It is nothing any more when the membership is lost.
  async commit() {
    const offsets = [...this.positions].map(([partition, offset]) => ({
      partition: { topic: this.topic, partition },
      offset: `${offset}`,
    }));
    // An epoch of 0: the membership was lost meanwhile.
    while (offsets.length > 0 && this.epoch !== "0") {
      try {
        await this.call("CommitOffsets", { member_id: this.memberId, member_epoch: this.epoch, offsets });
        return;
      } catch (error) {
        if (explain(error).reason !== "STALE_MEMBER_EPOCH") return this.lost(error);
        // A heartbeat's answer has the newer epoch. What it takes away is still the member's until the next one.
        this.nextHeartbeat = 0;
        await this.heartbeat();
      }
    }
  }

  async leave() {
    try {
      await this.call("Heartbeat", { member_id: this.memberId, member_epoch: -1 });
    } catch (error) {
      if (!LOST.includes(explain(error).reason)) throw error;
    }
  }
}

const [brokers, topic, group, records, sessionMs] = process.argv.slice(2);
const wanted = Number(records ?? Infinity);
const cluster = new Cluster(brokers);
const { topic_id } = await cluster.describe(topic);
const member = new Member(cluster, topic, group, topic_id, Number(sessionMs ?? 45_000));
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
