// Prints all records of a topic, partition by partition, from the first to the last that is there now.
//
//     node consume.js 127.0.0.1:9400 clicks

import { Cluster } from "./cluster.js";

const NEWLINE = Buffer.from("\n");

// A record without a value, a tombstone, is an empty line.
function print(value) {
  process.stdout.write(Buffer.concat([value ?? Buffer.alloc(0), NEWLINE]));
}

const [brokers, topic] = process.argv.slice(2);
const cluster = new Cluster(brokers);
const { partitions } = await cluster.describe(topic);
for (let index = 0; index < partitions.length; index += 1) {
  const partition = { topic, partition: index };
  const offset = async (position) => {
    const answer = await cluster.onLeader(topic, index, "ListOffsets", { partition, ...position });
    return BigInt(answer.offset);
  };
  let position = await offset({ earliest: true });
  const end = await offset({ latest: true });
  while (position < end) {
    const request = { partition, offset: `${position}`, max_wait_ms: 1_000, form: "RECORD_FORM_PLAIN" };
    const answer = await cluster.onLeader(topic, index, "Fetch", request);
    for (const record of answer.records) {
      if (BigInt(record.offset) < end) print(record.value);
    }
    position = BigInt(answer.next_offset);
  }
}
cluster.close();
