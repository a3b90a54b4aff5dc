"""Writes the lines of standard input to a topic, each once and in order, whatever happens to brokers meanwhile.

    python produce.py 127.0.0.1:9400,127.0.0.1:9401 clicks < lines.txt
"""

import sys

import grpc

from cluster import CALL_SECONDS, Cluster, common, details, log

LINES_PER_REQUEST = 100


class Producer:
    """An idempotent producer: a request that is sent again is appended once."""

    def __init__(self, cluster, topic):
        self.cluster, self.topic = cluster, topic
        self.sequences = {}
        self.identity = self.init(log.InitProducerRequest())

    def init(self, request):
        # Any broker gives ids; the leader of a partition is one that lives.
        return self.cluster.on_leader(self.topic, 0, lambda service: service.InitProducer(request, timeout=CALL_SECONDS))

    def send(self, partition, values):
        sequence = self.sequences.get(partition, 0)
        request = log.ProduceRequest(
            partition=common.TopicPartition(topic=self.topic, partition=partition),
            records=log.PlainRecords(
                records=[common.Record(value=value) for value in values],
                producer=log.ProducerSequence(
                    producer_id=self.identity.producer_id,
                    producer_epoch=self.identity.producer_epoch,
                    base_sequence=sequence,
                ),
            ),
        )
        try:
            answer = self.cluster.on_leader(
                self.topic, partition, lambda service: service.Produce(request, timeout=CALL_SECONDS)
            )
        except grpc.RpcError as error:
            reason, fields, _ = details(error)
            print(f"{reason} {fields}: {error.details()}", file=sys.stderr)
            raise SystemExit(1)
        self.sequences[partition] = (sequence + len(values)) % 2**31
        return answer


def main():
    brokers, topic = sys.argv[1:3]
    cluster = Cluster(brokers)
    partitions = cluster.partitions(topic)
    producer = Producer(cluster, topic)
    lines = [line.rstrip(b"\n") for line in sys.stdin.buffer]
    for number, start in enumerate(range(0, len(lines), LINES_PER_REQUEST)):
        partition = number % partitions
        answer = producer.send(partition, lines[start : start + LINES_PER_REQUEST])
        print(f"{topic}/{partition}: offsets {answer.base_offset} to {answer.last_offset}", file=sys.stderr)


main()
