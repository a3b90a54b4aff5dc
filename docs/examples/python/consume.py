"""Prints all records of a topic, partition by partition, from the first to the last that is there now.

    python consume.py 127.0.0.1:9400 clicks
"""

import sys

from cluster import CALL_SECONDS, Cluster, common, log


def main():
    brokers, topic = sys.argv[1:3]
    cluster = Cluster(brokers)
    for index in range(cluster.partitions(topic)):
        partition = common.TopicPartition(topic=topic, partition=index)

        def offset(position):
            request = log.ListOffsetsRequest(partition=partition, **position)
            call = lambda service: service.ListOffsets(request, timeout=CALL_SECONDS)
            return cluster.on_leader(topic, index, call).offset

        position, end = offset({"earliest": True}), offset({"latest": True})
        while position < end:
            request = log.FetchRequest(
                partition=partition, offset=position, max_wait_ms=1_000, form=common.RECORD_FORM_PLAIN
            )
            answer = cluster.on_leader(topic, index, lambda service: service.Fetch(request, timeout=CALL_SECONDS))
            for record in answer.records:
                if record.offset < end:
                    sys.stdout.buffer.write(record.value + b"\n")
            position = answer.next_offset
    sys.stdout.buffer.flush()


main()
