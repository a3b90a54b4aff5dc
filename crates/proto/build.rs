//! Generates the gRPC contract from `/proto` with protox, so that no `protoc` is needed.

use std::path::PathBuf;

use prost::Message as _;

const FILES: [&str; 10] = [
    "jangada/v1/common.proto",
    "jangada/v1/log.proto",
    "jangada/v1/metadata.proto",
    "jangada/v1/admin.proto",
    "jangada/v1/group.proto",
    "jangada/v1/queue.proto",
    "jangada/v1/queue_admin.proto",
    "jangada/v1/exchange.proto",
    "jangada/v1/transaction.proto",
    "jangada/internal/v1/internal.proto",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = PathBuf::from(std::env::var("CARGO_MANIFEST_DIR")?).join("../../proto");
    for file in FILES {
        println!("cargo::rerun-if-changed={}", root.join(file).display());
    }
    let descriptors = protox::compile(FILES, [&root])?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    // Payloads as shared `Bytes`: decoding them copies nothing.
    tonic_prost_build::configure()
        .bytes(".")
        .codec_path("crate::codec::RoomyCodec")
        .compile_fds(descriptors)?;
    Ok(())
}
