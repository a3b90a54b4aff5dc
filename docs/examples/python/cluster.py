"""What the examples share: finding leaders, telling errors apart, and trying again.

The contract's .proto files are compiled when this module is imported; a project of its own would run
`python -m grpc_tools.protoc` once instead, and keep what that writes.
"""

import sys
import time
import uuid
from pathlib import Path

import grpc
from google.rpc import error_details_pb2, status_pb2

PROTO = Path(__file__).resolve().parents[3] / "proto"
sys.path.append(str(PROTO))

common, _ = grpc.protos_and_services("jangada/v1/common.proto")
metadata, metadata_grpc = grpc.protos_and_services("jangada/v1/metadata.proto")
admin, admin_grpc = grpc.protos_and_services("jangada/v1/admin.proto")
log, log_grpc = grpc.protos_and_services("jangada/v1/log.proto")
group, group_grpc = grpc.protos_and_services("jangada/v1/group.proto")

# A call that is not answered by then has an unknown outcome. The broker gives up before: it waits 10 s for a quorum.
CALL_SECONDS = 15
# How long a call is tried again before the program gives up.
PATIENCE_SECONDS = 60
# Batches and pieces of batches are smaller than gRPC's usual limit of 4 MiB; a single large record may not be.
MESSAGE_BYTES = 25 * 1024 * 1024

# Reasons that pass by themselves, and after which another broker may be the right one.
PASSING = {
    "NOT_LEADER", "LEADER_NOT_AVAILABLE", "NOT_READY", "SHUTTING_DOWN", "STALE_LEADER_EPOCH", "UNKNOWN_LEADER_EPOCH",
    "PARTITION_BUSY", "BROKER_BUSY", "DISK_FULL", "QUORUM_TIMEOUT", "STORE_FENCED", "TOO_MANY_STREAMS", "GROUP_CHANGED",
    "UNKNOWN_PARTITION",
}


def details(error):
    """The reason of an error, its metadata, and the seconds after which to try again (None: it does not say)."""
    reason, fields, delay = "", {}, None
    for key, value in error.trailing_metadata() or ():
        if key != "grpc-status-details-bin":
            continue
        for detail in status_pb2.Status.FromString(value).details:
            if detail.Is(error_details_pb2.ErrorInfo.DESCRIPTOR):
                info = error_details_pb2.ErrorInfo()
                detail.Unpack(info)
                reason, fields = info.reason, dict(info.metadata)
            elif detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR):
                retry = error_details_pb2.RetryInfo()
                detail.Unpack(retry)
                delay = retry.retry_delay.ToTimedelta().total_seconds()
    return reason, fields, delay


def may_pass(error):
    """Whether the same call can succeed later. A connection that failed has no reason; its outcome is unknown."""
    reason, _, _ = details(error)
    connection_failed = error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
    return reason in PASSING or (not reason and connection_failed)


class Cluster:
    """Channels to all brokers, and who leads which partition."""

    def __init__(self, brokers):
        self.seeds = [address.strip() for address in brokers.split(",")]
        self.channels = {}
        self.image = None

    def channel(self, address):
        if address not in self.channels:
            options = [("grpc.max_receive_message_length", MESSAGE_BYTES), ("grpc.keepalive_time_ms", 10_000)]
            self.channels[address] = grpc.insecure_channel(address, options=options)
        return self.channels[address]

    def refresh(self, topic):
        """Asks one broker after the other for the topic's metadata."""
        known = [broker.address for broker in self.image.brokers] if self.image else []
        last = None
        for address in [*known, *self.seeds]:
            try:
                service = metadata_grpc.MetadataServiceStub(self.channel(address))
                self.image = service.GetMetadata(metadata.GetMetadataRequest(topics=[topic]), timeout=2)
                return self.image
            except grpc.RpcError as error:
                last = error
        raise last

    def describe(self, topic):
        image = self.refresh(topic)
        if not image.topics:
            raise SystemExit(f"topic {topic} does not exist: create it with `jangada topic create {topic}`")
        return image.topics[0]

    def topic_id(self, topic):
        return self.describe(topic).topic_id

    def partitions(self, topic):
        return len(self.describe(topic).partitions)

    def leader(self, topic, partition):
        """The address of the partition's leader; None while it has none."""
        if self.image is None or not any(known.name == topic for known in self.image.topics):
            self.refresh(topic)
        for known in self.image.topics:
            if known.name == topic and partition < len(known.partitions):
                leader = known.partitions[partition].leader_id
                return next((broker.address for broker in self.image.brokers if broker.broker_id == leader), None)
        return None

    def on_leader(self, topic, partition, call):
        """Calls `call(LogService)` at the partition's leader until it succeeds or fails for good."""

        def attempt():
            address = self.leader(topic, partition)
            return call(log_grpc.LogServiceStub(self.channel(address))) if address else None

        return self.until(attempt, lambda: self.refresh(topic), f"{topic}/{partition}")

    def on_coordinator(self, name, call):
        """Calls `call(GroupService)` at the broker that coordinates the group."""

        def attempt():
            finder = group_grpc.GroupServiceStub(self.channel(self.seeds[0]))
            found = finder.FindCoordinator(group.FindCoordinatorRequest(group=name), timeout=CALL_SECONDS)
            return call(group_grpc.GroupServiceStub(self.channel(found.address)))

        return self.until(attempt, lambda: self.seeds.append(self.seeds.pop(0)), f"group {name}")

    def until(self, attempt, look_around, what):
        give_up = time.monotonic() + PATIENCE_SECONDS
        while True:
            problem, delay = "there is no leader at the moment", None
            try:
                answer = attempt()
                if answer is not None:
                    return answer
            except grpc.RpcError as error:
                if not may_pass(error) or time.monotonic() > give_up:
                    raise
                problem, delay = error.details(), details(error)[2]
            if time.monotonic() > give_up:
                raise SystemExit(f"{what}: {problem}; gave up after {PATIENCE_SECONDS} s")
            print(f"{what}: {problem}; trying again", file=sys.stderr)
            time.sleep(delay or 0.2)
            try:
                look_around()
            except grpc.RpcError:
                pass  # No broker answers: the next round asks again.


def new_id():
    return str(uuid.uuid4())
