// Writes the lines of standard input to a topic, each once and in order, whatever happens to brokers meanwhile.
//
//     node produce.js 127.0.0.1:9400,127.0.0.1:9401 clicks < lines.txt

import { readFileSync } from "node:fs";
import { Cluster, explain } from "./cluster.js";

const LINES_PER_REQUEST = 100;

// An idempotent producer: a request that is sent again is appended once.
class Producer {
  static async start(cluster, topic) {
    const producer = new Producer();
    // Any broker gives ids; the leader of a partition is one that lives.
    const identity = await cluster.onLeader(topic, 0, "InitProducer", {});
    return Object.assign(producer, { cluster, topic, identity, sequences: new Map() });
  }

  async send(partition, values) {
    const sequence = this.sequences.get(partition) ?? 0;
    const { producer_id, producer_epoch } = this.identity;
    const request = {
      partition: { topic: this.topic, partition },
      records: {
        records: values.map((value) => ({ value })),
        producer: { producer_id, producer_epoch, base_sequence: sequence },
      },
    };
    const answer = await this.cluster.onLeader(this.topic, partition, "Produce", request);
    this.sequences.set(partition, (sequence + values.length) % 2 ** 31);
    return answer;
  }
}

const [brokers, topic] = process.argv.slice(2);
const cluster = new Cluster(brokers);
try {
  const { partitions } = await cluster.describe(topic);
  const producer = await Producer.start(cluster, topic);
  // Every byte as it is: a line need not be UTF-8.
  const text = readFileSync(0, "latin1").replace(/\n$/, "");
  const lines = text.split("\n").map((line) => Buffer.from(line, "latin1"));
  for (let number = 0; number * LINES_PER_REQUEST < lines.length; number += 1) {
    const partition = number % partitions.length;
    const values = lines.slice(number * LINES_PER_REQUEST, (number + 1) * LINES_PER_REQUEST);
    const answer = await producer.send(partition, values);
    console.error(`${topic}/${partition}: offsets ${answer.base_offset} to ${answer.last_offset}`);
  }
} catch (error) {
  console.error(explain(error).reason, error.details ?? error.message);
  process.exitCode = 1;
}
cluster.close();
