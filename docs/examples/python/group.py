"""A member of a consumer group: shares a topic's partitions with the other members, and commits how far it is.

    python group.py 127.0.0.1:9400 clicks billing [RECORDS [SESSION_MS]]

Ends after so many records (default: never), leaving the group. Each record is handled before its offset is committed, so
none is lost, and some may come again after a crash, or when the member was silent for longer than its session and lost its
partitions.
"""

import sys
import time

import grpc

from cluster import CALL_SECONDS, Cluster, common, details, group, log, new_id


# The group goes on without this member: it was silent for too long, and what it owned belongs to others.
LOST = ("UNKNOWN_MEMBER", "UNKNOWN_GROUP", "FENCED_MEMBER_EPOCH")


class Member:
    def __init__(self, cluster, topic, name, session_ms):
        self.cluster, self.topic, self.name, self.session_ms = cluster, topic, name, session_ms
        self.topic_id = cluster.topic_id(topic)
        self.begin()

    def begin(self):
        """Becomes a new member that owns nothing; the next heartbeat joins."""
        self.member_id = new_id()
        self.epoch, self.version, self.next_heartbeat = 0, 0, 0.0
        # Where to read next, by partition: exactly what the member owns.
        self.positions = {}

    def lost(self, reason):
        print(f"group {self.name}: the membership is lost ({reason}); joining again", file=sys.stderr)
        self.begin()

    def call(self, call):
        return self.cluster.on_coordinator(self.name, call)

    def heartbeat(self):
        """Joins, or says that the member lives, and takes up or gives up partitions."""
        if time.monotonic() < self.next_heartbeat:
            return
        request = group.HeartbeatRequest(
            group=self.name,
            member_id=self.member_id,
            member_epoch=self.epoch,
            assignment_version=self.version,
        )
        if self.epoch == 0:
            request.client_id = "python-example"
            request.session_timeout_ms = self.session_ms
            request.subscription.topics.append(self.topic)
        else:
            request.owned.CopyFrom(self.owned())
        try:
            answer = self.call(lambda service: service.Heartbeat(request, timeout=CALL_SECONDS))
        except grpc.RpcError as error:
            reason = details(error)[0]
            if reason in LOST:
                return self.lost(reason)
            raise
        self.epoch, self.version = answer.member_epoch, answer.assignment_version
        self.next_heartbeat = time.monotonic() + answer.heartbeat_interval_ms / 1000
        if answer.HasField("assignment"):
            self.assign({p for topic in answer.assignment.topics for p in topic.partitions})

    def owned(self):
        partitions = group.TopicPartitions(topic_id=self.topic_id, partitions=sorted(self.positions))
        return group.PartitionSet(topics=[partitions] if self.positions else [])

    def assign(self, given):
        if self.positions.keys() - given:
            self.positions = {p: o for p, o in self.positions.items() if p in given}
            self.next_heartbeat = 0.0  # Others wait for what was given up.
        new = sorted(given - self.positions.keys())
        if not new:
            return
        named = [common.TopicPartition(topic=self.topic, partition=p) for p in new]
        request = group.FetchOffsetsRequest(group=self.name, partitions=named)
        committed = self.call(lambda service: service.FetchOffsets(request, timeout=CALL_SECONDS)).offsets
        for partition, known in zip(new, committed):
            committed = known.offset >= 0
            self.positions[partition] = known.offset if committed else self.earliest(partition, "nothing is committed")

    def earliest(self, partition, why):
        """The first offset that is there: records may be gone from the log's start."""
        request = log.ListOffsetsRequest(
            partition=common.TopicPartition(topic=self.topic, partition=partition), earliest=True
        )
        call = lambda service: service.ListOffsets(request, timeout=CALL_SECONDS)
        offset = self.cluster.on_leader(self.topic, partition, call).offset
        print(f"{self.topic}/{partition}: {why}: reading begins at the first record that is there, {offset}", file=sys.stderr)
        return offset

    def poll(self):
        """Records that came, as (partition, offset, value)."""
        for partition, position in list(self.positions.items()):
            request = log.FetchRequest(
                partition=common.TopicPartition(topic=self.topic, partition=partition),
                offset=position,
                max_wait_ms=50,
                form=common.RECORD_FORM_PLAIN,
            )
            call = lambda service: service.Fetch(request, timeout=CALL_SECONDS)
            try:
                answer = self.cluster.on_leader(self.topic, partition, call)
            except grpc.RpcError as error:
                if details(error)[0] != "OFFSET_OUT_OF_RANGE":
                    raise
                self.positions[partition] = self.earliest(partition, f"there is no offset {position}")
                continue
            for record in answer.records:
                yield partition, record.offset, record.value

    def commit(self):
        """Commits what was handled. It is nothing any more when the membership is lost."""
        offsets = [
            group.PartitionOffset(partition=common.TopicPartition(topic=self.topic, partition=p), offset=o)
            for p, o in self.positions.items()
        ]
        # An epoch of 0: the membership was lost meanwhile.
        while offsets and self.epoch != 0:
            request = group.CommitOffsetsRequest(
                group=self.name, member_id=self.member_id, member_epoch=self.epoch, offsets=offsets
            )
            try:
                self.call(lambda service: service.CommitOffsets(request, timeout=CALL_SECONDS))
                return
            except grpc.RpcError as error:
                reason = details(error)[0]
                if reason in LOST:
                    return self.lost(reason)
                if reason != "STALE_MEMBER_EPOCH":
                    raise
                # A heartbeat's answer has the newer epoch. What it takes away is still the member's until the next one.
                self.next_heartbeat = 0.0
                self.heartbeat()

    def leave(self):
        request = group.HeartbeatRequest(group=self.name, member_id=self.member_id, member_epoch=-1)
        try:
            self.call(lambda service: service.Heartbeat(request, timeout=CALL_SECONDS))
        except grpc.RpcError as error:
            if details(error)[0] not in LOST:
                raise


def main():
    brokers, topic, name = sys.argv[1:4]
    wanted = int(sys.argv[4]) if len(sys.argv) > 4 else sys.maxsize
    session_ms = int(sys.argv[5]) if len(sys.argv) > 5 else 45_000
    member = Member(Cluster(brokers), topic, name, session_ms)
    seen = 0
    try:
        while seen < wanted:
            member.heartbeat()
            for partition, offset, value in member.poll():
                if seen == wanted:
                    break
                sys.stdout.buffer.write(value + b"\n")
                sys.stdout.buffer.flush()
                member.positions[partition] = offset + 1
                seen += 1
            member.commit()
    except KeyboardInterrupt:
        pass
    member.leave()


main()
