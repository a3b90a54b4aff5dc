"""Writes the batches beside this file: the records of records.json, encoded by other implementations.

    python3 -m venv V && V/bin/pip install kafka-python==3.0.12 aiokafka==0.14.0 confluent-kafka==2.16.1 \
        python-snappy==0.7.3 lz4==4.4.5 zstandard==0.25.0 cramjam==2.14.0 crc32c==2.9
    V/bin/python tests/golden/batches/generate.py

kafka-python and aiokafka have encoders to call. librdkafka (confluent-kafka) has none: it produces to the broker that it mocks within its own
process, and the batch is taken from its system calls, as strace shows them.
"""

import base64
import json
import pathlib
import re
import struct
import subprocess
import sys

HERE = pathlib.Path(__file__).parent
CODECS = {"none": 0, "gzip": 1, "snappy": 2, "lz4": 3, "zstd": 4}


def data(value):
    """Null, text, {"base64": ...}, or {"repeat": [text, times]}."""
    if value is None:
        return None
    if isinstance(value, str):
        return value.encode()
    if "base64" in value:
        return base64.b64decode(value["base64"])
    text, times = value["repeat"]
    return text.encode() * times


def records(codec):
    """Uncompressed, the repeated text would only be a large file."""
    for record in json.loads((HERE / "records.json").read_text()):
        if codec == "none" and "repeat" in (record["value"] or ""):
            continue
        headers = [(key, data(value)) for key, value in record["headers"]]
        yield record["timestamp_ms"], data(record["key"]), data(record["value"]), headers


def kafka_python(codec):
    from kafka.record.default_records import DefaultRecordBatchBuilder

    builder = DefaultRecordBatchBuilder(2, CODECS[codec], 0, -1, -1, -1, 1 << 20)
    for offset, (timestamp, key, value, headers) in enumerate(records(codec)):
        assert builder.append(offset, timestamp, key, value, headers)
    return bytes(builder.build())


def aiokafka(codec):
    from aiokafka.record.default_records import DefaultRecordBatchBuilder

    builder = DefaultRecordBatchBuilder(2, CODECS[codec], 0, -1, -1, -1, 1 << 20)
    for offset, (timestamp, key, value, headers) in enumerate(records(codec)):
        assert builder.append(offset, timestamp, key, value, headers)
    return bytes(builder.build())


def produce_with_librdkafka(codec):
    """Runs in a process of its own, under strace."""
    from confluent_kafka import Producer

    producer = Producer({"test.mock.num.brokers": 1, "linger.ms": 500, "compression.type": codec})
    for timestamp, key, value, headers in records(codec):
        producer.produce("t", value, key, partition=0, timestamp=timestamp, headers=headers)
    assert producer.flush(10) == 0


def librdkafka(codec):
    from crc32c import crc32c

    trace = HERE / "trace"
    arguments = ["strace", "-f", "-xx", "-s", "4000000", "-e", "trace=sendmsg", "-o", str(trace)]
    subprocess.run(arguments + [sys.executable, __file__, codec], check=True)
    batches = []
    for line in trace.read_text().splitlines():
        parts = re.findall(r'iov_base="((?:\\x[0-9a-f]{2})*)"', line)
        sent = bytes.fromhex("".join(parts).replace("\\x", ""))
        for at in range(len(sent) - 61):
            size = 12 + struct.unpack_from(">i", sent, at + 8)[0]
            if sent[at + 16] != 2 or not 61 <= size <= len(sent) - at:
                continue
            batch = sent[at : at + size]
            if crc32c(batch[21:]) == struct.unpack_from(">I", batch, 17)[0]:
                batches.append(batch)
    trace.unlink()
    (batch,) = batches
    return batch


def check(batch, codec):
    """What kafka-python reads is what records.json says."""
    from kafka.record.default_records import DefaultRecordBatch

    read = [(r.timestamp, r.key, r.value, [(k, v) for k, v in r.headers]) for r in DefaultRecordBatch(batch)]
    sent = list(records(codec))
    assert read == sent, next(pair for pair in zip(read, sent) if pair[0] != pair[1])


if len(sys.argv) == 2:
    produce_with_librdkafka(sys.argv[1])
else:
    for encode in (kafka_python, aiokafka, librdkafka):
        for codec in CODECS:
            batch = encode(codec)
            check(batch, codec)
            name = f"{encode.__name__.replace('_', '-')}-{codec}.bin"
            (HERE / name).write_bytes(batch)
            print(name, len(batch))
